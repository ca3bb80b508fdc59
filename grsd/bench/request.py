"""Checks the arguments of a benchmark before it starts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch

from grsd.support.folders import one_line, writable
from grsd.support.values import EACH_THREAD, MOST_THREADS, between

HAS_IT = "import sys, importlib.util as u; sys.exit(any(u.find_spec(n) is None for n in ('jax', 'neural_tangents')))"


def check_request(device: str, threads: int, folder: Path, neural_tangents: str | None) -> None:
    """Raise ``ValueError`` in one line if ``bench`` cannot run with these arguments."""
    between("bench(threads=...)", threads, 1, MOST_THREADS, EACH_THREAD)
    writable("bench(folder=...)", folder)
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("bench(device=...): there is no CUDA device here")
    if neural_tangents:
        _check_python(neural_tangents)


def _check_python(python: str) -> None:
    expected = "bench(neural_tangents=...): expected a Python that has jax and neural-tangents"
    try:
        code = subprocess.run([python, "-c", HAS_IT], capture_output=True, timeout=60, check=False).returncode  # noqa: S603
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise ValueError(f"{expected}, got {one_line(repr(python), 80)}: {one_line(why)}") from None
    if code:
        raise ValueError(f"{expected}, {one_line(repr(python), 80)} does not; give no PYTHON to have one made")
