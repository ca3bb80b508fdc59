"""Notebook 11: what single stochastic steps do to the shells of a network on its way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
import xarray as xr
from scipy import stats
from torch import Tensor

from grsd.evidence import Measurement
from grsd.runs import run
from grsd.shells import LogShells
from grsd.studies.stochastic_training import SHELLS, Trainer, Training
from grsd.support.provenance import provenance
from grsd.training.heating import expected_heating
from grsd.training.noise import next_state, step_budgets

LEVEL = 0.05  # of a test of all shells together, for the mean heating


@dataclass(frozen=True)
class Steps:
    """Minibatches drawn at the state where ``training`` reaches its last level.

    ``draws``: their number; they are parts of random partitions of the samples, so that what is linear in the noise
    cancels over each partition. ``scale``: the rate of these steps over that of the training.
    """

    training: Training
    draws: int
    scale: float = 1.0


def trainer_at(training: Training) -> Trainer:
    """The network where it reaches the last level of its training."""
    trainer = Trainer.start(training)
    for _ in trainer.states():
        pass
    return trainer


def partitions(samples: int, batch: int, draws: int, seed: int) -> list[Tensor]:
    """``draws`` minibatches of ``batch``: the parts of one random partition of the samples after the other."""
    generator = torch.Generator().manual_seed(seed)
    found: list[Tensor] = []
    while len(found) < draws:
        whole = torch.randperm(samples, generator=generator, device="cpu")
        found += whole[: samples - samples % batch].split(batch)
    return found[:draws]


def drawn_steps(spec: Mapping[str, object], shells: LogShells = SHELLS) -> xr.Dataset:
    """The budgets of single steps, along ``draw``; ``spec``: ``draws``, ``scale``, and the fields of a ``Training``.

    Each draw has its ``partition``. For the optimizers of SGD's family also ``expected``, the mean heating over all
    minibatches.
    """
    rest = {name: value for name, value in spec.items() if name not in ("draws", "scale")}
    training = Training(**rest)
    trainer = trainer_at(training)
    for group in trainer.optimizer.param_groups:
        group["lr"] *= spec["scale"]
    network, optimizer = trainer.network, trainer.optimizer
    expected = network, next_state(network, optimizer, trainer.objective)
    drawn = partitions(training.samples, training.batch or training.samples, spec["draws"], training.seed)
    after = [
        (network, next_state(network, optimizer, lambda own, chosen=chosen: trainer.objective(own, chosen)))
        for chosen in drawn
    ]
    data = trainer.inputs, trainer.targets
    found = step_budgets(network, expected, after, *data, shells, loss=training.loss)
    found = found.assign_coords(partition=("draw", np.arange(len(drawn)) // (training.samples // len(drawn[0]))))
    if training.optimizer == "adam":
        return found
    lowest, count = int(found.shell_index[0]), found.sizes["shell"]
    span = (lowest * shells.width, (lowest + count) * shells.width)
    mean = expected_heating(
        network,
        *data,
        LogShells(shells.width, shells.smoothing, span),
        batch=len(drawn[0]),
        learning_rate=optimizer.param_groups[0]["lr"],
        loss=training.loss,
    )
    return found.assign(expected=("shell", mean.heating.values, mean.heating.attrs))


def steps(protocol: Steps) -> xr.Dataset:
    """``drawn_steps`` of a protocol, kept in files."""
    spec = asdict(protocol.training) | {"draws": protocol.draws, "scale": protocol.scale}
    return run(spec, drawn_steps, progress=False)


def seeded(protocol: Steps, seed: int) -> Steps:
    return replace(protocol, training=replace(protocol.training, seed=seed))


def rest_order(protocol: Steps, seed: int) -> float:
    """log2 of the rest, summed over draws and shells without sign, over that of steps half as long."""
    large = seeded(protocol, seed)
    sizes = [float(np.abs(steps(one).rest).sum()) for one in (large, replace(large, scale=large.scale / 2))]
    return float(np.log2(sizes[0] / sizes[1]))


def over_partitions(values: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """The mean over minibatches and its standard error.

    The parts of one partition are not independent (two halves have opposite noise and the same heating); partitions
    are, so that the error is that of the mean over them.
    """
    each = values.groupby("partition").mean()
    return each.mean("partition"), each.std("partition", ddof=1) / np.sqrt(each.sizes["partition"])


def heating_z(found: xr.Dataset) -> xr.DataArray:
    """(mean heating minus expectation) over the standard error of the mean, in every shell that is not masked."""
    kept = found.where(found["mask"] == 0, drop=True)
    mean, error = over_partitions(kept.heating)
    return (mean - kept.expected) / error


def heating_agrees(protocol: Steps, seed: int) -> float:
    """One or zero: whether no shell's mean heating is significantly off, all shells tested together."""
    found = steps(seeded(protocol, seed))
    z = heating_z(found)
    allowed = stats.t.ppf(1 - LEVEL / 2 / z.sizes["shell"], len(np.unique(found.partition)) - 1)
    return float(np.abs(z).max() <= allowed)


