"""Tests of the Krylov route between two states: against the dense budget at D = 2000, and its cost at D = 100 000.

``python -m grsd.bench.between`` prints the table and writes data/benchmarks/krylov-between.csv; about ten minutes on
two cores.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor, nn

from grsd.bench.worker import peak
from grsd.datasets import digits
from grsd.losses import Loss
from grsd.networks import Perceptron
from grsd.shells import LogShells
from grsd.support.files import write_atomically
from grsd.support.folders import project
from grsd.support.provenance import provenance
from grsd.training import checkpoint_budget, checkpoint_history

STEPS = 120
SHELLS = LogShells(width=1.0, smoothing=0.5)
NETWORKS = ((64, 4, True), (64, 4, False), (64, 8, True), (32, 4, False))  # width, depth, residual
TRAININGS = (("mse", "sgd"), ("cross-entropy", "adam"))
CHECKPOINTS = (0, 1, 4, 16, 64, 256)  # five pairs each
SHELL_VALUES = ("energy_before", "energy_after", "relaxation", "loss_dissipation_before", "loss_dissipation_after")
PAIR_VALUES = ("transport", "growth_rayleigh", "growth_rayleigh_order")
LARGE = 10_000


def trained(
    network: nn.Module, inputs: Tensor, targets: Tensor, loss: str, optimizer: str, stops: Sequence[int], seed: int
) -> Iterator[nn.Module]:
    """Yield a copy of the network after each number of steps in ``stops``, on minibatches of 32."""
    model = copy.deepcopy(network)
    rates = {"sgd": lambda p: torch.optim.SGD(p, 0.1), "adam": lambda p: torch.optim.Adam(p, 0.003)}
    own, generator = rates[optimizer](model.parameters()), torch.Generator().manual_seed(seed)
    of = nn.functional.mse_loss if loss == "mse" else nn.functional.cross_entropy
    for step in range(max(stops) + 1):
        if step in stops:
            yield copy.deepcopy(model)
        few = torch.randint(len(inputs), (32,), generator=generator)
        own.zero_grad()
        of(model(inputs[few]), targets[few]).backward()
        own.step()


def against_dense(
    networks: Sequence[tuple[int, int, bool]] = NETWORKS,
    trainings: Sequence[tuple[str, str]] = TRAININGS,
    checkpoints: Sequence[int] = CHECKPOINTS,
    *,
    samples: int = 200,
    steps: int = STEPS,
    shells: LogShells = SHELLS,
) -> pd.DataFrame:
    """One row for each pair of neighbouring checkpoints: what is declared, and the largest true over stated error."""
    data = digits(samples)
    inputs, one_hot = data.inputs.double(), data.targets.double()
    rows = []
    for seed, (width, depth, residual) in enumerate(networks):
        for loss, optimizer in trainings:
            network = Perceptron(64, 10, width=width, depth=depth, residual=residual, seed=seed).double()
            targets = one_hot if loss == "mse" else one_hot.argmax(1)
            models = list(trained(network, inputs, targets, loss, optimizer, checkpoints, seed))
            about = {"width": width, "depth": depth, "residual": residual, "loss": loss, "optimizer": optimizer}
            for row in _compared(models, inputs, targets, loss, steps, shells):
                pair = row.pop("step")
                rows.append(about | {"from_step": checkpoints[pair], "to_step": checkpoints[pair + 1]} | row)
    return pd.DataFrame(rows)


def _compared(
    models: Sequence[nn.Module], inputs: Tensor, targets: Tensor, loss: Loss, steps: int, shells: LogShells
) -> Iterator[dict[str, float]]:
    found = checkpoint_history(models, inputs, targets, shells, loss=loss, method="krylov", steps=steps)
    low, high = found.shell_index.values[[0, -1]] * shells.width
    same = replace(shells, span=(float(low), float(high + shells.width)))
    dense = checkpoint_history(models, inputs, targets, same, loss=loss, method="dense")
    for step in range(found.sizes["step"]):
        yield {"step": step} | compare(found.isel(step=step), dense.isel(step=step))


def compare(budget: xr.Dataset, dense: xr.Dataset) -> dict[str, float]:
    """``declared``: least share of the two energies in converged shells; ``worst_NAME``: true over stated error there.

    Fluxes count at boundaries between two converged shells, pairs of shells where both are converged.
    """
    sure = (budget["mask"] == 0).values
    kept = {"flux": sure[1:] & sure[:-1], **dict.fromkeys(SHELL_VALUES, sure)}
    kept |= dict.fromkeys(PAIR_VALUES, np.outer(sure, sure))
    shares = [float(budget[name].values[sure].sum() / budget[name].sum()) for name in SHELL_VALUES[:2]]
    row = {"declared": min(shares)}
    for name, where in kept.items():
        off, stated = np.abs(budget[name] - dense[name]).values[where], budget[f"{name}_error"].values[where]
        row[f"worst_{name}"] = float((off / np.where(off > 0, stated, 1)).max(initial=0))
    off, stated = (
        np.abs(budget.laziness_rayleigh - dense.laziness_rayleigh).values,
        budget.laziness_rayleigh_error.values,
    )
    row["worst_laziness"] = float((off / np.where(off > 0, stated, 1)).max())
    stated = budget.transport_error.values[kept["transport"]].max(initial=0)
    row["stated_transport"] = float(stated / np.abs(dense.transport).max())
    return row


def cost(samples: int = LARGE, steps: int = 80, shells: LogShells = SHELLS) -> dict[str, float]:
    """Time and memory of one budget of a perceptron whose M has (10 ``samples``)^2 entries."""
    inputs = torch.randn(samples, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = Perceptron(64, 10, width=64, depth=3, seed=7).double()(inputs).argmax(1)
    network = Perceptron(64, 10, width=64, depth=6, seed=0).double()
    before, after = trained(network, inputs, labels, "cross-entropy", "adam", (100, 200), 0)
    start, cpu, held = time.perf_counter(), time.process_time(), peak("cpu")
    found = checkpoint_budget(before, after, inputs, labels, shells, loss="cross-entropy", method="krylov", steps=steps)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    sure = found["mask"].values == 0
    change = found.energy_after - found.energy_before - found.relaxation - found.transport.sum("shell_from")
    return {
        "dimension": found.attrs["dimension"],
        "steps": steps,
        "threads": torch.get_num_threads(),
        "wall_s": wall,
        "cpu_s": cpu,
        "before_gib": held / 2**30,
        "peak_gib": peak("cpu") / 2**30,
        "declared": min(float(found[name].values[sure].sum() / found[name].sum()) for name in SHELL_VALUES[:2]),
        "closes": float(np.abs(change).max() / found.energy_before.sum()),
    }


def main(folder: Path | None = None) -> None:
    """Print the table and write it to ``folder`` (default: data/benchmarks in the project)."""
    folder = folder or project() / "data" / "benchmarks"
    large = cost()
    print(pd.Series(large).to_string())
    table = against_dense()
    print(table.round(3).to_string(index=False))
    folder.mkdir(parents=True, exist_ok=True)
    said = ", ".join(f"{name} {value:.4g}" for name, value in large.items())
    head = f"# {provenance()['versions']}\n# at N C = {large['dimension']}: {said}\n"
    text = table.to_csv(index=False, lineterminator="\n", float_format="%.4g")
    write_atomically(folder / "krylov-between.csv", (head + text).encode())


if __name__ == "__main__":
    main()
