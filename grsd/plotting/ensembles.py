"""Verdicts on several ensembles of each of several systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from grsd.conditions import Verdict
from grsd.evidence import DecisionRule
from grsd.plotting.intervals import bar, rows, threshold
from grsd.plotting.style import COLOURS, MARKERS

FILLS = tuple({"color": colour, "marker": marker} for colour, marker in zip(COLOURS.values(), MARKERS, strict=True))


def verdict_forest(axes: Axes, found: Mapping[str, Sequence[Verdict]], rule: DecisionRule) -> None:
    """Draw one row per system, by name, with the intervals of all its ensembles and the threshold of the rule."""
    for row, (several, fill) in enumerate(zip(found.values(), FILLS, strict=False)):
        shifts = 0.5 * (np.arange(len(several)) - (len(several) - 1) / 2) / len(several)
        estimates = np.array([(one.estimate, *one.interval) for one in several])
        bar(axes, row + shifts, *estimates.T, horizontal=True, capsize=2, linestyle="none", **fill)
    threshold(axes, rule, horizontal=True)
    rows(axes, list(found))
