"""Notebook 06: condition 4, couplings that do not depend on where in the spectrum the shells lie."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
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
    REACH,
    RUNS,
    Block,
    Contrast,
    Stage,
    common_attributes,
    measured,
    pseudo_value,
)
from grsd.support.provenance import provenance

INVARIANT = replace(LAW, noise=0.1)
LOG_PERIODIC = replace(LAW, wiggle=0.6, period=2.5)
SCALED = replace(LAW, scale=0.1)
DEPTHS = (4, 8, 16, 32)


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


def defect_table(cells: Mapping[tuple[str, int], Sequence[xr.Dataset]], reach: float = REACH) -> xr.Dataset:
    """D^2 over (architecture, depth, observable, scale_removed): ``defect``, ``low``, ``high``, ``p``, ``verdict``.

    Args: ``cells`` by (architecture, depth), each a list of runs from ``invariance.measure``.
    NaN and "inconclusive" where the window has too few shells for the fit.
    """
    axes = {
        "architecture": list(dict.fromkeys(architecture for architecture, _ in cells)),
        "depth": list(dict.fromkeys(depth for _, depth in cells)),
        "observable": ["coupling", "velocity"],
        "scale_removed": [0, 1],
    }
    shape = [len(axis) for axis in axes.values()]
    numbers = {name: np.full(shape, np.nan) for name in ("defect", "low", "high", "p")}
    verdicts = np.full(shape, "inconclusive", dtype=object)
    for at in np.ndindex(*shape):
        architecture, depth, observable, scale = (axis[k] for axis, k in zip(axes.values(), at, strict=True))
        runs = cells[architecture, depth]
        window = frontier_window(runs, reach)
        with contextlib.suppress(ValueError):
            found = invariance.judge(runs, window=window, observable=observable, scale=bool(scale))
            values = (found.estimate, *found.interval, found.details.p)
            for array, value in zip(numbers.values(), values, strict=True):
                array[at] = value
            verdicts[at] = found.verdict
    data = {name: (list(axes), array) for name, array in numbers.items()} | {"verdict": (list(axes), verdicts)}
    return xr.Dataset(data, axes, attrs=_common(cells, reach))


def coupling_table(cells: Mapping[tuple[str, int], Sequence[xr.Dataset]], reach: float = REACH) -> xr.Dataset:
    """K_ab t and the fitted law over (architecture, depth, pair), at the first width; t the geometric mean over runs.

    ``position`` in log(lambda t), ``separation``, ``value``, ``error`` (standard), ``fitted``; NaN past a cell's last.
    """
    rows = []
    for (architecture, depth), runs in cells.items():
        fit = invariance.judge(runs, window=frontier_window(runs, reach)).details.test.fits[0]
        time = float(np.exp(np.mean([np.log(run.time) for run in runs])))
        scaled = {"value": fit.values * time, "error": fit.standard_errors * time, "fitted": fit.fitted * time}
        columns = {"position": fit.positions + math.log(time), "separation": fit.separations.astype(float)} | scaled
        row = xr.Dataset({name: ("pair", column) for name, column in columns.items()})
        labels = {"pair": np.arange(len(fit.values)), "architecture": [architecture], "depth": [depth]}
        rows.append(row.assign_coords(pair=labels.pop("pair")).expand_dims(labels))
    return xr.combine_by_coords(rows, join="outer").assign_attrs(_common(cells, reach))


def power_table(
    cells: Mapping[tuple[str, int], Sequence[xr.Dataset]],
    runs: Sequence[int],
    *,
    lawful: bool = True,
    draws: int = 40,
) -> xr.Dataset:
    """``invariance.power`` of the couplings over (architecture, depth, runs, verdict).

    ``lawful``: if the fitted law is true; otherwise if what was measured is.
    """
    rows = []
    for (architecture, depth), cell in cells.items():
        window = frontier_window(cell, REACH)
        found = invariance.power(cell, runs, window=window, lawful=lawful, draws=draws)
        rows.append(found.expand_dims({"architecture": [architecture], "depth": [depth]}))
    settings = {"draws": draws, "lawful": int(lawful)}
    return xr.combine_by_coords(rows, combine_attrs="drop").assign_attrs(_common(cells, REACH) | settings)


def _common(cells: Mapping[tuple[str, int], Sequence[xr.Dataset]], reach: float) -> dict[str, object]:
    return common_attributes(next(iter(cells.values()))) | {"reach": reach}


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


def early_defects() -> xr.Dataset:
    """``defect_table`` of 8 pilot seeds per cell."""
    return defect_table(measured(EARLY.cells(DEPTHS, 0)))


def early_power() -> xr.Dataset:
    """``power_table`` of the pilot seeds, if the law is true."""
    return power_table(measured(EARLY.cells((16, 32), 0)), (8, 16, 32, 64, 128, 256, 512))


def late_couplings() -> xr.Dataset:
    """``coupling_table`` of the late confirmatory seeds."""
    return coupling_table(measured(LATE.cells((16, 32), 2000)))


def late_power() -> xr.Dataset:
    """``power_table`` of the late confirmatory seeds, if what was measured is true."""
    return power_table(measured(LATE.cells((16, 32), 2000)), (8, 24, 48, 96, 192, 384), lawful=False)


TABLES = {
    "06_log_shift_invariance-defect": early_defects,
    "06_log_shift_invariance-power": early_power,
    "06_log_shift_invariance-late": late_couplings,
    "06_log_shift_invariance-power-late": late_power,
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
DEFECT_CLAIMS = {"early, 8 seeds": EARLY_CLAIMS, "late, 24 seeds": LATE_CLAIMS, "late, 96 seeds": LARGE_CLAIMS}
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
