"""The figures of notebook 12: what skips do to the growth share, cell by cell, with depth, and from rich to lazy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grsd.evidence import Result
from grsd.laws.ensemble import mean_interval
from grsd.plotting.intervals import bar, rows
from grsd.plotting.style import COLOURS, WIDTH

LOOKS = {
    1: {"color": COLOURS["blue"], "marker": "o", "linestyle": "none"},
    0: {"color": COLOURS["red"], "marker": "s", "linestyle": "none"},
}
LABELS = {1: "with skips", 0: "without"}
WAYS = {"flow": "gradient flow, squared error", "adam": "Adam, cross-entropy"}
NAMES = {"resnet": "ResNet", "gated-perceptron": "gated perceptron", "state-space": "state space", "vit": "transformer"}
Live = Mapping[str, Sequence[float]]
Judged = Mapping[tuple[str, str, str], Result]


def skips(judged: Judged, live: Live) -> Figure:
    """The growth share with skips minus that without, of every pair of networks, by cell and way of training.

    ``judged``: results by (way, family, data), drawn with the intervals of their verdicts; ``live``: differences of
    the pairs trained here, by way.
    """
    cells = list(dict.fromkeys(key[1:] for key in judged))
    figure, axes = plt.subplots(1, len(WAYS), figsize=(WIDTH, 1.4 + 0.4 * len(cells)), sharey=True)
    for panel, (way, title) in zip(axes, WAYS.items(), strict=True):
        for row, cell in enumerate(cells):
            if (result := judged.get((way, *cell))) is None:
                continue
            panel.plot(result.values, np.full(len(result.values), row), "o", color=COLOURS["blue"], alpha=0.25, ms=3)
            style = {"color": COLOURS["blue"], "marker": "o", "ms": 7, "mec": "black"}
            bar(panel, row, result.estimate, result.low, result.high, horizontal=True, **style)
        hollow = {"mfc": "none", "color": COLOURS["blue"]}
        panel.plot(live[way], np.full(len(live[way]), len(cells)), "o", **hollow)
        panel.set(title=title, xlabel="growth share with skips minus without")
        panel.axvline(0, color="grey", lw=0.6)
    rows(axes[0], [*(f"{NAMES.get(family, family)}, {data}" for family, data in cells), "trained here"])
    return figure


def depths(table: xr.Dataset) -> Figure:
    """The growth share by depth, for each way of training that the table has; and with skips minus without.

    ``table``: the table of depths.
    """
    ways = {way: title for way, title in WAYS.items() if way in table}
    figure, axes = plt.subplots(1, len(ways) + 1, figsize=(min(3.7 * (len(ways) + 1), WIDTH), 3.4))
    labels = table[["skips", "depth"]].isel(seed=0)
    blocks = np.unique(labels.depth.values)
    shares = {
        (way, own): table[way].values[np.flatnonzero(labels.skips.values == own)] for way in ways for own in LOOKS
    }
    for panel, (way, title) in zip(axes, ways.items(), strict=False):
        for own, style in LOOKS.items():
            nudge = 1.03 if own else 1 / 1.03
            _means(panel, blocks * nudge, shares[way, own], style | {"linestyle": "-", "lw": 1, "label": LABELS[own]})
        panel.set(title=title, ylabel="growth share of the squared flux")
    axes[0].legend(fontsize=8)
    for way, colour, nudge in (("flow", "purple", 1.03), ("adam", "green", 1 / 1.03)):
        if way in ways:
            style = {"color": COLOURS[colour], "marker": "o" if way == "flow" else "D", "linestyle": "-", "lw": 1}
            _means(axes[-1], blocks * nudge, shares[way, 1] - shares[way, 0], style | {"label": WAYS[way]})
    axes[-1].axhline(0, color="grey", lw=0.6)
    axes[-1].set(title="what skips add", ylabel="with minus without")
    axes[-1].legend(fontsize=8)
    for panel in axes:
        panel.set_xscale("log", base=2)
        panel.set_xticks(blocks, [str(depth) for depth in blocks])
        panel.set(xlabel="blocks")
    return figure


def scales(table: xr.Dataset) -> Figure:
    """How fast energy moves between shells, and how much of it is growth, by the scale of the outputs.

    ``table``: the table of scales. Left, the dashed line is the slope of lazy training, -1. Right, the hollow marks on
    dashed lines are the controls: the share that fluxes which are no growth have in the same runs.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(min(7.4, WIDTH), 3.8))
    labels = table[["skips", "output_scale"]].isel(seed=0)
    for own, style in LOOKS.items():
        cells = np.flatnonzero(labels.skips.values == own)
        places = labels.output_scale.values[cells] * (1.06 if own else 1 / 1.06)
        speeds = np.hypot(table.growth.values[cells], table.rest.values[cells])
        middle, low, high = np.median(speeds, 1), *np.quantile(speeds, [0.25, 0.75], 1)
        look = style | {"linestyle": "-", "lw": 1, "label": LABELS[own]}
        bar(left, places, middle, low, high, **look)
        _means(right, places, table.share.values[cells], look)
        control = look | {"linestyle": "--", "mfc": "white", "alpha": 0.7, "label": f"control, {LABELS[own]}"}
        _means(right, places, table.tilted.values[cells], control)
        if own:
            left.plot(places, middle[-1] * places[-1] / places, "--", color="grey", lw=1, label="slope -1")
    left.set(yscale="log", ylabel="speed, t |F| / |energy density|", title="how fast")
    right.set(ylabel="growth share of the squared flux", title="how much of it is growth")
    for panel in (left, right):
        panel.set_xscale("log", base=2)
        panel.set(xlabel="scale of the outputs (rich to lazy)")
    left.legend(fontsize=8)
    figure.legend(*right.get_legend_handles_labels(), fontsize=8, loc="outside lower right", ncols=4)
    return figure


def _means(panel: Axes, places: np.ndarray, values: np.ndarray, style: Mapping[str, object]) -> None:
    """Draw the mean of each row with Student's 95 % interval."""
    means, intervals = zip(*(mean_interval(row, 0.95) for row in values), strict=True)
    bar(panel, places, means, *np.transpose(intervals), **style)
