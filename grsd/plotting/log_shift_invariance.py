"""The figures of notebook 06: couplings and their law, the defect early and late, and how many runs decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grsd.conditions import Verdict, invariance
from grsd.evidence import Result
from grsd.plotting.cells import Cells, cell_look, ordered, over_depth
from grsd.plotting.ensembles import verdict_forest
from grsd.plotting.intervals import bar, rows, threshold
from grsd.plotting.style import decades, look

RATE = r"$\log_{10}\lambda t$"
DEFECT = "defect $D^2$, 95 % interval"


def planted(found: Mapping[str, Sequence[Verdict]]) -> Figure:
    """One row a plant: the defect of each of its ensembles, with its interval, and the threshold of the condition."""
    figure, axes = plt.subplots(figsize=(7, 3.2))
    verdict_forest(axes, found, invariance.RULE)
    axes.axvline(0, color="grey", lw=0.8)
    runs = next(iter(found.values()))[0].runs
    axes.set_xlabel(f"{DEFECT}, {runs} planted runs each; dashed: {invariance.RULE.threshold:g}")
    return figure


def early(couplings: xr.Dataset, defects: Mapping[str, Cells], power: xr.Dataset) -> Figure:
    """Couplings of each architecture over the spectrum; under them the defect over depth, and the power.

    ``couplings`` from ``coupling_table``, ``power`` from ``power_table``; ``defects``: series of ``over_depth``.
    """
    figure, tops, (left, right) = _grid(couplings)
    for panel, name in tops.items():
        neighbours(panel, couplings, name)
    over_depth(left, defects, invariance.RULE)
    _defect_scale(left, "y")
    left.set_ylabel(DEFECT)
    decided(right, power)
    return figure


def late(couplings: xr.Dataset, results: Mapping[tuple[str, int, str], Result], power: xr.Dataset) -> Figure:
    """The same late in training; the defects as a forest, by (architecture, depth, when and on how many seeds)."""
    figure, tops, (left, right) = _grid(couplings)
    for panel, name in tops.items():
        neighbours(panel, couplings, name)
    for row, ((name, _, _), result) in enumerate(results.items()):
        values = (result.estimate, result.low, result.high)
        bar(left, row, *values, horizontal=True, **look(name) | {"linestyle": "none"})
    threshold(left, invariance.RULE, horizontal=True)
    rows(left, [f"{name} {depth}, {when}" for name, depth, when in results])
    _defect_scale(left, "x")
    left.tick_params("y", labelsize=8)
    left.set_xlabel(f"{DEFECT}; confirmatory seeds")
    decided(right, power)
    return figure


def neighbours(axes: Axes, table: xr.Dataset, architecture: str) -> None:
    """t K of neighbouring shells over the spectrum, two standard errors, with the fitted law; the deeper the darker."""
    for step, depth in enumerate(table.depth.values):
        cell = table.sel(architecture=architecture, depth=depth)
        cell = cell.where(cell.separation == 1).dropna("pair", how="all")
        style = cell_look(architecture, step, table.sizes["depth"]) | {"linestyle": "none"}
        axes.errorbar(decades(cell.position), cell.value, 2 * cell.error, capsize=2, label=f"depth {depth}", **style)
        axes.plot(decades(cell.position), cell.fitted, color=style["color"], lw=1)
    axes.axhline(0, color="black", lw=0.8)
    axes.set(xlabel=f"middle of the pair, {RATE}", title=architecture)
    axes.legend(fontsize=8)


def decided(axes: Axes, table: xr.Dataset) -> None:
    """The share of simulated ensembles that are decided, over the number of runs, with one standard error.

    Each label names the verdict that most of the largest ensembles get.
    """
    for name in ordered(table.architecture.values):
        for step, depth in enumerate(table.depth.values):
            cell = table.share.sel(architecture=name, depth=depth)
            share = (1 - cell.sel(verdict="inconclusive")).clip(0, 1)
            error = np.sqrt(share * (1 - share) / table.attrs["draws"])
            verdict = str(cell.verdict.values[int(cell.isel(runs=-1).argmax("verdict"))])
            style = cell_look(name, step, table.sizes["depth"]) | {"label": f"{name} {depth}: {verdict}"}
            axes.errorbar(cell.runs, share, error, capsize=2, **style)
    axes.set(xscale="log", xticks=table.runs.values, xticklabels=table.runs.values, xlabel="runs")
    axes.minorticks_off()
    axes.set(ylabel="share of ensembles decided", ylim=(-0.05, 1.05))
    axes.legend(fontsize=8, loc="lower right")


def independent(road: xr.Dataset) -> Figure:
    """The drift on the shells by the independent road, one panel a loss and depth, with the defect of each."""
    moments = [(when, depth) for when in sorted(road.log_loss.values)[::-1] for depth in road.depth.values]
    figure, axes = plt.subplots(1, len(moments), figsize=(3.5 * len(moments), 3.6), sharey=True)
    for panel, (when, depth) in zip(axes, moments, strict=True):
        for name in ordered(road.architecture.values):
            one = road.sel(architecture=name, depth=depth, log_loss=when)
            share, spread = float(one.defect.values[0]), float(one.defect_error.values[0])
            style = look(name) | {"linestyle": "none", "label": f"{name}: $D^2$ = {share:.2g} ± {spread:.1g}"}
            panel.errorbar(decades(one.edge), one.drift, 2 * one.error, capsize=2, **style)
        panel.axhline(0, color="black", lw=0.8)
        panel.set(xlabel=RATE, title=f"depth {depth}, loss $e^{{{when:g}}}$", ylim=(-3, 8))
        panel.legend(loc="upper left", fontsize=8, frameon=True, framealpha=0.9, edgecolor="none")
    axes[0].set_ylabel("$t\\,u$, two standard errors")
    return figure


def _grid(couplings: xr.Dataset) -> tuple[Figure, dict[Axes, str], tuple[Axes, Axes]]:
    """One panel an architecture above, by panel, and two panels below."""
    names = ordered(couplings.architecture.values)
    figure = plt.figure(figsize=(max(10, 4.5 * len(names)), 7))
    above, below = figure.subfigures(2, 1)
    tops = above.subplots(1, len(names), squeeze=False)[0]
    tops[0].set_ylabel("$t\\,K_{a,a-1}$, two standard errors")
    return figure, dict(zip(tops, names, strict=True)), tuple(below.subplots(1, 2))


def _defect_scale(axes: Axes, along: str) -> None:
    """Linear between -.1 and .1: an unbiased estimate of a share can be negative."""
    ticks = [-1, -0.1, 0, invariance.RULE.threshold, 0.1, 1]
    labels = [f"{tick:g}" for tick in ticks]
    line, scale, bounds, places = (
        (axes.axhline, axes.set_yscale, axes.set_ylim, axes.set_yticks)
        if along == "y"
        else (axes.axvline, axes.set_xscale, axes.set_xlim, axes.set_xticks)
    )
    line(0, color="grey", lw=0.8)
    scale("symlog", linthresh=0.1)
    bounds(-3, 3)
    places(ticks, labels)
