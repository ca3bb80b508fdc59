"""The figures of notebook 05: rates of the Jacobian over the spectrum and time, and their slopes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from grsd.evidence import DecisionRule, Result
from grsd.plotting.cells import cell_look, ordered
from grsd.plotting.intervals import bar, rows, threshold
from grsd.plotting.style import COLOURS, WIDTH, decades, look

SMALLEST = 1e-4  # rates that die out fall by dozens of decades
PLACES = ((-6.0, -4.0), (-4.0, -2.0), (-2.0, 0.0))  # in log lambda t: below the frontier
RATES = {
    "rho": r"$\rho$, kernel of a shell",
    "omega": r"$\omega$, projector of a shell",
    "jacobian": r"$\tau$, rows of $J$, worst",
    "jacobian_typical": r"$\tau$, rows of $J$, typical",
}
SLOPES = {"time": r"$\beta_t$, time", "shell": r"$\beta_s$, spectrum", "depth": r"$\beta_L$, depth"}


def exact(runs: Sequence[xr.Dataset], bound: DecisionRule) -> Figure:
    """One panel per exact model: t rho over the shells at every second time, with the bound of the condition.

    ``runs``: one of each model, as ``evolution.along`` gives it; where J' is known, t tau is drawn instead.
    """
    figure, axes = plt.subplots(1, len(runs), figsize=(WIDTH, 3.6), squeeze=False)
    for panel, run in zip(axes[0], runs, strict=True):
        shown = run.isel(time=slice(0, None, 2))
        for time, colour, marker in zip(shown.time.values, COLOURS.values(), "os^Dv", strict=False):
            rates = shown.get("t_jacobian", shown.t_rho).sel(time=time).dropna("shell")
            panel.semilogy(decades(rates.shell), rates, marker + "-", color=colour, lw=0.8, label=f"$t$ = {time:.3g}")
        threshold(panel, bound)
        panel.set_xlabel(r"shell, $\log_{10}\lambda/\lambda_{\max}(0)$")
        panel.set_title(run.attrs["case"], fontsize=10)
        low, high = panel.get_ylim()
        panel.set_ylim(min(max(low, SMALLEST), bound.threshold / 60), max(high, 3 * bound.threshold))
        panel.legend(fontsize=8, frameon=True, framealpha=1, edgecolor="none")
        panel.set_ylabel(r"$t\,\tau_a$" if "t_jacobian" in run else r"$t\,\rho_a$")
    return figure


def rates(measured: Mapping[str, xr.Dataset], bound: DecisionRule) -> Figure:
    """Geometric means of t rho and t tau over time at three fixed distances from the frontier, two standard errors.

    ``measured``: runs of one depth with J', by architecture, from ``evolution.gather``. Under covariance all lines are
    flat.
    """
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 4), sharey=True)
    for name, found in measured.items():
        place = found.shell.values + np.log(found.time.values)
        for panel, rate in zip(axes, ("rho", "jacobian"), strict=True):
            for step, (low, high) in enumerate(PLACES):
                inside = found.isel(point=(place >= low) & (place < high))
                times, *bars = _over_time(inside, rate)
                style = cell_look(name, step, len(PLACES)) | {"label": rf"{name}, $\log\lambda t$ {low:g} to {high:g}"}
                if len(times):
                    bar(panel, np.log10(times), *bars, lw=1, **style | {"capsize": 2})
    for panel, title in zip(axes, ("the kernel's rate, $t\\,\\rho_a$", "the Jacobian's, $t\\,\\tau_a$"), strict=True):
        threshold(panel, bound, ls=":")
        panel.set(yscale="log", xlabel=r"$\log_{10}\, t\,\lambda_{\max}(0)$", title=title)
    axes[0].set_ylabel("geometric mean over shells and networks")
    axes[1].legend(fontsize=8, loc="lower right")
    return figure


def _over_time(inside: xr.Dataset, rate: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return times at which every seed has a point, and the geometric mean with two standard errors over seeds."""
    log = np.log(inside[f"t_{rate}"].to_series().to_numpy())
    times, seeds = np.round(np.log(inside.time.values), 2), inside.seed.values
    numbers, kept = np.unique(seeds), []
    for time in np.unique(times):
        means = [log[(times == time) & (seeds == seed)] for seed in numbers]
        if len(numbers) > 1 and all(part.size for part in means):
            each = np.array([part.mean() for part in means])
            kept.append((time, each.mean(), 2 * each.std(ddof=1) / len(each) ** 0.5))
    time, middle, twice = np.array(kept).reshape(-1, 3).T
    return np.exp(time), np.exp(middle), np.exp(middle - twice), np.exp(middle + twice)


