"""Estimates with their intervals, and the thresholds of the rules that judge them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from grsd.conditions import Verdict
from grsd.evidence import Result, Rule
from grsd.plotting.style import look, ordered

Cells = Mapping[tuple[str, int], tuple[float, float, float]]
SERIES = (
    {"mfc": "white"},
    {},
    {"mec": "black", "markersize": 6},
    {"mec": "black", "markersize": 9, "fillstyle": "bottom", "markerfacecoloralt": "white"},
)


def bar(
    axes: Axes, place: float, estimate: float, low: float, high: float, *, along: str = "y", **style: object
) -> None:
    """One estimate and its interval at ``place``.

    ``along``: the axis that carries the values, "y" or "x"; ``style``: of ``Axes.errorbar``.
    """
    ends = [[max(estimate - low, 0)], [max(high - estimate, 0)]]
    position = (place, estimate) if along == "y" else (estimate, place)
    axes.errorbar(*position, **{f"{along}err": ends, "capsize": 2, "ls": "none"} | style)


def ends(found: Verdict | Result) -> tuple[float, float, float]:
    """(estimate, low, high) of an ensemble's verdict or of a claim's result."""
    low, high = found.interval if isinstance(found, Verdict) else (found.low, found.high)
    return found.estimate, low, high


def forest(
    axes: Axes,
    results: Sequence[Verdict | Result | Sequence[Verdict | Result]],
    labels: Sequence[str],
    *,
    styles: Sequence[Mapping[str, object]] = (),
    rule: Rule | None = None,
) -> None:
    """One row a result, from the top down, or one row for several of a kind, with its label at the left.

    ``styles``: of ``Axes.errorbar``, one a row; ``rule``: its threshold is drawn (``threshold``).
    """
    rows = [list(row) if isinstance(row, Sequence) else [row] for row in results]
    for number, (row, style) in enumerate(zip(rows, styles or [{"fmt": "o"}] * len(rows), strict=True)):
        for place, found in enumerate(row):
            shift = 0.5 * (place - (len(row) - 1) / 2) / len(row)
            bar(axes, number + shift, *ends(found), along="x", **style)
    if rule is not None:
        threshold(axes, rule, along="x")
    axes.set(yticks=range(len(rows)), yticklabels=list(labels), ylim=(len(rows) - 0.5, -0.5))


def threshold(axes: Axes, rule: Rule, *, along: str = "y", **style: object) -> None:
    """The threshold of a rule as a line across the axis ``along`` that carries the values."""
    draw = axes.axhline if along == "y" else axes.axvline
    draw(rule.threshold, **{"color": "black", "ls": "--", "lw": 1} | style)


def of_table(table: xr.Dataset, estimate: str, low: str, high: str) -> Cells:
    """(estimate, low, high) by (architecture, depth) from these variables of a table; without cells that have none."""
    cells = {}
    for name in table.architecture.values:
        for depth in table.depth.values:
            one = table.sel(architecture=name, depth=depth)
            if math.isfinite(float(one[estimate])):
                cells[str(name), int(depth)] = tuple(float(one[part]) for part in (estimate, low, high))
    return cells


def of_claims(results: Mapping[str, Result], claimed: Mapping[tuple[str, int], str]) -> Cells:
    """The same for the stored results of claims, given by (architecture, depth)."""
    return {cell: ends(results[claim]) for cell, claim in claimed.items() if claim in results}


def over_depth(axes: Axes, series: Mapping[str, Cells], rule: Rule) -> None:
    """Intervals over depth against the threshold of ``rule``.

    ``series``: by label, at most four, each with a filling of its own (hollow, filled, edged, half filled);
    architectures have their colours and markers (``look``).
    """
    names = ordered(name for cells in series.values() for name, _ in cells)
    shifts = np.linspace(-0.09, 0.09, len(series) * len(names))
    for number, (cells, style) in enumerate(zip(series.values(), SERIES, strict=False)):
        for (name, depth), values in cells.items():
            seen = look(name)
            place = depth * math.exp(shifts[number * len(names) + names.index(name)])
            bar(axes, place, *values, **{"fmt": seen.marker, "color": seen.colour} | style)
    threshold(axes, rule)
    depths = sorted({depth for cells in series.values() for _, depth in cells})
    axes.set(xscale="log", xticks=depths, xticklabels=depths, xlabel="depth")
    axes.minorticks_off()
    drawn = {name: {"color": look(name).colour, "marker": look(name).marker} for name in names}
    drawn |= {label: {"color": "grey", "marker": "o"} | style for label, style in zip(series, SERIES, strict=False)}
    handles = [Line2D([], [], ls="none", label=label, **style) for label, style in drawn.items()]
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 3, "columnspacing": 1, "handletextpad": 0.2}
    axes.legend(handles=handles, fontsize=8, **place)
