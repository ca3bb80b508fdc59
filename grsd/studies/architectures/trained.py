"""The same networks by Adam and cross-entropy, through the budgets between checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import xarray as xr

from grsd.evidence import Measurement
from grsd.runs import Spec, run
from grsd.studies import stochastic_training as training
from grsd.studies.architectures.cells import CELLS, Cell, cell

LEVELS = (-0.5, -1.0, -1.5)
LATE = (1, 2)  # the steps from e^-.5 to e^-1.5


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


def experiment(protocol: Adam, seed: int) -> dict[str, object]:
    """The network of a seed and how it is trained, as plain values."""
    how = {"rate": protocol.rate, "batch": protocol.batch, "levels": list(protocol.levels)}
    return protocol.cell.spec(seed).to_dict() | how


def begun(experiment: Mapping[str, object]) -> training.Trainer:
    """The network of an ``experiment`` at its start."""
    own = dict(experiment)
    how = {name: own.pop(name) for name in ("rate", "batch")} | {"levels": tuple(own.pop("levels"))}
    spec = Spec.from_dict(own)
    sizes = {name: getattr(spec, name) for name in ("architecture", "width", "depth", "data", "samples", "seed")}
    asked = training.Training(**sizes, **how, optimizer="adam", loss="cross-entropy")
    return training.Trainer.start(asked, spec.batch())


def trained(experiment: Mapping[str, object]) -> xr.Dataset:
    """``stochastic_training.trained_history`` of an ``experiment``."""
    return training.followed(begun(experiment))


def history(protocol: Adam, seed: int) -> xr.Dataset:
    """``trained`` of a seed, kept in a file."""
    return run(experiment(protocol, seed), trained, progress=False)


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
    for family, data in CELLS
}