SMALL = Training(width=16, depth=4, samples=24, batch=4, levels=(-0.75,))
GRID = "11_stochastic_training-steps"
WAYS = {
    "sgd": SMALL,
    "momentum": replace(SMALL, optimizer="momentum"),
    "adam": replace(SMALL, optimizer="adam", rate=4e-3, loss="cross-entropy"),
}


SIZES = {
    "drift": "first and second order of the step without noise, |descent + overshoot|",
    "fluctuation": "linear in the noise",
    "heating": "quadratic in the noise",
    "rest": "the rest",
}


@dataclass(frozen=True)
class Grid:
    """Single steps of each optimizer over sizes of the minibatch and rates; each cell has its own trained network.

    ``factors``: rates over the usual one of each optimizer, ``WAYS``. ``partitions``: of the samples into minibatches,
    for the parts of the steps; ``few``: minibatches for the order of the rest, whose steps are ``scale`` of the
    training's and half of that.
    """

    optimizers: tuple[str, ...] = tuple(WAYS)
    batches: tuple[int, ...] = (4, 8, 12)
    factors: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    partitions: int = 12
    few: int = 6
    scale: float = 0.01
    seed: int = 0


def step_grid(grid: Grid) -> xr.Dataset:
    """The parts of the steps in every cell, with standard errors, and the order of the rest in the rate.

    A part, such as ``heating``, is the sum of its values without sign over the shells that are not masked, over the
    energy of these shells, in the mean over minibatches; ``expected`` is the expectation of the heating.
    """
    coords = {"optimizer": list(grid.optimizers), "batch": list(grid.batches), "factor": list(grid.factors)}
    cells = [
        _cell(replace(WAYS[name], batch=batch, rate=WAYS[name].rate * factor, seed=grid.seed), grid)
        for name in grid.optimizers
        for batch in grid.batches
        for factor in grid.factors
    ]
    texts = {part: (f"part of one step: {text}, over the energy", "1") for part, text in SIZES.items()}
    texts |= {f"{part}_error": (f"standard error of {part} over partitions", "1") for part in SIZES}
    texts["expected"] = "expectation of the heating; none for Adam, whose step is not linear in the gradient", "1"
    texts["order"] = "log2 of the rest over that of half the step", "1"
    sizes = [len(values) for values in coords.values()]
    data = {
        name: (tuple(coords), np.reshape([cell[name] for cell in cells], sizes), {"long_name": text, "units": units})
        for name, (text, units) in texts.items()
    }
    settings = {"width": SMALL.width, "depth": SMALL.depth, "samples": SMALL.samples}
    plain = {name: getattr(grid, name) for name in ("partitions", "few", "scale", "seed")}
    return xr.Dataset(data, coords).assign_attrs(provenance(plain | settings))


def _cell(training: Training, grid: Grid) -> dict[str, float]:
    drawn = steps(Steps(training, grid.partitions * (training.samples // training.batch)))
    kept = drawn.where(drawn["mask"] == 0, drop=True)
    kept = kept.assign(drift=kept.descent + kept.overshoot)
    energy = float(kept.energy_before.isel(draw=0).sum())
    found = {"order": rest_order(Steps(training, grid.few, grid.scale), grid.seed)}
    found["expected"] = float(kept.expected.sum()) / energy if "expected" in kept else np.nan
    for part in SIZES:
        mean, error = over_partitions(np.abs(kept[part]).sum("shell") / energy)
        found |= {part: float(mean), f"{part}_error": float(error)}
    return found


def grid_table() -> xr.Dataset:
    """``step_grid`` at the grid of the notebook's table."""
    return step_grid(Grid())


TABLES = {GRID: grid_table}
MEASUREMENTS = {
    "step-rest-order": Measurement(Steps(SMALL, draws=6, scale=0.01), rest_order),
    "heating-expected": Measurement(Steps(SMALL, draws=60), heating_agrees),
}
