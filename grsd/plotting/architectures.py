"""The figures of notebook 12: what skips do to the growth share, over cells, with depth, from lazy to rich."""

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
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=2)
    return figure


def depths(table: xr.Dataset) -> Figure:
    """The growth share by depth, each way of training; and with skips minus without, network by network.

    ``table``: the table of depths.
    """
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4))
    labels = table[["skips", "depth"]].isel(seed=0)
    blocks = np.unique(labels.depth.values)
    shares = {
        (way, own): table[way].values[np.flatnonzero(labels.skips.values == own)] for way in WAYS for own in LOOKS
    }
    for panel, (way, title) in zip(axes, WAYS.items(), strict=False):
        for own, style in LOOKS.items():
            nudge = 1.03 if own else 1 / 1.03
            _means(panel, blocks * nudge, shares[way, own], style | {"linestyle": "-", "lw": 1, "label": LABELS[own]})
        panel.set(title=title, ylabel="growth share of the squared flux", ylim=(None, 1.03))
    axes[0].legend(fontsize=8, loc="lower left")
    for way, colour, nudge in (("flow", "purple", 1.03), ("adam", "green", 1 / 1.03)):
        style = {"color": COLOURS[colour], "marker": "o" if way == "flow" else "D", "linestyle": "-", "lw": 1}
        _means(axes[2], blocks * nudge, shares[way, 1] - shares[way, 0], style | {"label": WAYS[way]})
    axes[2].axhline(0, color="grey", lw=0.6)
    axes[2].set(title="what skips add", ylabel="with minus without")
    axes[2].legend(fontsize=8, loc="best")
    for panel in axes:
        panel.set_xscale("log", base=2)
        panel.set_xticks(blocks, [str(depth) for depth in blocks])
        panel.set(xlabel="blocks")
    return figure


def phases(table: xr.Dataset) -> Figure:
    """From lazy to rich by the scale of the outputs: growth of the kernel, and two shares of the squared flux.

    ``table``: the table of phases.
    """
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2))
    drawn = {
        "log_growth": r"$\log\,\lambda_{\max} / \lambda_{\max}(0)$",
        "growth_share": "growth share of the squared flux",
        "rotation_share": "rotation share",
    }
    for panel, (name, label) in zip(axes, drawn.items(), strict=True):
        for own, style in LOOKS.items():
            panel.plot(
                table.scale, table[name].sel(skips=own), **style | {"linestyle": "-", "lw": 1, "label": LABELS[own]}
            )
        panel.set_xscale("log", base=4)
        panel.set(xlabel="scale of the outputs: rich to lazy", ylabel=label)
        panel.set_xticks(table.scale.values, [f"{scale:g}" for scale in table.scale.values])
    axes[0].legend(fontsize=8)
    return figure


def _means(panel: Axes, places: np.ndarray, values: np.ndarray, style: Mapping[str, object]) -> None:
    """Draw the mean of each row with Student's 95 % interval."""
    means, halves = zip(*(_interval(row) for row in values), strict=True)
    bar(panel, places, means, np.subtract(means, halves), np.add(means, halves), **style)


def _row(panel: Axes, place: float, values: np.ndarray, own: int, *, named: bool) -> None:
    """Draw the runs of a cell faintly, and their mean with Student's 95 % interval."""
    kept = values[np.isfinite(values)]
    if not len(kept):
        return
    panel.plot(kept, np.full(len(kept), place), **LOOKS[own] | {"alpha": 0.25, "ms": 3})
    mean, half = _interval(kept)
    style = LOOKS[own] | {"mec": "black", "ms": 7, "label": LABELS[own] if named else None}
    bar(panel, place, mean, mean - half, mean + half, horizontal=True, **style)


def _interval(values: np.ndarray) -> tuple[float, float]:
    """The mean, and half of its 95 % interval by Student's t."""
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def _names(table: xr.Dataset) -> list[str]:
    pairs = zip(table.family.values, table.data.values, strict=True)
    return list(dict.fromkeys(f"{family}, {data}" for family, data in pairs))
