"""Estimates with their intervals, and the thresholds of the rules that judge them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer

from grsd.evidence import Result, Rule

Numbers = float | Sequence[float] | np.ndarray | xr.DataArray


def bar(
    axes: Axes,
    place: Numbers,
    estimate: Numbers,
    low: Numbers,
    high: Numbers,
    *,
    horizontal: bool = False,
    **style: object,
) -> ErrorbarContainer:
    """Draw estimates with the intervals from ``low`` to ``high``; ``place``: where on the other axis they stand.

    ``style``: keywords of ``Axes.errorbar``; without a format there are markers and no line.
    """
    place, estimate, low, high = (np.atleast_1d(numbers) for numbers in (place, estimate, low, high))
    ends = np.maximum([estimate - low, high - estimate], 0)
    usual = {"capsize": 3}
    if not {"fmt", "linestyle", "ls"} & style.keys():
        usual |= {"linestyle": "none", "marker": "o"}
    if horizontal:
        return axes.errorbar(estimate, place, xerr=ends, **usual | style)
    return axes.errorbar(place, estimate, yerr=ends, **usual | style)


def threshold(axes: Axes, rule: Rule, *, horizontal: bool = False, **style: object) -> None:
    """Draw the threshold of a rule as a dashed line; ``horizontal``: where the estimates lie on the x axis."""
    line = axes.axvline if horizontal else axes.axhline
    line(rule.threshold, **{"color": "black", "ls": "--", "lw": 1} | style)


def forest(
    axes: Axes, results: Sequence[Result], labels: Sequence[str], *, shift: float = 0.0, **style: object
) -> None:
    """Draw one row per result, from the top: its estimate and interval. ``shift``: how far below its row's middle."""
    for row, result in enumerate(results):
        bar(axes, row + shift, result.estimate, result.low, result.high, horizontal=True, **style)
        style.pop("label", None)
    rows(axes, labels)


def rows(axes: Axes, labels: Sequence[str]) -> None:
    """Name the rows 0, 1, ... of a forest, the first at the top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
