"""Condition 4 beyond growth, for notebook 06: what the couplings of networks contain besides growth of the kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import xarray as xr

from grsd.conditions.matched import frontier_window, widths_of
from grsd.evidence import Measurement
from grsd.laws import BeyondGrowth, beyond_growth
from grsd.runs import at_width
from grsd.studies.stages import EARLY, LATE, Block, Contrast

RUNS = 24
FIRST = 4000
STAGES = {"early": EARLY, "late": LATE}
DEPTHS = (8, 16, 32, 64)
TREND = (8, 16, 32)
# Plain networks of depth 64 need longer to reach the late loss.
SLOW = {("late", "plain", 64): (20.0, 640.0, 6)}


@dataclass(frozen=True)
class Trend:
    """Cells of several depths with the same seeds: the slope of D_0^2 in the binary log of depth."""

    blocks: tuple[Block, ...]


def block(stage: str, name: str, depth: int, first: int = FIRST, *, width: int = 48, runs: int = RUNS) -> Block:
    """The seeds from ``first`` on of one cell."""
    found = STAGES[stage].block(name, depth, first)
    times = SLOW.get((stage, name, depth), found.network.times)
    return replace(found, runs=runs, network=replace(found.network, width=width, times=times))


def budgets(cell: Block) -> list[xr.Dataset]:
    """Budgets of the runs of a cell at its loss, with their ``time``, at the narrower of the two shell widths."""
    return [at_width(run, min(cell.network.shell_widths)) for run in cell.measure(progress=False)]


@cache
def judged(cell: Block) -> BeyondGrowth:
    """The couplings of a cell beyond growth, from the frontier down."""
    found = budgets(cell)
    window = frontier_window(found, cell.reach)
    return beyond_growth(*widths_of("judged", found), window=window)


def share(protocol: Block, seed: int) -> float:
    """D_0^2 of the block of a seed, as the number of that seed: the mean over seeds is D_0^2."""
    cell, place = protocol.of(seed)
    return float(judged(cell).values[place])


def contrast(protocol: Contrast, seed: int) -> float:
    """``share`` of one cell minus that of the other; the networks of one seed start from the same weights."""
    return share(protocol.one, seed) - share(protocol.other, seed)


def trend(protocol: Trend, seed: int) -> float:
    """The least-squares slope of ``share`` in log2 of the depth."""
    x = np.log2([cell.network.depth for cell in protocol.blocks])
    x = (x - x.mean()) / np.square(x - x.mean()).sum()
    return float(x @ [share(cell, seed) for cell in protocol.blocks])


def law_share(protocol: Block, seed: int) -> float:
    """D_rest^2 with b free, as ``share``."""
    cell, place = protocol.of(seed)
    return float(judged(cell).free.values[place])


def strict_share(protocol: Block, seed: int) -> float:
    """D_rest^2 with b = 1, as ``share``."""
    cell, place = protocol.of(seed)
    return float(judged(cell).strict.values[place])


def exponent(protocol: Block, seed: int) -> float:
    """The jackknife pseudo-value of b of the remainder."""
    cell, place = protocol.of(seed)
    return float(judged(cell).free.exponents[place])


# The claims on D_0^2 of each cell (stage, architecture, depth, width), in the order in which they are run.
CELLS = (
    *(("late", name, depth, 48) for depth in (16, 8, 32) for name in ("residual", "plain")),
    *(("early", name, depth, 48) for depth in (16, 8, 32) for name in ("residual", "plain")),
    *(("late", name, depth, 96) for depth in (16, 32) for name in ("residual", "plain")),
    *((stage, name, 64, 48) for stage in ("late", "early") for name in ("residual", "plain")),
)


def claim_of(stage: str, name: str, depth: int, width: int = 48) -> str:
    """The id of the claim on D_0^2 of a cell."""
    wide = "" if width == 48 else f"-width-{width}"
    return f"growth-only-{stage}-{name}-{depth}{wide}"


def _late(name: str, depth: int) -> Block:
    return block("late", name, depth)


MEASUREMENTS = {
    **{claim_of(*cell): Measurement(block(*cell[:3], width=cell[3]), share) for cell in CELLS},
    **{
        f"beyond-contrast-{stage}-{depth}": Measurement(
            Contrast(block(stage, "plain", depth), block(stage, "residual", depth)), contrast
        )
        for stage in STAGES
        for depth in DEPTHS
    },
    **{
        f"beyond-trend-{name}": Measurement(Trend(tuple(_late(name, depth) for depth in TREND)), trend)
        for name in ("residual", "plain")
    },
    **{f"beyond-law-plain-{depth}": Measurement(_late("plain", depth), law_share) for depth in (16, 32)},
    **{f"beyond-exponent-plain-{depth}": Measurement(_late("plain", depth), exponent) for depth in (16, 32)},
    "beyond-strict-plain-16": Measurement(_late("plain", 16), strict_share),
}
