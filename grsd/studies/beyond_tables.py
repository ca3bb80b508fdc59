"""The tables of condition 4 beyond growth: cells that are judged, their parts, their surrogates, and the power."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import xarray as xr

from grsd.conditions import Verdict, invariance
from grsd.conditions.matched import frontier_window, widths_of
from grsd.evidence import results
from grsd.laws import VERDICTS, beyond_growth, growth_power, growth_surrogate
from grsd.laws.growth_pairs import growth_pairs
from grsd.shells import LogShells, parts_over_runs
from grsd.solvable import PlantedShells
from grsd.studies.beyond_growth import CELLS, block, budgets, claim_of, judged
from grsd.studies.stages import REACH, Block, common_attributes
from grsd.support.provenance import provenance

PILOTS = (("residual", 24), ("plain", 16))  # late, depth 16: the seeds that were run before the rules
SIZES = (8, 16, 24, 48, 96, 192)
TRUE_SHARES = (0.0, 0.04, 0.1)
SURROGATES = 20
ENSEMBLES = 20
LATER = 0.2  # the drift of t r is read between the loss of the cell and e^-.2 of it
# On how many seeds the strict rule, which a growing kernel passes, has judged the cell before.
JUDGED_BEFORE = {
    ("early", "residual", 16): "8",
    ("early", "residual", 32): "8",
    ("early", "plain", 16): "8",
    ("early", "plain", 32): "8",
    ("late", "residual", 16): "24, then 96",
    ("late", "residual", 32): "24, then 96",
    ("late", "plain", 16): "24",
    ("late", "plain", 32): "24",
}
SHELLS, INSIDE = LogShells(1.0, 0.1), (-11.0, -1.0)
LAW = PlantedShells(exponent=1.5, kappa=(1.0, 0.4), scale=0.1, noise=0.3, modes=36, shells=SHELLS)
PLANTED = {
    "law b = 1.5 and growth": LAW,
    "kinked exponent and growth": replace(LAW, bend=(-6.0, 2.0)),
    "log-periodic and growth": replace(LAW, wiggle=0.4, period=3.0),
}
GROWING = replace(LAW, scale=0.4, noise=0.1)


Cell = tuple[str, str, int, int]


def shown() -> dict[Cell, Block]:
    """The cells whose claim on D_0^2 has a result, by (stage, architecture, depth, width), in the order of ``CELLS``.

    Pilot seeds stand for those late cells of depth 16 that have none yet.
    """
    stored, counts = results(), dict(PILOTS)
    found = {}
    for stage, name, depth, width in CELLS:
        cell = stage, name, depth, width
        if claim_of(*cell) in stored:
            found[cell] = block(stage, name, depth, width=width)
        elif cell == ("late", name, 16, 48) and name in counts:
            found[cell] = block(stage, name, depth, 0, runs=counts[name])
    return found


@cache
def parts(cell: Block) -> xr.Dataset:
    """``parts_over_runs`` of a cell in its window."""
    found = budgets(cell)
    return parts_over_runs(found, window=frontier_window(found, cell.reach))


def drift(cell: Block) -> tuple[float, float]:
    """Mean change of t r per unit of log time and its standard error; NaN if a run ends before the later loss."""
    with contextlib.suppress(ValueError):
        now, then = parts(cell), parts(replace(cell, log_loss=cell.log_loss - LATER))
        passed = np.log(then.clock / then.rate) - np.log(now.clock / now.rate)
        return _mean((then.clock - now.clock) / passed)
    return math.nan, math.nan


def strict_rule(cell: Block) -> dict[str, Verdict]:
    """Condition 4 by its own rule, of a cell and of a surrogate in which only growth is common to the runs."""
    found = budgets(cell)
    (runs,), window = widths_of("strict_rule", found), frontier_window(found, cell.reach)
    grown = growth_surrogate(runs, 0, window=window, enlarged=True)
    return {name: invariance.judge(one, window=window) for name, one in (("rule", runs), ("rule_surrogate", grown))}


def cell_table() -> xr.Dataset:
    """One row per judged cell: D_0^2, the law of the remainder, free and strict, and what the transport is made of."""
    rows = [_row(cell, own) for cell, own in shown().items()]
    columns = {name: ("cell", [row[name] for row in rows]) for name in rows[0]}
    found = xr.Dataset(columns, {"cell": np.arange(len(rows))})
    return found.assign_attrs(_attributes())


def _row(cell: Cell, own: Block) -> dict[str, object]:
    stage, name, depth, width = cell
    found, split = judged(own), parts(own)
    clock, slope = _mean(split.clock), drift(own)
    row = {"cell_name": _label(cell, own), "stage": stage, "architecture": name, "depth": depth, "width": width}
    row |= {"seeds": found.runs, "first_seed": own.first}
    row["judged_before"] = JUDGED_BEFORE.get(cell[:3], "0") if width == 48 else "0"
    row["verdict"] = found.verdict
    row |= _interval("share", found.share, found.share_interval)
    for what, law in strict_rule(own).items():
        row |= _interval(what, law.estimate, law.interval) | {f"{what}_verdict": law.verdict}
    row |= _interval("rest_free", found.free.share, found.free.share_interval)
    row |= _interval("exponent", found.free.exponent, found.free.exponent_interval)
    row |= _interval("rest_strict", found.strict.share, found.strict.share_interval)
    for part in split.part.values:
        row |= {f"{part}_share": float(split.share.sel(part=part))}
        row |= {f"{part}_share_error": float(split.share_error.sel(part=part))}
    row |= {"clock": clock[0], "clock_error": clock[1], "clock_drift": slope[0], "clock_drift_error": slope[1]}
    return row | {"pairs": len(found.positions), "reason": found.reason}


def parts_table() -> xr.Dataset:
    """Velocities in units of 1 / t, split into parts, over (cell, place); ``position`` in log(lambda t), NaN beyond."""
    rows = [
        parts_of(budgets(own)).assign(of=_label(cell, own)).expand_dims({"cell": [number]})
        for number, (cell, own) in enumerate(shown().items())
    ]
    return _joined(rows).assign_attrs(_attributes())


def parts_of(runs: Sequence[xr.Dataset], reach: float = REACH) -> xr.Dataset:
    """The same of the runs of one cell, over ``place``; ``runs``: budgets at one width with their ``time``."""
    low, high = frontier_window(runs, reach)
    split = parts_over_runs(runs, window=(low, high)).sel(boundary=slice(low, high))
    time = math.exp(np.mean([math.log(float(run.time)) for run in runs]))
    columns = {"position": split.boundary.values + math.log(time)}
    for part in split.part.values:
        one = split.sel(part=part)
        columns |= {str(part): one.velocity.values * time, f"{part}_error": one.velocity_error.values * time}
    columns = {name: ("place", column) for name, column in columns.items()}
    return xr.Dataset(columns, {"place": np.arange(split.sizes["boundary"])})


def remainder_table() -> xr.Dataset:
    """The couplings beyond growth in units of 1 / t over (cell, pair), and what the law gives, b free and b = 1.

    ``position`` in log(lambda t), ``separation``; ``value`` with its standard ``error`` over runs; NaN past the last.
    """
    rows = []
    for number, (cell, own) in enumerate(shown().items()):
        found, runs = judged(own), budgets(own)
        given, *_ = growth_pairs(
            "remainder_table", *widths_of("remainder_table", runs), 2, frontier_window(runs, own.reach)
        )
        time = math.exp(np.mean([math.log(float(run.time)) for run in runs]))
        rest = given.without_growth(given.coupling) / given.root * time
        columns = {"position": found.positions + math.log(time), "separation": found.separations.astype(float)}
        columns |= {"value": rest.mean(0), "error": rest.std(0, ddof=1) / math.sqrt(len(rest))}
        for name, law in (("free", found.free), ("strict", found.strict)):
            fitted = np.broadcast_to(law.amplitudes @ given.shapes(law.exponent - 1), rest.shape)
            columns[name] = given.without_growth(fitted).mean(0) / given.root * time
        row = xr.Dataset({name: ("pair", column) for name, column in columns.items()})
        row = row.assign(of=_label(cell, own)).assign_coords(pair=np.arange(len(found.positions)))
        rows.append(row.expand_dims({"cell": [number]}))
    return _joined(rows).assign_attrs(_attributes())


def surrogate_table() -> xr.Dataset:
    """The share of growth surrogates per verdict, over (case, enlarged, verdict)."""
    shares = {}
    for cell, own in shown().items():
        (runs,), window = widths_of("surrogate_table", budgets(own)), frontier_window(budgets(own), own.reach)
        for enlarged in (False, True):
            made = (growth_surrogate(runs, n, window=window, enlarged=enlarged) for n in range(SURROGATES))
            shares[_label(cell, own), int(enlarged)] = _shares(
                beyond_growth(one, window=window).verdict for one in made
            )
    cases = list(dict.fromkeys(case for case, _ in shares))
    array = np.full((len(cases), 2, len(VERDICTS)), np.nan)
    for (case, enlarged), found in shares.items():
        array[cases.index(case), enlarged] = found
    coords = {"case": cases, "enlarged": [0, 1], "verdict": list(VERDICTS)}
    return xr.Dataset({"share": (list(coords), array)}, coords, provenance({"surrogates": SURROGATES}))


def planted_table() -> xr.Dataset:
    """The share of planted ensembles of 24 runs per verdict, over (case, verdict)."""
    shares = {
        name: _shares(beyond_growth(_planted(planted, number), window=INSIDE).verdict for number in range(ENSEMBLES))
        for name, planted in PLANTED.items()
    }
    grown = (growth_surrogate(_planted(GROWING, number), number, window=INSIDE) for number in range(ENSEMBLES))
    shares["growth surrogate of such an ensemble"] = _shares(beyond_growth(one, window=INSIDE).verdict for one in grown)
    coords = {"case": list(shares), "verdict": list(VERDICTS)}
    return xr.Dataset({"share": (list(coords), list(shares.values()))}, coords, provenance({"ensembles": ENSEMBLES}))


def power_table() -> xr.Dataset:
    """``growth_power`` of the pilot seeds of depth 16, late, over (architecture, true_share, runs, outcome)."""
    rows = []
    for name, count in PILOTS:
        own = block("late", name, 16, 0, runs=count)
        (runs,), window = widths_of("power_table", budgets(own)), frontier_window(budgets(own), own.reach)
        for true in TRUE_SHARES:
            row = growth_power(runs, SIZES, share=true, window=window)
            rows.append(row.expand_dims({"architecture": [name], "true_share": [true]}))
    settings = {"stage": "late", "depth": 16, "pilot_seeds": str(dict(PILOTS)), "draws": int(rows[0].attrs["draws"])}
    return xr.combine_by_coords(rows, combine_attrs="drop").assign_attrs(provenance(settings))


TABLES = {
    "06_log_shift_invariance-beyond": cell_table,
    "06_log_shift_invariance-beyond-parts": parts_table,
    "06_log_shift_invariance-beyond-remainder": remainder_table,
    "06_log_shift_invariance-beyond-surrogate": surrogate_table,
    "06_log_shift_invariance-beyond-planted": planted_table,
    "06_log_shift_invariance-beyond-power": power_table,
}


def _joined(rows: Sequence[xr.Dataset]) -> xr.Dataset:
    return xr.concat(rows, "cell", join="outer", data_vars="all", coords="minimal", compat="override")


def _planted(planted: PlantedShells, number: int) -> Sequence[xr.Dataset]:
    return planted.budgets(range(1000 * number, 1000 * number + 24), SHELLS)


def _label(cell: Cell, own: Block) -> str:
    stage, name, depth, width = cell
    wide = "" if width == 48 else f", width {width}"
    return f"{stage} {name} {depth}{wide}" + (", pilots" if own.first == 0 else "")


def _shares(verdicts: Iterable[str]) -> list[float]:
    counts = Counter(verdicts)
    return [counts[verdict] / counts.total() for verdict in VERDICTS]


def _mean(values: xr.DataArray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1)) / math.sqrt(values.size)


def _interval(name: str, estimate: float, interval: tuple[float, float]) -> dict[str, float]:
    return {name: float(estimate), f"{name}_low": float(interval[0]), f"{name}_high": float(interval[1])}


def _attributes() -> dict[str, object]:
    runs = next(iter(shown().values())).measure(progress=False)
    own = common_attributes(runs)
    left_out = {"log_loss", "width", "times", "shell_widths", "seeds", "shell_width"}
    return {name: value for name, value in own.items() if name not in left_out}
