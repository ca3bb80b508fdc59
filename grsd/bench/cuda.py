"""Everything that only a CUDA device can answer, in one command: ``make cuda PYTHON=...``, or this module run.

It needs what the package itself needs, and pytest for the checks; no lock, no Jupyter. Each table carries the device's
name. A part that fails says so in one line, and the others go on.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from grsd.bench.flow import CELLS
from grsd.bench.measure import device_name
from grsd.bench.worker import peak
from grsd.krylov import krylov_spectrum
from grsd.networks import Perceptron
from grsd.runs import Spec
from grsd.runs.together import train_together
from grsd.support.files import write_atomically
from grsd.support.folders import one_line, project
from grsd.support.provenance import provenance

CALL = "grsd.bench.cuda"
DIMENSIONS = (100_000, 1_000_000)
BATCHES = (1_000, 20_000)
LATE = CELLS["late cell"]
SEEDS, FEW_SEEDS = 127, 4


def krylov(
    device: str, dimensions: Sequence[int] = DIMENSIONS, steps: int = 80, batches: Sequence[int] = BATCHES
) -> pd.DataFrame:
    """Time and memory of ``krylov_spectrum`` at each D = N C, and how far its first moment is from |e|^2.

    ``batches``: how many samples are differentiated at once. The first call warms the device up and is not timed. A row
    that fails has a note.
    """
    rows = []
    for dimension, batch in [(1_000, 10), *itertools.product(dimensions, batches)]:
        samples = dimension // 10
        draw = {"generator": torch.Generator("cpu").manual_seed(1), "dtype": torch.float64, "device": "cpu"}
        inputs, targets = torch.randn(samples, 64, **draw), torch.randn(samples, 10, **draw)
        network = Perceptron(64, 10, width=64, depth=6)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        try:
            found = krylov_spectrum(network, inputs, targets, steps=steps, device=device, batch=batch)
        except (RuntimeError, MemoryError) as error:  # a device that is too small for one row
            rows.append({"dimension": dimension, "batch": batch, "note": one_line(f"{type(error).__name__}: {error}")})
            continue
        wall = time.perf_counter() - start
        squares = float(found.error.square().sum())
        rows.append(
            {
                "dimension": found.dimension,
                "batch": batch,
                "steps": len(found.tridiagonal.matrix),
                "wall_s": wall,
                "peak_gib": peak(device) / 2**30,
                "norm_difference": abs(found.tridiagonal.norm**2 / squares - 1),
            }
        )
    return pd.DataFrame(rows[1:])


def ensemble(devices: Sequence[tuple[str, int]], spec: Spec = LATE) -> pd.DataFrame:
    """Seconds per run of the late cell among so many seeds on each device, and the loss's difference from the first.

    The seeds are computed at once where their network allows it. The first call warms a device up and is not timed.
    """
    rows, reference = [], None
    for device, seeds in devices:
        specs = replace(spec, device=device).with_seeds(range(seeds))
        train_together(specs[:1])
        start = time.perf_counter()
        runs = train_together(specs)
        wall = (time.perf_counter() - start) / seeds
        losses = torch.tensor([run.loss.values.tolist() for run in runs], dtype=torch.float64)
        reference = losses if reference is None else reference
        both = min(len(losses), len(reference))
        difference = float((losses[:both] / reference[:both] - 1).abs().max())
        rows.append({"device": device, "seeds": seeds, "wall_s_a_run": wall, "loss_difference": difference})
    return pd.DataFrame(rows)


def write(table: pd.DataFrame, what: str, folder: Path) -> Path:
    """Print a table and write it as WHAT-DEVICE.csv."""
    print(table.to_string(index=False))
    path = folder / f"{what}-{device_name('cuda')}.csv"
    head = f"# {provenance()['versions']}; {device_name('cuda')}\n"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (head + table.to_csv(index=False, lineterminator="\n", float_format="%.4g")).encode())
    return path


def commands() -> dict[str, list[str]]:
    """Return what is to be measured, by name. Each in a process of its own: one that knows CUDA must not be forked."""
    python = [sys.executable, "-m"]
    return {
        "checks": [*python, "pytest", "-q", "-o", "addopts=", "-m", "cuda", "tests/test_cuda.py"],
        "kernels": [*python, "grsd.cli", "bench", "--device", "cuda"],
        "large kernels": [*python, "grsd.cli", "bench", "--device", "cuda", "--large"],
        **{name: [*python, CALL, name] for name in TABLES},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all parts, or the one table named; return 0, 1 if a part failed, 2 if there is no device."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # asks for a device without starting CUDA here
    if not torch.cuda.is_available():
        print(f"{CALL}: there is no CUDA device here; nothing is measured and no table is changed", file=sys.stderr)
        return 2
    root = project()
    if arguments:
        torch.set_num_threads(1)
        table = TABLES[arguments[0]]()
        write(table, arguments[0], root / "data" / "benchmarks")
        return int("note" in table)
    failed = []
    for name, command in commands().items():
        print(f"{CALL}: {name}", flush=True)
        if subprocess.run(command, cwd=root, check=False).returncode:  # noqa: S603
            failed.append(name)
    if failed:
        print(f"{CALL}: failed, see above: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


TABLES = {"krylov": lambda: krylov("cuda"), "ensemble": lambda: ensemble([("cpu", FEW_SEEDS), ("cuda", SEEDS)])}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
