"""The plan of the benchmark and its table. Every call has a process of its own, forked after torch is imported."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import torch

from grsd.bench.neural_tangents import row as neural_tangents_row
from grsd.bench.process import in_a_process
from grsd.bench.request import check_request
from grsd.bench.worker import FLOOR, OURS, RATE, RATE_FLOOR, Case, alone, together
from grsd.support.files import say_swept, write_atomically
from grsd.support.folders import project
from grsd.support.progress import bar
from grsd.support.provenance import provenance

SLOW = 3.0  # seconds of CPU; slower calls are timed once
JACREV = "torch.func jacrev"
SMALL = (
    Case("mlp", 64, "float32", (OURS, "nngeometry", "backpack", "curvlinops", JACREV, FLOOR)),
    Case("mlp", 256, "float32", (OURS, RATE, "nngeometry", JACREV, FLOOR, RATE_FLOOR)),
    Case("cnn", 32, "float32", (OURS, "curvlinops", JACREV, FLOOR)),
    Case("cnn", 128, "float32", (OURS, RATE, "nngeometry", "backpack", JACREV, FLOOR, RATE_FLOOR)),
    Case("cnn, wide", 16, "float32", (OURS, "nngeometry", "backpack", JACREV, FLOOR)),
    Case("transformer", 64, "float32", (OURS, RATE, "nngeometry", "backpack", "curvlinops", JACREV, FLOOR, RATE_FLOOR)),
    Case("mlp", 128, "float64", (OURS, RATE, "eigh alone", "spectrum", "energy budget")),
    Case("mlp", 100, "float64", ("one gradient", "gradient flow to 1/lambda")),
)
LARGE = (
    Case("mlp, narrow", 10_000, "float64", ("krylov budget",), 1),
    Case("resnet18", 64, "float64", (OURS,), 1, "5GiB"),
    Case("resnet18", 64, "float32", (RATE,), 1, "5GiB"),
)
LARGE_CUDA = (
    Case("mlp, narrow", 10_000, "float64", ("krylov budget",), 1),
    Case("resnet18", 1000, "float64", (OURS, RATE), 1),
)
COLUMNS = [
    "problem", "samples", "dtype", "method", "wall_s", "cpu_s", "repeats", "peak_gib", "process_gib",
    "cpu_ratio", "peak_ratio", "memory_limit", "note",
]  # fmt: skip


def bench(
    *,
    large: bool = False,
    device: str = "cpu",
    threads: int = 1,
    folder: Path | None = None,
    neural_tangents: str | None = None,
) -> Path:
    """Run the benchmark and write data/benchmarks/DEVICE.csv and .svg: medians of seconds, peak bytes, ratios.

    Args:
        large: the rows that take minutes instead of the small ones: ResNet-18, and shells without the kernel.
        folder: folder of both files, instead of data/benchmarks.
        neural_tangents: the Python of an environment that has neural-tangents, "" to make one in a temporary folder
            with pip (see ``grsd.bench.neural_tangents``), ``None`` for no such rows.

    Ratios are to the first method of each case. Peers that are not installed are listed as such. Every kernel is
    first compared with this package's. Peak memory is that of a fresh process minus what it held before the call.

    Errors: ``RuntimeError``, when all else is measured and written, for a method of ours that fails and a kernel that
    is another one; ``ValueError`` in one line, before anything is timed, for a folder that cannot be written to, a
    wrong number of threads, or a missing CUDA device or Python.
    """
    folder = folder or project() / "data" / "benchmarks"
    check_request(device, threads, folder, neural_tangents)
    cases = (LARGE_CUDA if device == "cuda" else LARGE) if large else SMALL
    rows, failed = [], []
    for case in bar(cases, desc="grsd bench", unit="case"):
        own, problems = _rows(case, device, threads, neural_tangents)
        rows, failed = rows + own, failed + problems
    table = pd.DataFrame(rows).reindex(columns=COLUMNS)
    name = device_name(device)
    path = folder / f"{'large-' if large else ''}{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    say_swept(path.parent)
    made = f"{provenance()['versions']}; {name}; threads {threads}"
    head = f"# {made}; ratios are to the first row of each case\n"
    print(table.round(4).drop(columns="memory_limit").to_string(index=False, na_rep=""))
    write_atomically(path, (head + table.round(4).to_csv(index=False, lineterminator="\n")).encode())
    if find_spec("matplotlib") is None:
        print("grsd bench: no figure, matplotlib is not installed")
    else:
        from grsd.bench.figure import draw

        draw(table, path.with_suffix(".svg"))
    if failed:
        raise RuntimeError(f"{failed[0]}; the other rows are in {path}")
    return path


def _rows(
    case: Case, device: str, threads: int, neural_tangents: str | None
) -> tuple[list[dict[str, object]], list[str]]:
    """The rows of a case, and what failed in words; a method of ours that fails has a note, and the others go on.

    If the repeated rounds fail, the times are those of the first round.
    """
    described = {name: value for name, value in asdict(case).items() if name not in ("methods", "repeats")}
    rows, failed = {}, []
    for method in case.methods:
        rows[method] = {"note": "failed"}
        with _noted(failed):
            rows[method] = in_a_process(f"{case.problem}, {method}", alone, case, method, device, threads)
    fast = [method for method, row in rows.items() if row.get("cpu_s", SLOW) < SLOW]
    if fast and case.repeats > 1:
        repeated: dict[str, dict[str, float]] = {}
        with _noted(failed):
            repeated = in_a_process(f"{case.problem}, {fast}", together, case, fast, device, threads)
        for method, times in repeated.items():
            rows[method] |= times
    if neural_tangents is not None and JACREV in case.methods and device == "cpu" and threads == 1:
        with _noted(failed, f"grsd bench: {case.problem}: "):
            rows |= neural_tangents_row(case, neural_tangents)
    first = rows[case.methods[0]]
    for row in rows.values():
        for ratio, value in {"cpu_ratio": "cpu_s", "peak_ratio": "peak_gib"}.items():
            if value in row and first.get(value, 0) > 0:
                row[ratio] = row[value] / first[value]
    return [described | {"method": method} | row for method, row in rows.items()], failed


@contextmanager
def _noted(failed: list[str], before: str = "") -> Iterator[None]:
    """Inside, a ``RuntimeError`` ends the block alone; its words are added to ``failed``."""
    try:
        yield
    except RuntimeError as error:
        failed.append(f"{before}{error}")


def device_name(device: str) -> str:
    """The device's name in the file names of tables."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"cpu-{platform.machine()}-{os.cpu_count()}"
    return name.lower().replace(" ", "-")
