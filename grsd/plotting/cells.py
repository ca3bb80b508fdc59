"""Cells, an architecture at a depth: their order, their shades, and their intervals over depth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from grsd.evidence import DecisionRule, Result
from grsd.networks import architecture
from grsd.plotting.intervals import bar, threshold
from grsd.plotting.style import look

Cells = Mapping[tuple[str, int], tuple[float, float, float]]
SERIES = (
    {"mfc": "white"},
    {},
    {"mec": "black", "markersize": 6},
    {"mec": "black", "markersize": 9, "fillstyle": "bottom", "markerfacecoloralt": "white"},
)
SPREAD = 0.09  # of the log of a depth to either side


def ordered(names: Iterable[str]) -> list[str]:
    """Architectures, each once, in the order of their registration: tables on disk sort them by the alphabet."""
    found = {str(name) for name in names}
    return [name for name in architecture.names() if name in found]


def cell_look(name: str, step: int, steps: int) -> dict[str, object]:
    """``look`` without its label, for the depth number ``step`` of ``steps``: the deeper the darker."""
    drawn = look(name)
    del drawn["label"]
    weight = 0.35 + 0.65 * (step + 1) / steps
    colour = np.array(mpl.colors.to_rgb(drawn["color"]))
    return drawn | {"color": tuple(1 - weight * (1 - colour))}


def of_table(table: xr.Dataset, estimate: str, low: str, high: str) -> Cells:
    """(estimate, low, high) by (architecture, depth) from these variables of a table; without cells that have none."""
    cells = {}
    for name in ordered(table.architecture.values):
        for depth in table.depth.values:
            one = table.sel(architecture=name, depth=depth)
            if math.isfinite(float(one[estimate])):
                cells[name, int(depth)] = tuple(float(one[part]) for part in (estimate, low, high))
    return cells


def of_claims(results: Mapping[str, Result], claimed: Mapping[tuple[str, int], str]) -> Cells:
    """The same for the stored results of claims, given by (architecture, depth)."""
    found = {cell: results[claim] for cell, claim in claimed.items() if claim in results}
    return {cell: (result.estimate, result.low, result.high) for cell, result in found.items()}


def over_depth(axes: Axes, series: Mapping[str, Cells], rule: DecisionRule) -> None:
    """Intervals over depth against the threshold of ``rule``.

    ``series``: by label, at most four, each with a filling of its own (hollow, filled, edged, half filled);
    architectures have their colours and markers (``look``).
    """
    names = ordered(name for cells in series.values() for name, _ in cells)
    shifts = np.linspace(-SPREAD, SPREAD, len(series) * len(names))
    for number, (cells, style) in enumerate(zip(series.values(), SERIES, strict=False)):
        for (name, depth), values in cells.items():
            place = depth * math.exp(shifts[number * len(names) + names.index(name)])
            drawn = look(name) | {"linestyle": "none", "label": None, "capsize": 2}
            bar(axes, place, *values, **drawn | style)
    threshold(axes, rule)
    depths = sorted({depth for cells in series.values() for _, depth in cells})
    axes.set(xscale="log", xticks=depths, xticklabels=depths, xlabel="depth")
    axes.minorticks_off()
    keys = [look(name) | {"linestyle": "none"} for name in names]
    grey = {"color": "grey", "marker": "o", "linestyle": "none"}
    keys += [grey | style | {"label": label} for label, style in zip(series, SERIES, strict=False)]
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 3, "columnspacing": 1, "handletextpad": 0.2}
    axes.legend(handles=[Line2D([], [], **key) for key in keys], fontsize=8, **place)
