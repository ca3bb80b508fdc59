"""Notebook 02: readings beside the truth, laws that hold and laws that are broken, and how often the test errs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grsd.evidence import Claim, DecisionRule, Result
from grsd.laws import LawTest
from grsd.laws.fit import LawFit
from grsd.plotting.intervals import bar, forest, threshold
from grsd.plotting.style import COLOURS, LAMBDA, MARKERS, WIDTH, decades
from grsd.solvable import PlantedShells
from grsd.studies.exact_readings import Reading

VELOCITY = r"$u = F/\varepsilon$ [1/time]"
OUTCOMES = {
    "b_velocity": "b in its interval",
    "c": "c in its interval",
    "kappa": "($\\kappa_1, \\kappa_2$)\nin its region",
    "velocity_test": "law rejected,\nthough true",
}
EFFECTS = {
    "wiggle": "relative amplitude of the wave",
    "scale": "planted scale r [1/time], beside u = .3 $e^{s/2}$",
}


def exact(
    diagonal: Mapping[int, Reading],
    aligned: Mapping[float, Reading],
    times: np.ndarray,
    creep: Mapping[float, tuple[np.ndarray, np.ndarray, float]],
) -> Figure:
    """Draw what was read of exact models, as markers, on the closed forms, as lines.

    ``diagonal``: by depth. ``aligned``: by time. ``creep``: t u of the projected net, by beta: read, true and its
    limit, at ``times``.
    """
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(WIDTH, 3.6))
    for panel, readings, text in ((left, diagonal, "$P = {}$"), (middle, aligned, "$t = {}$")):
        for (key, reading), colour, marker in zip(readings.items(), COLOURS.values(), MARKERS, strict=False):
            _compare(panel, reading, colour, marker, text.format(key))
        panel.set(xlabel=LAMBDA, ylabel=VELOCITY)
    left.set(title="diagonal nets, $t = 3$", yscale="log", ylim=(1e-3, 5))
    middle.set(title="aligned two-layer net")
    for (beta, (read, true, limit)), colour, marker in zip(creep.items(), COLOURS.values(), MARKERS, strict=False):
        right.plot(times, true, color=colour, lw=1)
        right.plot(times, read, marker, color=colour, label=rf"$\beta = {beta}$")
        right.axhline(limit, color=colour, ls=":", lw=1)
    right.set(xscale="log", title="projected net; dotted: limit", xlabel="time $t$", ylabel="$t\\,u$")
    for panel, place in ((left, "upper left"), (middle, "upper right"), (right, (0.72, 0.68))):
        panel.legend(fontsize=8, loc=place)
    return figure


def moved(reading: Reading, time: float, title: str) -> Figure:
    """Draw one reading of an exact model, with the frontier lambda t = 1."""
    figure, axes = plt.subplots(figsize=(6, 3.2))
    _compare(axes, reading, COLOURS["blue"], "o", "reading")
    axes.axvline(-np.log10(time), color="grey", ls="--", lw=1, label=r"$\lambda t = 1$")
    axes.set(xlabel=LAMBDA, ylabel="$u$ [1/time]", title=title)
    axes.legend()
    return figure


def _compare(axes: Axes, reading: Reading, colour: str, marker: str, label: str) -> None:
    s, u = reading.curve
    axes.plot(decades(s), u, color=colour, lw=1)
    axes.plot(decades(reading.budget.boundary), reading.budget.velocity, marker, color=colour, label=label)


def planted(
    law: PlantedShells,
    runs: Sequence[xr.Dataset],
    velocity: LawFit,
    shells: PlantedShells,
    coupling: LawFit,
    shares: Mapping[str, tuple[xr.Dataset, Claim, Result]],
) -> Figure:
    """Draw the velocities and the couplings of one ensemble, and how often intervals of many contain the truth.

    ``runs``: the budgets that gave ``velocity``. ``shares``: by outcome, this run's share (``studies.calibration``),
    the claim whose rule says what it must contain, and the stored result.
    """
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(WIDTH, 3.6))
    _velocities(left, law, runs, velocity)
    _couplings(middle, shells, coupling)
    _coverage(right, shares)
    return figure


def _velocities(axes: Axes, law: PlantedShells, runs: Sequence[xr.Dataset], fit: LawFit) -> None:
    for run in runs:
        inside = (run.boundary >= fit.positions[0]) & (run.boundary <= fit.positions[-1])
        axes.plot(decades(run.boundary)[inside], run.velocity[inside], color="lightgrey", lw=0.8)
    s, u, twice = decades(fit.positions), fit.values, 2 * fit.standard_errors
    label = f"{len(runs)} runs, two standard errors"
    bar(axes, s, u, u - twice, u + twice, color=COLOURS["blue"], capsize=2, label=label)
    axes.plot(s, fit.fitted, color=COLOURS["red"], label=f"fit, b = {fit.exponent:.3f}")
    axes.set(yscale="log", xlabel=LAMBDA, ylabel="$u$ [1/time]", title=f"drift, planted b = {law.exponent}")
    axes.legend(fontsize=8)


def _couplings(axes: Axes, shells: PlantedShells, fit: LawFit) -> None:
    shift = np.exp(-(fit.exponent - 1) * (fit.positions - fit.reference))
    kappa = np.array(shells.kappa) * math.exp((shells.exponent - 1) * fit.reference)
    for k, colour, marker in zip(range(1, len(kappa) + 1), COLOURS.values(), MARKERS, strict=False):
        here = fit.separations == k
        values = (fit.values * shift)[here]
        axes.plot(decades(fit.positions[here]), values, marker, color=colour, label=f"$a - b = {k}$")
        axes.axhspan(*fit.amplitude_intervals[k - 1], color=colour, alpha=0.2, lw=0)
        axes.axhline(kappa[k - 1], color=colour, lw=1)
    axes.set(xlabel=r"middle of the pair, $\log_{10}\lambda$", ylabel=r"$K_{ab}\,e^{-(b-1)(s-s_0)}$ [1/time]")
    axes.set(title="couplings", ylim=(0, None))
    axes.legend(fontsize=8, loc="lower left")


def _coverage(axes: Axes, shares: Mapping[str, tuple[xr.Dataset, Claim, Result]]) -> None:
    here = {"color": COLOURS["sky"], "marker": "o", "label": "this run's pilot ensembles"}
    for row, (share, claim, _) in enumerate(shares.values()):
        ends = (float(share[name]) for name in ("share", "low", "high"))
        bar(axes, row + 0.15, *ends, horizontal=True, **here | ({"label": None} if row else {}))
        at = claim.judged.threshold
        axes.plot([at, at], [row - 0.35, row + 0.35], color="black", lw=1.5, label=None if row else "nominal")
    stored = [result for *_, result in shares.values()]
    how = {"color": COLOURS["red"], "marker": "s", "label": f"confirmatory, {len(stored[0].seeds)} ensembles"}
    forest(axes, stored, [OUTCOMES[name] for name in shares], shift=-0.15, **how)
    axes.set(xlabel="share of ensembles", xlim=(-0.03, 1.03), title="many ensembles; bars: 99 %")
    axes.set_ylim(len(shares) + 0.6, -0.6)  # room for the legend
    axes.legend(loc="lower right", fontsize=8)


def refused(tests: Mapping[str, LawTest], widths: Sequence[str]) -> Figure:
    """Draw, one panel per test, the departure of the velocity from its best power law with two standard errors.

    ``widths``: the names of the shell widths that a test took together.
    """
    figure, panels = plt.subplots(1, len(tests), figsize=(WIDTH, 3.4), sharey=True, squeeze=False)
    for panel, (name, test) in zip(panels.flat, tests.items(), strict=True):
        for fit, width, colour, marker in zip(test.fits, widths, COLOURS.values(), MARKERS, strict=False):
            gap, twice = fit.values / fit.fitted - 1, 2 * fit.standard_errors / fit.fitted
            how = {"color": colour, "marker": marker, "capsize": 2, "label": f"width {width}"}
            bar(panel, decades(fit.positions), gap, gap - twice, gap + twice, **how)
        panel.axhline(0, color="black", lw=0.8)
        panel.set_title(f"{name}\np = {test.p:.3f}", fontsize=9)
        panel.set_xlabel(LAMBDA)
    panels.flat[0].set_ylabel("$u$ / best power law $- 1$")
    panels.flat[0].legend(fontsize=8)
    return figure


def power(curves: Mapping[str, xr.Dataset], deep: Mapping[str, xr.Dataset], rule: DecisionRule) -> Figure:
    """Draw the share of ensembles refused against the size of each effect, one line per number of runs.

    ``curves``: this run's, open markers. ``deep``: the stored tables, lines with their intervals. ``rule``: of the
    share of false alarms.
    """
    figure, axes = plt.subplots(1, len(curves), figsize=(WIDTH, 3.8), sharey=True, squeeze=False)
    for panel, (kind, curve) in zip(axes.flat, curves.items(), strict=True):
        for count, colour, marker in zip(curve.runs.values, COLOURS.values(), MARKERS, strict=False):
            line = deep[kind].sel(runs=count)
            how = {"fmt": f"{marker}-", "color": colour, "capsize": 2, "label": f"R = {count}"}
            bar(panel, line.effect, line.share, line.low, line.high, **how)
            panel.plot(curve.effect, curve.share.sel(runs=count), marker, color=colour, mfc="none", ms=8)
        threshold(panel, rule, color="grey")
        panel.set(xlabel=EFFECTS[kind], ylim=(-0.02, 1.02))
    axes.flat[0].set_ylabel("share of ensembles that are rejected")
    axes.flat[-1].legend(fontsize=8)
    return figure
