"""The networks of notebooks 06 to 08: trained on parity, and read where their loss has fallen to a given share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from grsd.conditions import invariance, of_specs
from grsd.networks import architecture
from grsd.runs import Spec, ensemble

RUNS = 8
REACH = 6.0
INVARIANCE = Spec(
    width=48,
    task="parity",
    samples=240,
    times=(0.5, 60.0, 10),
    shell_widths=invariance.WIDTHS,
    smoothing=invariance.SMOOTHING,
)
LOG_LOSS = -1.0


@dataclass(frozen=True)
class Block:
    """The ``runs`` seeds from ``first`` on, or the block of them that a seed belongs to, of one cell of a stage.

    ``log_loss``: log of the loss over the loss at the start where all runs are read; ``reach``: e-folds of the window
    down from the frontier.
    """

    network: Spec
    log_loss: float = LOG_LOSS
    runs: int = RUNS
    first: int = 1000
    reach: float = REACH

    @property
    def specs(self) -> list[Spec]:
        """One for each run."""
        return self.network.with_seeds(range(self.first, self.first + self.runs))

    def of(self, seed: int) -> tuple[Block, int]:
        """The block that holds ``seed``, and its place in it."""
        place = (seed - self.first) % self.runs
        return replace(self, first=seed - place), place

    def measure(self, **options: object) -> list[xr.Dataset]:
        """``invariance.measure`` of each run of the block; ``options``: workers and progress.

        A run whose first snapshot is already below the loss is repeated with its first time divided by four; one whose
        last is still above it, to four times its last time, its snapshots as dense as before.
        """
        runs = ensemble(self.specs, threads=1, **options)
        specs = [self._reaching(spec, run) for spec, run in zip(self.specs, runs, strict=True)]
        return of_specs(invariance, specs, log_loss=self.log_loss, **options)

    def _reaching(self, spec: Spec, run: xr.Dataset) -> Spec:
        first, last, count = spec.times
        loss = math.exp(self.log_loss) * float(run.start_loss)
        if float(run.loss[0]) <= loss:
            return replace(spec, times=(first / 4, last, count))
        if float(run.loss[-1]) > loss:
            longer = math.log(4 * last / first) / math.log(last / first)
            return replace(spec, times=(first, 4 * last, 1 + round((count - 1) * longer)))
        return spec


@dataclass(frozen=True)
class Contrast:
    """Two cells with the same seeds: the number of the first minus that of the second."""

    one: Block
    other: Block


@dataclass(frozen=True)
class Stage:
    """Where on the way networks are read: ``times`` by architecture, or those of ``network`` for all others."""

    network: Spec
    log_loss: float
    runs: int
    times: tuple[tuple[str, tuple[float, float, int]], ...] = ()

    def block(self, name: str, depth: int, first: int) -> Block:
        """The seeds from ``first`` on of one architecture and depth."""
        times = dict(self.times).get(name, self.network.times)
        network = replace(self.network, architecture=name, depth=depth, times=times)
        return Block(network, self.log_loss, self.runs, first)

    def cells(self, depths: Sequence[int], first: int) -> dict[tuple[str, int], Block]:
        """By (architecture, depth), for all architectures that are compared."""
        return {
            (name, depth): self.block(name, depth, first)
            for depth in depths
            for name in architecture.names(compared=True)
        }


# Late windows contain fewer shells in residual networks, so the second width is 1/2 there: like log 3 it is far from
# any simple multiple of log 2. The two architectures reach a given loss at different times, hence two time ranges.
EARLY = Stage(INVARIANCE, LOG_LOSS, RUNS)
LATE = Stage(
    replace(INVARIANCE, shell_widths=(math.log(2), 0.5)),
    -2.5,
    24,
    (("residual", (12.0, 300.0, 6)), ("plain", (5.0, 160.0, 6))),
)
LATE_LARGE = replace(LATE, runs=96)


def quick(
    *,
    samples: int,
    width: int,
    seeds: int,
    times: tuple[float, float, int],
    tolerance: float,
    device: str,
    log_loss: float = LOG_LOSS,
) -> Stage:
    """A stage of small networks, which notebooks 06 to 08 train where they are read: fields as in ``Spec``."""
    changed = {"samples": samples, "width": width, "times": times, "tolerance": tolerance, "device": device}
    return Stage(replace(INVARIANCE, **changed), log_loss, seeds)


def pseudo_value(estimate: float, without: Sequence[float] | np.ndarray, place: int) -> float:
    """R x - (R - 1) x without one of R runs, the one at ``place``: their mean is the jackknife estimate."""
    return len(without) * estimate - (len(without) - 1) * float(without[place])


def measured(cells: Mapping[tuple[str, int], Block]) -> dict[tuple[str, int], list[xr.Dataset]]:
    """``invariance.measure`` of every run of every cell; all are trained at once, since processes start slowly."""
    ensemble([spec for block in cells.values() for spec in block.specs], threads=1)
    return {cell: block.measure() for cell, block in cells.items()}


def common_attributes(runs: Sequence[xr.Dataset]) -> dict[str, object]:
    """What describes runs that differ in their seed: versions, settings and ``seeds``, without what tells one apart."""
    own = {"architecture", "depth", "seed", "spec", "function", "code", "threads"}
    kept = {name: value for name, value in runs[0].attrs.items() if name not in own}
    return kept | {"seeds": str([int(run.attrs["seed"]) for run in runs])}
