"""The figure of notebook 12: what skips do to the growth share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t as student

from grsd.plotting.intervals import bar, rows
from grsd.plotting.style import COLOURS

LOOKS = {
    1: {"color": COLOURS["blue"], "marker": "o", "linestyle": "none"},
    0: {"color": COLOURS["red"], "marker": "s", "linestyle": "none"},
}
LABELS = {1: "with skips", 0: "without"}
WAYS = {"flow": "gradient flow, squared error", "adam": "Adam, cross-entropy"}
Live = Mapping[tuple[str, int], Sequence[float]]


def skips(runs: xr.Dataset, live: Live) -> Figure:
    """The growth share of every run, by cell and way of training, and of the networks trained here.

    ``runs``: the table of runs; ``live``: growth shares by (way, skips).
    """
    labels = runs.isel(seed=0)
    names = _names(labels)
    figure, axes = plt.subplots(1, len(WAYS), figsize=(11, 1.6 + 0.6 * len(names)), sharey=True)
    for panel, (way, title) in zip(axes, WAYS.items(), strict=True):
        for own in LOOKS:
            kept = runs.isel(cell=np.flatnonzero(labels.skips.values == own))
            for row, values in enumerate(kept[way].values):
                _row(panel, row + (0.14 if own == 0 else -0.14), values, own, named=row == 0)
            values = np.asarray(live[way, own], dtype=float)
            style = LOOKS[own] | {"mfc": "none", "color": LOOKS[own]["color"]}
            panel.plot(values, np.full(len(values), len(names) + (0.14 if own == 0 else -0.14)), **style)
        panel.set(title=title, xlabel="growth share of the squared flux", xlim=(-0.03, 1.03))
        panel.axvline(1, color="grey", lw=0.6)
    rows(axes[0], [*names, "trained here"])
    axes[0].legend(fontsize=8, loc="center left")
    return figure


def _row(panel: Axes, place: float, values: np.ndarray, own: int, *, named: bool) -> None:
    """Draw the runs of a cell faintly, and their mean with Student's 95 % interval."""
    kept = values[np.isfinite(values)]
    if not len(kept):
        return
    panel.plot(kept, np.full(len(kept), place), **LOOKS[own] | {"alpha": 0.25, "ms": 3})
    half = float(student.ppf(0.975, len(kept) - 1)) * kept.std(ddof=1) / np.sqrt(len(kept))
    style = LOOKS[own] | {"mec": "black", "ms": 7, "label": LABELS[own] if named else None}
    bar(panel, place, kept.mean(), kept.mean() - half, kept.mean() + half, horizontal=True, **style)


def _names(table: xr.Dataset) -> list[str]:
    pairs = zip(table.family.values, table.data.values, strict=True)
    return list(dict.fromkeys(f"{family}, {data}" for family, data in pairs))
