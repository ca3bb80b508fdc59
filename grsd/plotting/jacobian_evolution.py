"""The figures of notebook 05: rates of the Jacobian over the spectrum and time, and their slopes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from grsd.evidence import DecisionRule, Result
from grsd.laws.profile import profile
from grsd.plotting.cells import cell_look, ordered
from grsd.plotting.intervals import bar, rows, threshold
from grsd.plotting.style import COLOURS, decades, look

SMALLEST = 1e-4  # rates that die out fall by dozens of decades
SLOPES = {"time": r"$\beta_t$, time", "shell": r"$\beta_s$, spectrum", "depth": r"$\beta_L$, depth"}


def exact(runs: Sequence[xr.Dataset], bound: DecisionRule) -> Figure:
    """One panel an exact model: t rho over the shells at every second time, with the bound of the condition.

    ``runs``: one of each model, as ``evolution.along`` gives it.
    """
    figure, axes = plt.subplots(1, len(runs), figsize=(5 * len(runs), 3.8), squeeze=False)
    for panel, run in zip(axes[0], runs, strict=True):
        shown = run.isel(time=slice(0, None, 2))
        for time, colour, marker in zip(shown.time.values, COLOURS.values(), "os^Dv", strict=False):
            rates = shown.t_rho.sel(time=time).dropna("shell")
            panel.semilogy(decades(rates.shell), rates, marker + "-", color=colour, lw=0.8, label=f"$t$ = {time:.3g}")
        threshold(panel, bound)
        panel.set(xlabel=r"shell, $\log_{10}\lambda/\lambda_{\max}(0)$", title=run.attrs["case"])
        low, high = panel.get_ylim()
        panel.set_ylim(min(max(low, SMALLEST), bound.threshold / 60), max(high, 3 * bound.threshold))
        panel.legend(fontsize=8)
    axes[0, 0].set_ylabel(r"$t\,\rho_a$")
    return figure


def rates(measured: Mapping[str, xr.Dataset], bound: DecisionRule) -> Figure:
    """Geometric means of t rho over time and over the spectrum, by architecture and depth, two standard errors.

    ``measured``: by architecture, from ``evolution.gather``.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for name, found in measured.items():
        for panel, of, places in zip(axes, ("time", "shell"), (np.log10, decades), strict=True):
            means = profile(found, of)
            for step, depth in enumerate(means.depth.values):
                one = means.sel(depth=depth).dropna(of)
                spread = [one.centre - one.centre / one.factor**2, one.centre * one.factor**2 - one.centre]
                style = cell_look(name, step, len(means.depth)) | {"label": f"{name}, depth {depth}"}
                panel.errorbar(places(one[of]), one.centre, spread, lw=1, capsize=2, **style)
    for panel in axes:
        threshold(panel, bound, ls=":")
    axes[0].set(yscale="log", xlabel=r"$\log_{10}\, t\,\lambda_{\max}(0)$", ylabel=r"$t\,\rho_a$, geometric mean")
    axes[1].set(xlabel=r"shell, $\log_{10}\lambda/\lambda_{\max}(0)$")
    axes[1].legend(fontsize=8, loc="lower left")
    seeds = min(len(np.unique(found.seed)) for found in measured.values())
    figure.suptitle(f"two standard errors over {seeds} networks; dotted: the bound {bound.threshold:g}")
    return figure


def slopes(tables: Mapping[str, xr.Dataset], confirmed: Mapping[tuple[str, str], Result], rule: DecisionRule) -> Figure:
    """Slopes of log(t rho) with their intervals, one panel an architecture; grey: what the condition allows.

    ``tables``: two by label, from ``slope_table``; ``confirmed``: results by (architecture, regressor).
    """
    names = ordered(name for table in tables.values() for name in table.architecture.values)
    figure, axes = plt.subplots(1, len(names), figsize=(5 * len(names), 3.6), sharey=True, sharex=True, squeeze=False)
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