def etas(table: xr.Dataset, trend: DecisionRule, bound: DecisionRule) -> Figure:
    """Eta and the largest t rate below the frontier, by rate and architecture, against the thresholds of their rules.

    ``table``: from ``eta_table``; intervals by the rules. Open: late only. Grey line: 0, which covariance asks for.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.8), width_ratios=[1.4, 1])
    names = ordered(table.architecture.values)
    for step, name in enumerate(names):
        one, how = table.value.sel(architecture=name), look(name) | {"linestyle": "none"}
        for row, rate in enumerate(RATES):
            label = {"label": None if row else name}
            place = row + 0.36 * (step - (len(names) - 1) / 2)
            values = one.sel(rate=rate)
            bar(left, place - 0.08, *trend.interval(values.sel(of="eta").values), horizontal=True, **how | label)
            late = {"label": None if row else f"{name}, late only", "mfc": "white"}
            bar(left, place + 0.08, *trend.interval(values.sel(of="late").values), horizontal=True, **how | late)
            bar(right, place, *bound.interval(values.sel(of="supremum").values), horizontal=True, **how | label)
    threshold(left, trend, horizontal=True)
    threshold(right, bound, horizontal=True)
    left.axvline(0, color="grey", lw=0.8)
    left.set(xlabel=r"$\eta$, 95 % interval; dashed: threshold", title="growth in time beyond covariance")
    right.set(xlabel="mean over networks; dashed: threshold", title=r"largest $t\,\times$ rate below the frontier")
    rows(left, list(RATES.values()))
    rows(right, [""] * len(RATES))
    left.legend(fontsize=8, loc="best")
    return figure


def slopes(tables: Mapping[str, xr.Dataset], confirmed: Mapping[tuple[str, str], Result], rule: DecisionRule) -> Figure:
    """Slopes of log(t rho) with their intervals, one panel per architecture; grey: what the condition allows.

    ``tables``: two by label, from ``slope_table``; ``confirmed``: results by (architecture, regressor).
    """
    names = ordered(name for table in tables.values() for name in table.architecture.values)
    figure, axes = plt.subplots(1, len(names), figsize=(WIDTH, 3.6), sharey=True, sharex=True, squeeze=False)
    for panel, name in zip(axes[0], names, strict=True):
        styles = ({"color": "grey", "mfc": "white"}, {"color": look(name)["color"]})
        for (label, table), shift, style in zip(tables.items(), (-0.22, 0.0), styles, strict=True):
            for row, of in enumerate(SLOPES):
                one = table.sel(architecture=name, rate="rho", of=of)
                found = (float(one[part]) for part in ("slope", "low", "high"))
                bar(panel, row + shift, *found, horizontal=True, fmt="o", label=None if row else label, **style)
        for (owner, of), result in confirmed.items():
            if owner == name:
                style = {"fmt": "s", "color": "black", "label": f"{len(result.seeds)} confirmatory seeds"}
                values = (result.estimate, result.low, result.high)
                bar(panel, list(SLOPES).index(of) + 0.22, *values, horizontal=True, **style)
        panel.axvspan(-rule.threshold, rule.threshold, color="lightgrey", lw=0, alpha=0.6)
        panel.set(title=name, xlabel=r"slope of $\log(t\rho)$, 95 % interval", xlim=(-0.7, 2.5))
    rows(axes[0, 0], list(SLOPES.values()))
    handles = dict(zip(*reversed(axes[0, 0].get_legend_handles_labels()), strict=True))
    axes[0, 0].legend(handles.values(), handles, fontsize=8, loc="lower right")
    return figure
