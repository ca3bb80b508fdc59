"""The same networks by Adam and cross-entropy, through the budgets between checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import xarray as xr

from grsd.evidence import Measurement
from grsd.runs import Spec, run
from grsd.studies import stochastic_training as training
from grsd.studies.architectures.cells import Cell, cell

LEVELS = (-0.5, -1.0, -1.5)
LATE = (1, 2)  # the steps from e^-.5 to e^-1.5
FAMILIES = ("resnet", "vit", "gated-perceptron")
DATA = ("digits", "patches")


@dataclass(frozen=True)
class Adam:
    """A cell trained by Adam on minibatches with cross-entropy and two outputs. Fields as in ``Training``."""

    cell: Cell
    rate: float = 1e-3
    batch: int = 10
    levels: tuple[float, ...] = LEVELS
    steps: tuple[int, ...] = LATE


@dataclass(frozen=True)
class Pair:
    """Two cells trained from the same seeds: the growth share of the first minus that of the second."""

    one: Adam
    other: Adam


def trained(experiment: Mapping[str, object]) -> xr.Dataset:
    """``stochastic_training.trained_history`` of a spec's fields, with ``rate``, ``batch`` and ``levels``."""
    own = dict(experiment)
    how = {name: own.pop(name) for name in ("rate", "batch", "levels")}
    spec = Spec.from_dict(own)
    asked = training.Training(
        architecture=spec.architecture,
        width=spec.width,
        depth=spec.depth,
        data=spec.data,
        samples=spec.samples,
        optimizer="adam",
        loss="cross-entropy",
        seed=spec.seed,
        **how,
    )
    return training.followed(training.Trainer.start(asked, spec.batch()))


def history(protocol: Adam, seed: int) -> xr.Dataset:
    """``trained`` of a seed, kept in a file."""
    how = {"rate": protocol.rate, "batch": protocol.batch, "levels": list(protocol.levels)}
    return run(protocol.cell.spec(seed).to_dict() | how, trained, progress=False)


def growth_share(protocol: Adam, seed: int) -> float:
    """The share of the squared flux that growth of the whole kernel gives in each step, as in notebook 11."""
    return training.growth_share(history(protocol, seed), protocol.steps)


def share_contrast(protocol: Pair, seed: int) -> float:
    """``growth_share`` of the first minus that of the second."""
    return growth_share(protocol.one, seed) - growth_share(protocol.other, seed)


MEASUREMENTS = {
    f"skips-growth-share-adam-{family}-{data}": Measurement(
        Pair(*(Adam(cell(family, skips, data)) for skips in (True, False))), share_contrast
    )
    for family in FAMILIES
    for data in DATA
}
