"""Runs a function in a process of its own, forked after torch is imported, or a program in a fresh interpreter."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

PACKAGE = Path(__file__).resolve().parents[2]
LATE = ("torch._dynamo", "sympy")  # imported by torch.func at its first call
T = TypeVar("T")


def in_a_process(what: str, function: Callable[..., T], *arguments: object) -> T:
    """``function(*arguments)``; imports happen once, in the server from which the process is forked.

    Exceptions become a ``RuntimeError`` that names ``what``.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__, *LATE])
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(function, *arguments).result()
    except Exception as error:
        raise RuntimeError(f"grsd bench: {what}: {type(error).__name__}: {error}") from error


def in_a_fresh_interpreter(program: Path, arguments: Sequence[str], threads: int) -> dict[str, float]:
    """The last line that the program prints, as JSON. Errors: ``RuntimeError`` with the last line of its stderr."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(PACKAGE)}
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-P", str(program), *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it died without a word"])[-1])
    return json.loads(done.stdout.splitlines()[-1])
