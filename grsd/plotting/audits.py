"""The figures of an audit: what moved the energies while the loss fell, the loss and its forecast, several audits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grsd.plotting.stochastic_training import LAZINESS
from grsd.plotting.style import COLOURS, LAMBDA, WIDTH, decades, plain_log

VERDICTS = {"lazy": "sky", "running clock": "green", "transport": "purple", "inconclusive": "black"}


def course(document: Mapping[str, object], size: tuple[float, float] = (5.2, 3.0)) -> Figure:
    """What moved the energies of the shells, by how far the loss has fallen: mean over runs of the three shares."""
    figure, axes = plt.subplots(figsize=size)
    _bars(axes, document["course"])
    axes.set(xlabel="log(loss / first loss)", ylabel="share of the energies' change")
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.3), ncols=1)
    return figure


def loss(document: Mapping[str, object], size: tuple[float, float] = (5.2, 3.0)) -> Figure:
    """The loss of each run, and with times the forecast with its interval."""
    figure, axes = plt.subplots(figsize=size)
    found, ahead = document["course"], document["forecast"]
    each = "sample groups" if document["question"]["unit"] == "groups" else "runs"
    for row, losses in enumerate(found["losses"]):
        x = np.arange(len(losses)) if not found["times"] else found["times"][row]
        axes.plot(x, losses[-len(x) :], color=COLOURS["blue"], lw=1, alpha=0.8, label=None if row else each)
    axes.set(ylabel="loss", yscale="log", xscale="log" if found["times"] else "linear")
    axes.set_xlabel("time of gradient flow" if found["times"] else "checkpoint")
    for axis in (axes.yaxis, axes.xaxis) if found["times"] else (axes.yaxis,):
        plain_log(axis)
    if ahead is not None:
        axes.fill_between(ahead["times"], ahead["low"], ahead["high"], color=COLOURS["orange"], alpha=0.25, lw=0)
        axes.plot(ahead["times"], ahead["loss"], color=COLOURS["orange"], ls="--", label="forecast, 95 %")
    axes.legend(fontsize=8)
    return figure


def numbers(document: Mapping[str, object], size: tuple[float, float] = (5.2, 1.9)) -> Figure:
    """The two numbers that decide, with their intervals and thresholds."""
    figure, axes = plt.subplots(figsize=size)
    names = {"moved": "kernel's motion\nover learning", "growth_share": "growth's share\nof the flux"}
    for row, name in enumerate(names):
        found = document["numbers"][name]
        if found["value"] is not None and found["low"] is not None:
            ends = [[found["value"] - found["low"]], [found["high"] - found["value"]]]
            axes.errorbar([found["value"]], [row], xerr=ends, fmt="o", color=COLOURS["blue"], capsize=3)
        axes.plot([found["threshold"]] * 2, [row - 0.35, row + 0.35], color=COLOURS["red"], ls="--", lw=1.2)
    axes.set_yticks(range(len(names)), list(names.values()))
    axes.set(ylim=(len(names) - 0.4, -0.6), xlabel="dashed: the threshold that decides")
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    return figure


def flux(budget: xr.Dataset, reach: float, size: tuple[float, float] = (7, 3.2)) -> Figure:
    """The flux between two states beside what the best growth of the whole kernel gives, over the top ``reach``."""
    figure, axes = plt.subplots(figsize=size)
    found = budget.isel(step=0) if "step" in budget.dims else budget
    through = found.flux.values
    net = found.growth.sum("shell_from").values
    grown = net[::-1].cumsum()[::-1][1:]
    place = found.boundary.values
    kept = place >= found.shell_lower.values[-1] - reach
    scale = float(through[kept] @ grown[kept] / max(float(grown[kept] @ grown[kept]), 1e-300))
    share = scale * float(through[kept] @ grown[kept]) / max(float(through[kept] @ through[kept]), 1e-300)
    width = 0.8 * found.attrs["shell_width"] / np.log(10)
    axes.bar(decades(place[kept]), through[kept], width, color=COLOURS["purple"], alpha=0.6, label="flux")
    label = f"growth alone, {share:.0%} of the squared flux"
    axes.plot(decades(place[kept]), scale * grown[kept], color=COLOURS["green"], marker="^", label=label)
    axes.axhline(0, color="black", lw=0.6)
    axes.set(xlabel=f"boundary, {LAMBDA}", ylabel="energy moved upward")
    axes.legend(fontsize=8)
    return figure


def gallery(documents: Mapping[str, Mapping[str, object]]) -> Figure:
    """Several audits: the two numbers that decide as a plane, and what the kernel's two parts moved over the course."""
    figure, axes = plt.subplot_mosaic([["plane", "plane"], ["growth", "rest"]], figsize=(WIDTH, 7))
    plane = axes["plane"]
    for (name, document), marker in zip(documents.items(), "os^vDPX<>h" * 3, strict=False):
        moved, share = (document["numbers"][one] for one in ("moved", "growth_share"))
        verdict = document["verdict"]["verdict"]
        style = {"color": COLOURS[VERDICTS[verdict]], "marker": marker, "ms": 7, "ls": "none", "mec": "black"}
        x = max(moved["value"], 1e-3)
        y = 1.04 if verdict == "lazy" or share["value"] is None else share["value"]
        spread = [[x - max(moved["low"], 1e-3)], [moved["high"] - x]] if moved["low"] is not None else None
        height = None if verdict == "lazy" or share["low"] is None else [[y - share["low"]], [share["high"] - y]]
        plane.errorbar(x, y, xerr=spread, yerr=height, label=f"{name}: {verdict}", capsize=2, lw=1, **style)
    plane.axvline(0.1, color="grey", ls="--", lw=1)
    plane.axhline(0.75, color="grey", ls=":", lw=1)
    plane.set(xscale="log", xlabel="the kernel's motion over learning", ylabel="growth's share of the squared flux")
    plane.set_ylim(-0.03, 1.1)
    plane.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    for part in ("growth", "rest"):
        for document, marker in zip(documents.values(), "os^vDPX<>h" * 3, strict=False):
            _line(axes[part], document, part, marker)
        axes[part].axhline(0, color="black", lw=0.6)
        axes[part].set(xlabel="log(loss / first loss)", ylabel="share of the energies' change", title=LAZINESS[part][0])
        axes[part].invert_xaxis()
    spans = [axes[part].get_ylim() for part in ("growth", "rest")]
    for part in ("growth", "rest"):
        axes[part].set_ylim(min(low for low, _ in spans), max(high for _, high in spans))
    return figure


