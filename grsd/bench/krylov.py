r"""Tests of the Krylov route: against the dense budget at D = 2000, and against the flow itself if M does not fit.

``python -m grsd.bench.krylov`` prints both tables and writes them to data/benchmarks/; a few minutes on two cores.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from grsd.bench.stages import gradient
from grsd.bench.worker import peak
from grsd.datasets import digits
from grsd.decomposition import spectrum
from grsd.flow import Snapshot, gradient_flow
from grsd.flow.gradient import nearby
from grsd.kernel import tangent_kernel_and_rate
from grsd.krylov import DenseOperator, KernelOperator, KrylovSpectrum, krylov_spectrum, lanczos
from grsd.networks import Perceptron
from grsd.shells import LogShells, energy_budget
from grsd.support.files import write_atomically
from grsd.support.folders import project
from grsd.support.provenance import provenance

STEPS = 80
SHELLS = LogShells(width=1.0, smoothing=0.5)
JUDGED = {"mask": ("energy", "dissipation"), "boundary_mask": ("density", "flux", "velocity")}
SIZES = ((64, 4), (64, 8), (32, 4))
TIMES = (0.3, 1.0, 3.0, 10.0)
LARGE_TIME = 0.5


def against_dense(
    sizes: Sequence[tuple[int, int]] = SIZES,
    forms: Sequence[bool] = (True, False),
    times: Sequence[float] = TIMES,
    *,
    samples: int = 200,
    steps: Sequence[int] = (STEPS, 120),
    shells: LogShells = SHELLS,
) -> pd.DataFrame:
    """For perceptrons that learn digits: the share of E declared converged, and the largest true over stated error.

    ``sizes``: width and depth of each; ``forms``: residual or not.
    """
    data = digits(samples)
    rows = []
    for seed, (width, depth) in enumerate(sizes):
        for residual in forms:
            network = Perceptron(64, 10, width=width, depth=depth, residual=residual, seed=seed)
            for snapshot in gradient_flow(
                network, data.inputs, data.targets, times, tolerance=1e-3, progress=False
            ).snapshots:
                described = {"width": width, "depth": depth, "residual": residual, "time": snapshot.time}
                rows += [described | row for row in _declared(snapshot, data.inputs, data.targets, shells, steps)]
    return pd.DataFrame(rows)


def _declared(
    snapshot: Snapshot, inputs: Tensor, targets: Tensor, shells: LogShells, steps: Sequence[int]
) -> list[dict[str, float]]:
    kernel, rate = tangent_kernel_and_rate(snapshot.model, inputs, targets)
    modes, error = spectrum(kernel, rate), snapshot.error.reshape(-1)
    rows = []
    for count in steps:
        found = KrylovSpectrum(error, lanczos(DenseOperator(kernel, rate), error, count))
        budget = energy_budget(found, error, shells)
        rows.append({"steps": count} | compare(budget, energy_budget(modes, error, same(budget, shells))))
    return rows


def same(budget: xr.Dataset, shells: LogShells) -> LogShells:
    """Shells with exactly the span of the budget."""
    low, high = budget.shell_index.values[[0, -1]] * shells.width
    return replace(shells, span=(float(low), float(high + shells.width)))


def compare(budget: xr.Dataset, dense: xr.Dataset) -> dict[str, float]:
    """``declared``: share of E in converged shells; ``worst_NAME``: their largest ratio of true to stated error."""
    sure = budget["mask"] == 0
    row = {"declared": float(budget.energy.where(sure, 0).sum() / budget.energy.sum())}
    for mask, names in JUDGED.items():
        for name in names:
            ratio = (abs(budget[name] - dense[name]) / budget[f"{name}_error"]).where(budget[mask] == 0)
            row[f"worst_{name}"] = float(ratio.max())
    return row


def against_flow(samples: int = 10_000, steps: int = STEPS, shells: LogShells = SHELLS) -> tuple[dict, pd.DataFrame]:
    """(time, memory and sums; flux by boundary) of a partly trained network whose M has (10 ``samples``)^2 entries.

    ``flux_from_snapshots``: -dE_</dt - D_< by central differences of the flow; each E_< comes from the Krylov route.
    """
    snapshot, inputs, targets = _partly_trained(samples)
    before = peak("cpu")
    start, cpu = time.perf_counter(), time.process_time()
    modes = krylov_spectrum(snapshot.model, inputs, targets, steps=steps)
    budget = energy_budget(modes, modes.error, shells)
    wall, cpu, most = time.perf_counter() - start, time.process_time() - cpu, peak("cpu")
    error = snapshot.error
    dissipation = samples * sum(float(g.square().sum()) for g in gradient(snapshot.model, inputs, targets, None)())
    found = {
        "dimension": modes.dimension,
        "steps": steps,
        "threads": torch.get_num_threads(),
        "wall_s": wall,
        "cpu_s": cpu,
        "peak_gib": most / 2**30,
        "before_gib": before / 2**30,
        "declared": float(budget.energy.where(budget["mask"] == 0, 0).sum() / budget.energy.sum()),
        "sum_energy": abs(float(budget.energy.sum()) / (float(error.square().sum()) / 2) - 1),
        "sum_dissipation": abs(float(budget.dissipation.sum()) / dissipation - 1),
    }
    shells = same(budget, shells)
    h = 1e-3 / float(modes.eigenvalues[-1])
    below = [_below(at, inputs, targets, steps, shells) for at in nearby(snapshot, inputs, targets, h, [-1, 1])]
    differences = -(below[1] - below[0]) / (2 * h) - np.cumsum(budget.dissipation.values)[:-1]
    table = budget[["density", "flux", "flux_error", "boundary_mask"]].to_dataframe()
    table["flux_from_snapshots"] = differences
    table["relative_difference"] = abs(differences / table["flux"] - 1)
    return found, table


def _partly_trained(samples: int) -> tuple[Snapshot, Tensor, Tensor]:
    inputs = torch.randn(samples, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    targets = Perceptron(64, 10, width=64, depth=3, seed=7).double()(inputs).detach()
    network = Perceptron(64, 10, width=64, depth=6, seed=0)
    (snapshot,) = gradient_flow(network, inputs, targets, [LARGE_TIME], tolerance=1e-3, progress=False).snapshots
    return snapshot, inputs, targets


def _below(at: Snapshot, inputs: Tensor, targets: Tensor, steps: int, shells: LogShells) -> np.ndarray:
    """E_< at the boundaries."""
    operator = KernelOperator(at.model, inputs, targets)
    found = KrylovSpectrum(operator.error, lanczos(operator, operator.error, steps, rate=False))
    return np.cumsum(energy_budget(found, operator.error, shells).energy.values)[:-1]


def main(folder: Path | None = None) -> None:
    """Print both tables and write them to ``folder`` (default: data/benchmarks in the project)."""
    folder = folder or project() / "data" / "benchmarks"
    found, boundaries = against_flow()
    print(pd.Series(found).to_string(), boundaries.to_string(), sep="\n\n")
    table = against_dense()
    print(table.round(3).to_string(index=False))
    folder.mkdir(parents=True, exist_ok=True)
    head = f"# {provenance()['versions']}\n"
    for name, data in {"dense": table, "flow": boundaries.reset_index().assign(**found)}.items():
        text = data.to_csv(index=False, lineterminator="\n", float_format="%.4g")
        write_atomically(folder / f"krylov-against-{name}.csv", (head + text).encode())


if __name__ == "__main__":
    main()
