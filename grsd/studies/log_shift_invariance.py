"""Notebook 06: condition 4, couplings that do not depend on where in the spectrum the shells lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import xarray as xr

from grsd.conditions import Verdict, invariance
from grsd.conditions.matched import frontier_window
from grsd.evidence import Measurement
from grsd.runs import ensemble
from grsd.runs.history import join_widths
from grsd.shells import LogShells
from grsd.solvable import PlantedShells
from grsd.studies import beyond_growth, beyond_tables
from grsd.studies.calibration import INTERIOR, LAW, WIDTHS, ensemble_budgets
from grsd.studies.independent import contrast_of
from grsd.studies.stages import (
    EARLY,
    LATE,
    LATE_LARGE,
    RUNS,
    Block,
    Contrast,
    Stage,
    pseudo_value,
)
from grsd.support.provenance import provenance

INVARIANT = replace(LAW, noise=0.1)
LOG_PERIODIC = replace(LAW, wiggle=0.6, period=2.5)
SCALED = replace(LAW, scale=0.1)


@dataclass(frozen=True)
class Planted:
    """Ensembles of planted systems: whether all of them get this verdict."""

    systems: tuple[PlantedShells, ...]
    verdict: str
    shells: tuple[LogShells, ...] = WIDTHS
    window: tuple[float, float] = INTERIOR
    runs: int = RUNS


def planted_runs(
    planted: PlantedShells, number: int, runs: int = RUNS, shells: Sequence[LogShells] = WIDTHS
) -> list[xr.Dataset]:
    """The runs of ensemble n of a plant, each measured at all ``shells``, as ``invariance.judge`` takes them."""
    return [join_widths(run) for run in zip(*ensemble_budgets(planted, shells, number, runs), strict=True)]


def planted_verdict(protocol: Planted, number: int) -> float:
    """One or zero, for the ensemble of that number."""
    found = (
        invariance.judge(planted_runs(system, number, protocol.runs, protocol.shells), window=protocol.window)
        for system in protocol.systems
    )
    return float(all(one.verdict == protocol.verdict for one in found))


@cache
def judged(block: Block) -> tuple[Verdict, tuple[float, ...]]:
    """Condition 4 of a block, and D^2 without each of its runs."""
    found = block.measure(progress=False)
    window = frontier_window(found, block.reach)
    rest = (found[:run] + found[run + 1 :] for run in range(block.runs))
    without = tuple(invariance.judge(part, window=window).estimate for part in rest)
    return invariance.judge(found, window=window), without


def defect(protocol: Block, seed: int) -> float:
    """The jackknife pseudo-value of a seed in its block of R runs: R D^2 - (R - 1) D^2 without it."""
    block, place = protocol.of(seed)
    found, without = judged(block)
    return pseudo_value(found.estimate, without, place)


def contrast(protocol: Contrast, seed: int) -> float:
    """``defect`` of one cell minus that of the other; the networks of one seed start from the same weights."""
    return defect(protocol.one, seed) - defect(protocol.other, seed)


def road_table() -> xr.Dataset:
    """The velocities of ``grsd.studies.independent`` at both stages and two depths, 8 seeds each."""
    moments = [
        {"depth": depth, "log_loss": stage.log_loss, "seeds": 8} for stage in (EARLY, LATE) for depth in (16, 32)
    ]
    roads = ensemble(moments, contrast_of, threads=1)
    kept = [
        road[["drift", "error", "defect", "defect_error"]].expand_dims(
            {name: [moment[name]] for name in ("depth", "log_loss")}
        )
        for road, moment in zip(roads, moments, strict=True)
    ]
    settings = {name: value for name, value in roads[0].attrs.items() if name not in {"depth", "log_loss"}}
    return xr.combine_by_coords(kept, combine_attrs="drop").assign_attrs(provenance(settings))


TABLES = {
    "06_log_shift_invariance-independent": road_table,
    **beyond_tables.TABLES,
}


def _defects(stage: Stage, first: int, claims: Mapping[tuple[str, int], str]) -> dict[str, Measurement]:
    return {claim: Measurement(stage.block(*cell, first), defect) for cell, claim in claims.items()}


def _contrast(stage: Stage, depth: int, first: int) -> Measurement:
    return Measurement(Contrast(*(stage.block(name, depth, first) for name in ("plain", "residual"))), contrast)


# The claims on the defect of each cell (architecture, depth), by when it was read and on how many seeds.
EARLY_CLAIMS = {
    ("residual", 16): "invariance-residual-16",
    ("residual", 32): "log-shift-invariance",
    ("plain", 16): "invariance-plain-16",
    ("plain", 32): "invariance-plain-32",
}
LATE_CLAIMS = {(name, depth): f"late-invariance-{name}-{depth}" for name, depth in EARLY_CLAIMS}
LARGE_CLAIMS = {("residual", depth): f"late-invariance-residual-{depth}-96" for depth in (16, 32)}
MEASUREMENTS = {
    **_defects(EARLY, 1000, EARLY_CLAIMS),
    "residual-networks": _contrast(EARLY, 32, 1000),
    "invariance-contrast-16": _contrast(EARLY, 16, 1000),
    **_defects(LATE, 2000, LATE_CLAIMS),
    "late-contrast-16": _contrast(LATE, 16, 2000),
    "late-contrast-32": _contrast(LATE, 32, 2000),
    **_defects(LATE_LARGE, 3000, LARGE_CLAIMS),
    "invariance-constructed": Measurement(Planted((INVARIANT,), "holds"), planted_verdict),
    "invariance-broken": Measurement(Planted((LOG_PERIODIC, SCALED), "fails"), planted_verdict),
    **beyond_growth.MEASUREMENTS,
}