def _line(axes: Axes, document: Mapping[str, object], part: str, marker: str) -> None:
    """Draw one part's share over the course of an audit, at the middle of each piece."""
    edges = np.array(document["course"]["edges"], dtype=float)
    values = np.array([np.nan if value is None else value for value in document["course"][part]], dtype=float)
    if len(values) == len(edges) - 1:
        colour = COLOURS[VERDICTS[document["verdict"]["verdict"]]]
        axes.plot((edges[1:] + edges[:-1]) / 2, values, color=colour, marker=marker, mec="black", mew=0.5, lw=1)


def _bars(axes: Axes, found: Mapping[str, Sequence]) -> None:
    edges = np.array(found["edges"], dtype=float)
    above, below = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    for part, (label, colour) in LAZINESS.items():
        values = np.array([np.nan if value is None else value for value in found[part]], dtype=float)
        if len(values) != len(above):
            continue
        values = np.nan_to_num(values)
        start = np.where(values >= 0, above, below)
        axes.bar(edges[:-1], values, np.diff(edges), start, align="edge", color=COLOURS[colour], label=label, lw=0)
        above, below = above + np.maximum(values, 0), below + np.minimum(values, 0)
    axes.axhline(0, color="black", lw=0.6)
    if len(edges) > 1:
        axes.set_xlim(0, edges[-1])
