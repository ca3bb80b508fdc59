"""What notebook 12 shows of its cells: the contrasts that are judged, and one row of numbers per cell."""

from __future__ import annotations

import contextlib
import math
from functools import cache

import numpy as np
import xarray as xr

from grsd.conditions import evolution
from grsd.conditions.matched import budget_at_loss, frontier_window
from grsd.evidence import Result, results
from grsd.shells import parts_over_runs
from grsd.studies.architectures import flows
from grsd.studies.architectures.cells import CELLS, WITHOUT
from grsd.studies.architectures.flows import (
    SHELLS,
    Reading,
    forecasts,
    foretold,
    growth_share,
    history,
    judged,
    reading,
)
from grsd.support.provenance import provenance

TILTS = (-1.0, 1.0)
CLAIMS = {"flow": "skips-growth-share-{}-{}", "adam": "skips-growth-share-adam-{}-{}"}


Shown = list[tuple[str, str, bool]]


def shown() -> Shown:
    """(family, data, skips) of the cells that have a result by gradient flow, in their order."""
    kept = [pair for pair in CELLS if ("flow", *pair) in contrasts()]
    return [(*pair, skips) for pair in kept for skips in (True, False)]


def contrasts() -> dict[tuple[str, str, str], Result]:
    """The results on the growth share with skips minus without, by (way, family, data); those that are stored."""
    stored = results()
    found = {(way, *pair): stored.get(claim.format(*pair)) for pair in CELLS for way, claim in CLAIMS.items()}
    return {key: result for key, result in found.items() if result is not None}


def rates(run: xr.Dataset) -> xr.Dataset:
    """What ``evolution.measure`` gives, from a run of ``flows.followed``."""
    found = run[["t_rho", "t_omega"]].drop_vars(["time", "shell"], errors="ignore")
    found = found.rename(rate_time="time", rate_shell="shell")
    return found.assign_attrs(seed=int(run.attrs["seed"]), depth=1, shell_width=evolution.SHELLS.width)


def tilted(budget: xr.Dataset, reach: float) -> float:
    """The larger growth share of two fluxes that are no growth: eps lambda^-1 and eps lambda, on the run's own eps.

    A control: where few shells carry the flux, no growth share is far from one. ``budget``: one state with its
    ``time``; ``reach``: e-folds of the window down from the frontier.
    """
    frontier = -math.log(float(budget.time))
    inside = (budget.boundary_mask == 0) & (np.abs(budget.boundary - frontier + reach / 2) <= reach / 2)
    density, place = budget.density.values[inside], budget.boundary.values[inside] - frontier
    fluxes = [density * np.exp(tilt * place) for tilt in TILTS]
    return max(float((flux @ density) ** 2 / (flux @ flux) / (density @ density)) for flux in fluxes)


def tilted_share(own: Reading, seed: int) -> float:
    """``tilted`` of one run."""
    return tilted(budget_at_loss("tilted_share", history(own.cell, seed), SHELLS, own.log_loss), own.reach)


def loss_exponents(run: xr.Dataset) -> dict[str, float]:
    """-d log(loss) / d log(time) from e^-.5 of the first loss to the end of a run: measured, and of the forecasts.

    Least squares over the snapshots that ``flows.foretold`` gives. NaN for a run that has one of them alone.
    """
    found = foretold(run)
    log_time = np.log(found.pop("time"))
    if len(log_time) < 2:
        return dict.fromkeys(found, math.nan)
    return {name: -float(np.polyfit(log_time, np.log(losses), 1)[0]) for name, losses in found.items()}


@cache
def row_of(own: Reading) -> dict[str, object]:
    """What ``cell_table`` says of one cell, by column."""
    runs, budgets = own.histories, own.budgets
    seeds = range(own.first, own.first + own.runs)
    trend = evolution.eta([rates(run) for run in runs])
    errors = [forecasts(run) for run in runs]
    passed = [
        float(budget.time) * float(run.start_largest_eigenvalue) for budget, run in zip(budgets, runs, strict=True)
    ]
    row: dict[str, object] = {"seeds": own.runs, "first_seed": own.first}
    row |= _mean("growth_share", [growth_share(own, seed) for seed in seeds])
    row["tilted_share"] = float(np.mean([tilted_share(own, seed) for seed in seeds]))
    row |= dict.fromkeys(("rotation_share", "rotation_share_error", "clock", "clock_error"), math.nan)
    with contextlib.suppress(ValueError):  # no boundary is common to all runs
        split = parts_over_runs(budgets, window=frontier_window(budgets, own.reach))
        row |= {"rotation_share": float(split.share.sel(part="rotation"))}
        row |= {"rotation_share_error": float(split.share_error.sel(part="rotation"))}
        row |= _mean("clock", split.clock.values)
    row |= {"eta": trend.value, "eta_low": trend.interval[0], "eta_high": trend.interval[1]}
    row |= {"largest_t_rho": trend.supremum, "controlled": trend.verdict}
    row |= dict.fromkeys(("beyond", "beyond_low", "beyond_high", "rest_free", "exponent"), math.nan)
    row |= {"verdict": "too few shells in common", "pairs": 0}
    with contextlib.suppress(ValueError):
        found = judged(own)
        low, high = found.share_interval
        row |= {"beyond": found.share, "beyond_low": low, "beyond_high": high, "verdict": found.verdict}
        row |= {"rest_free": found.free.share, "exponent": found.free.exponent, "pairs": len(found.positions)}
    for method in ("growth", "lazy"):
        row |= _mean(f"forecast_{method}", [error[method] for error in errors])
    slopes = [loss_exponents(run) for run in runs]
    for name in slopes[0]:
        row |= _mean(f"exponent_{name}", [found[name] for found in slopes])
    row["time"] = math.exp(np.mean(np.log(passed)))
    return row


def _mean(name: str, values: object) -> dict[str, float]:
    array = np.asarray(values, dtype=float)
    array = array[np.isfinite(array)]
    return {name: float(array.mean()), f"{name}_error": float(array.std(ddof=1) / math.sqrt(array.size))}


def cell_table() -> xr.Dataset:
    """One row per cell: shares of the squared flux, the clock t r, eta, D_0^2, and errors of two forecasts.

    ``tilted_share``: what the growth share reads on fluxes that are no growth. ``time``: when the loss is passed, in
    units of 1 / lambda_max(0), geometric mean. ``exponent_...``: of the loss, ``loss_exponents``.
    """
    of = shown()
    rows = [row_of(reading(family, skips, data)) for family, data, skips in of]
    columns = {name: ("cell", [row[name] for row in rows]) for name in rows[0]}
    return labelled(xr.Dataset(columns, {"cell": np.arange(len(rows))}), of)


def labelled(table: xr.Dataset, of: Shown) -> xr.Dataset:
    """Name the cells: family, data set, with skips or without, and architecture."""
    families, data, skips = zip(*of, strict=True)
    names = [family if own else family + WITHOUT for family, own in zip(families, skips, strict=True)]
    labels = {"family": families, "data": data, "skips": [int(own) for own in skips], "architecture": names}
    table = table.assign({name: ("cell", list(column)) for name, column in labels.items()})
    settings = {"log_loss": flows.LOG_LOSS, "shell_width": SHELLS.width, "smoothing": SHELLS.smoothing}
    return table.assign_attrs(provenance(settings))


TABLES = {
    "12_architectures-cells": cell_table,
}
