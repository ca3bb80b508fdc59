r"""From lazy to rich learning: the outputs are scaled by alpha around their start, f -> alpha (f - f_0).

The larger alpha, the less the parameters have to move for the same loss (Chizat, Oyallon and Bach 2019, On lazy
training in differentiable programming). What moves between shells has two speeds, both zero for lazy learning: that of
the kernel's growth, t r, and that of the rest of the flux, t |F - r eps| / |eps| over the boundaries of the window.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from torch import Tensor, nn

from grsd.conditions.matched import budget_at_loss
from grsd.evidence import Measurement
from grsd.runs import Spec, run
from grsd.shells import transport_parts
from grsd.studies.architectures import flows, tables

FAMILY, DATA = "gated-perceptron", "digits"
SAID = {"sixteenth": 1 / 16, "quarter": 1 / 4, "one": 1.0, "four": 4.0, "sixteen": 16.0}
SCALES = tuple(SAID.values())
RICH, LAZY = SCALES[0], SCALES[-1]
FRESH = {"runs": 48, "first": 5000}  # for the control, looked at after the first verdicts
LINEAR = SCALES[2:]  # where the speed should fall as 1 / alpha


class Scaled(nn.Module):
    """``scale`` times the network's change since its start; zero at the start."""

    def __init__(self, network: nn.Module, scale: float) -> None:
        super().__init__()
        self.network, self.start, self.scale = network, copy.deepcopy(network).requires_grad_(False), scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (self.network(x) - self.start(x))


@dataclass(frozen=True)
class Scale:
    """A cell of ``flows`` whose outputs are scaled by ``output_scale``."""

    reading: flows.Reading
    output_scale: float


@dataclass(frozen=True)
class Pair:
    """Two cells with the same seeds and one scale: the number of the first minus that of the second."""

    one: Scale
    other: Scale


@dataclass(frozen=True)
class Scales:
    """One cell at several scales."""

    cells: tuple[Scale, ...]


def scaled(experiment: Mapping[str, object]) -> xr.Dataset:
    """``flows.follow`` of the network of a spec's fields, its outputs scaled by ``output_scale``."""
    own = dict(experiment)
    until, scale = own.pop("until"), own.pop("output_scale")
    spec = Spec.from_dict(own)
    data = spec.batch()
    return flows.follow(spec, data, Scaled(spec.network(data), scale), until).assign_attrs(output_scale=scale)


def history(protocol: Scale, seed: int) -> xr.Dataset:
    """``scaled`` of the network of a seed, kept in a file."""
    fields = {"until": flows.UNTIL, "output_scale": protocol.output_scale}
    return run(protocol.reading.cell.spec(seed).to_dict() | fields, scaled, progress=False)


def speeds(protocol: Scale, seed: int) -> dict[str, float]:
    """``growth``: t r of the best growth of the whole kernel. ``rest``: t |F - r eps| / |eps|. ``share``: of growth.

    In the run's own window, where its loss is e^-1 of the start; |F|^2 / |eps|^2 is (r^2 + rest^2 / t^2). ``tilted``:
    the control of the share, ``tables.tilted``.
    """
    own = protocol.reading
    budget = budget_at_loss("speeds", history(protocol, seed), flows.SHELLS, own.log_loss)
    frontier = -math.log(float(budget.time))
    parts = transport_parts(budget, window=(frontier - own.reach, frontier))
    growth, share = float(parts.clock), float(parts.share.sel(part="growth"))
    rest = abs(growth) * math.sqrt(max(1 / share - 1, 0.0))  # a share of one is not always rounded down
    return {"growth": growth, "rest": rest, "share": share, "tilted": tables.tilted(budget, own.reach)}


def speed(protocol: Scale, seed: int) -> float:
    """t |F| / |eps|: how fast energy moves between shells, by whatever."""
    found = speeds(protocol, seed)
    return math.hypot(found["growth"], found["rest"])


def growth_speed(protocol: Scale, seed: int) -> float:
    """t r of one run."""
    return speeds(protocol, seed)["growth"]


def speed_slope(protocol: Scales, seed: int) -> float:
    """The least-squares slope of log2 of the speed in log2 of the scale."""
    x = np.log2([own.output_scale for own in protocol.cells])
    return float(np.polyfit(x, [math.log2(speed(own, seed)) for own in protocol.cells], 1)[0])


def share_contrast(protocol: Pair, seed: int) -> float:
    """The growth share of the first cell minus that of the second."""
    return speeds(protocol.one, seed)["share"] - speeds(protocol.other, seed)["share"]


def control_contrast(protocol: Scale, seed: int) -> float:
    """The growth share of one run minus that of its control."""
    found = speeds(protocol, seed)
    return found["share"] - found["tilted"]


def at(skips: bool, scale: float, **block: int) -> Scale:
    """The confirmatory runs of the cell at a scale; ``block``: other ``runs`` from another ``first`` on."""
    return Scale(replace(flows.reading(FAMILY, skips, DATA), **block), scale)


def scale_table() -> xr.Dataset:
    """One row per scale, with skips and without: the speeds, the growth share and its control of every seed."""
    cells = [(scale, skips) for scale in SCALES for skips in (True, False)]
    seeds = range(flows.FIRST, flows.FIRST + flows.RUNS)
    rows = [[speeds(at(skips, scale), seed) for seed in seeds] for scale, skips in cells]
    columns = {
        name: (("cell", "seed"), [[found[name] for found in row] for row in rows])
        for name in ("growth", "rest", "share", "tilted")
    }
    columns["output_scale"] = ("cell", [scale for scale, _ in cells])
    table = xr.Dataset(columns, {"cell": np.arange(len(cells)), "seed": list(seeds)})
    return tables.labelled(table, [(FAMILY, DATA, skips) for _, skips in cells])


MEASUREMENTS = {
    f"scale-slope-{FAMILY}-{DATA}": Measurement(Scales(tuple(at(True, scale) for scale in LINEAR)), speed_slope),
    f"rich-clock-{FAMILY}-{DATA}": Measurement(at(True, RICH), growth_speed),
    f"rich-skips-growth-share-{FAMILY}-{DATA}": Measurement(Pair(at(True, RICH), at(False, RICH)), share_contrast),
    f"lazy-skips-growth-share-{FAMILY}-{DATA}": Measurement(Pair(at(True, LAZY), at(False, LAZY)), share_contrast),
    **{
        f"above-control-{FAMILY}-scale-{name}": Measurement(at(True, scale, **FRESH), control_contrast)
        for name, scale in SAID.items()
    },
}
TABLES = {"12_architectures-scales": scale_table}
