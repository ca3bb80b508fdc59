"""Figures of notebook 10: one clock, the links by network, and the premises broken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from grsd.conditions.covariance import Collapse
from grsd.plotting.style import COLOURS, MARKERS, WIDTH, plain_log

SHADES = {"holds": "green", "fails": "red", "inconclusive": "orange"}
GREY = "#BBBBBB"


def clock(
    collapses: Mapping[str, Collapse],
    window: tuple[float, float],
    losses: Mapping[str, tuple[np.ndarray, np.ndarray, float, float]],
) -> Figure:
    """Left: t u over lambda t of each network at its times. Right: losses with the predicted slopes.

    ``losses``: by network the times, the loss, the predicted exponent and the lazy one.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 4))
    left.axvspan(*window, color=GREY, alpha=0.3, lw=0, label="judged")
    for (name, found), colour in zip(collapses.items(), COLOURS.values(), strict=False):
        for number, values in enumerate(found.values):
            style = {"color": colour, "alpha": 0.4 + 0.6 * number / len(found.values)}
            left.plot(
                found.x, values, marker="o", ms=3, label=name if number == len(found.values) - 1 else None, **style
            )
    left.axvline(0, color="grey", ls="--", lw=0.8)
    left.set(xlabel=r"$\log(\lambda t)$", ylabel=r"$t\,u$", ylim=(0, None), title="relative velocity at all times")
    left.legend(fontsize=8)
    for (name, (times, loss, expected, lazy)), colour in zip(losses.items(), COLOURS.values(), strict=False):
        right.loglog(times / times[0], loss / loss[0], "o", color=colour, label=f"{name}: predicted {expected:.3f}")
        for slope, line in ((expected, "-"), (lazy, ":")):
            right.loglog(times / times[0], (times / times[0]) ** -slope, line, color=colour, lw=1)
    right.set(xlabel="time / first time", ylabel="loss / loss then", title="loss: predicted (line), lazy (dots)")
    plain_log(right.xaxis)
    plain_log(right.yaxis)
    right.legend(fontsize=8)
    return figure


def links(table: xr.Dataset, rows: Sequence[str], columns: Sequence[str]) -> Figure:
    """The table of the chain: a cell is a verdict, by colour, with its number and interval."""
    figure, axes = plt.subplots(figsize=(WIDTH, 0.85 * len(rows) + 0.7))
    for row, name in enumerate(rows):
        for column, link in enumerate(columns):
            cell = table.sel(network=name, link=link)
            verdict = str(cell.verdict.item())
            colour = COLOURS[SHADES[verdict]] if verdict in SHADES else GREY
            axes.add_patch(plt.Rectangle((column - 0.48, row - 0.45), 0.96, 0.9, color=colour, alpha=0.45, lw=0))
            text = verdict
            if verdict in SHADES:
                text += f"\n{float(cell.estimate):.2g}\n{float(cell.low):.2g} to\n{float(cell.high):.2g}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    axes.set_xticks(range(len(columns)), [name.replace(", ", ",\n") for name in columns], fontsize=9)
    axes.set_yticks(range(len(rows)), [name.replace(", ", ",\n") for name in rows], fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def broken(curves: Mapping[str, tuple[np.ndarray, np.ndarray, float]], random: Sequence[float]) -> Figure:
    """Left: local loss exponents of each network with one premise broken, against what was predicted (dashed).

    ``curves``: by premise the times, mean log loss and the predicted exponent. Right: what one clock explains of the
    flux, in the trained direction and in random ones.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 4), width_ratios=(3, 1))
    for number, (name, (times, log_loss, expected)) in enumerate(curves.items()):
        colour, marker = list(COLOURS.values())[number], MARKERS[number]
        slopes = -np.diff(log_loss) / np.diff(np.log(times))
        middle = np.sqrt(times[1:] * times[:-1]) / times[0]
        left.semilogx(middle, slopes, marker=marker, color=colour, label=f"broken: {name}")
        left.axhline(expected, color=colour, ls="--", lw=0.8)
    left.set(xlabel="time / first time", ylabel="local loss exponent", title="dashed: predicted from the first time")
    plain_log(left.xaxis)
    left.legend(fontsize=8)
    for place, values in enumerate(random):
        right.plot(place + np.linspace(-0.1, 0.1, len(values)), values, "o", color=COLOURS["blue"])
    right.axhline(0.8, color="black", ls="--", lw=0.8)
    right.set_xticks(range(len(random)), ["direction that\ntraining made", "random\ndirections"], fontsize=8)
    right.set(xlim=(-0.5, len(random) - 0.5), ylabel="$R^2$ of one clock", title="closure")
    return figure
