"""Notebook 04: the flux of networks and planted spectra against what independent signs would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grsd.evidence import DecisionRule, Result
from grsd.plotting.intervals import bar, rows, threshold
from grsd.plotting.style import COLOURS, LAMBDA, MARKERS, WIDTH, decades, look
from grsd.studies.gradient_propagation import compared
from grsd.studies.initial_incoherence import by_distance, judged_boundaries

OUTPUTS = {"one-hot": "ten outputs", "parity": "one output"}
SIGNS = 1.96  # |z| that one in twenty of independent signs exceeds


def cases(groups: Mapping[str, Sequence[xr.Dataset]]) -> Figure:
    """Draw z at every boundary, one panel per case and one line per seed."""
    figure, axes = plt.subplots(1, len(groups), figsize=(WIDTH, 3.4), sharey=True, squeeze=False)
    for panel, (name, group), colour, marker in zip(axes.flat, groups.items(), COLOURS.values(), MARKERS, strict=False):
        _lines(panel, group, {"color": colour, "marker": marker})
        panel.set_title(f"{name}\nexcess {_excess(group):.2f}", fontsize=9)
    _signs(list(axes.flat))
    return figure


def networks(
    groups: Mapping[tuple[str, str], Sequence[xr.Dataset]],
    depth: int,
    judged: Mapping[tuple[str, str], Result],
    rule: DecisionRule,
) -> Figure:
    """Draw z at every boundary of networks, by (task, architecture): one panel per task, one line per seed.

    ``judged``: results by (task, architecture), drawn in a last panel against the threshold of ``rule``.
    """
    tasks = list(dict.fromkeys(task for task, _ in groups))
    figure, every = plt.subplots(1, len(tasks) + 1, figsize=(WIDTH, 3.6))
    axes = every[:-1]
    for panel in axes[1:]:
        panel.sharey(axes[0])
    for (task, name), group in groups.items():
        panel = axes[tasks.index(task)]
        _lines(panel, group, look(name) | {"label": f"{name}: excess {_excess(group):.2f}"})
        panel.set_title(f"{OUTPUTS[task]}, depth {depth}")
        panel.legend(fontsize=8, loc="upper right")
    _signs(list(axes))
    for row, ((_, name), result) in enumerate(judged.items()):
        style = look(name) | {"linestyle": "none", "label": None}
        bar(every[-1], row, result.estimate, result.low, result.high, horizontal=True, **style)
    threshold(every[-1], rule, horizontal=True)
    rows(every[-1], [f"{name},\n{OUTPUTS[task]}:\n{result.verdict}" for (task, name), result in judged.items()])
    every[-1].set(xlabel="excess coherence; dashed: threshold", title="confirmatory seeds, 95 %")
    return figure


def _excess(group: Sequence[xr.Dataset]) -> float:
    return float(np.nanmean([float(found.excess) for found in group]))


def _lines(axes: Axes, group: Sequence[xr.Dataset], how: dict[str, str]) -> None:
    for number, found in enumerate(group):
        kept = judged_boundaries(found)
        axes.plot(decades(kept.boundary), kept.z, lw=0.8, alpha=0.8, **how | ({"label": None} if number else {}))


def _signs(panels: Sequence[Axes]) -> None:
    for panel in panels:
        panel.axhspan(-SIGNS, SIGNS, color="lightgrey", alpha=0.6, lw=0, zorder=0)
        panel.axhline(0, color="black", lw=0.8)
        panel.set(yscale="symlog", ylim=(-30, 30), xlabel=f"boundary, {LAMBDA}")
        panel.set_yticks([-10, -1, 0, 1, 10], ["-10", "-1", "0", "1", "10"])
        panel.set_yticks([], minor=True)
    panels[0].set_ylabel("$z_c$ (band: 95 % of independent signs)")


def over_depth(deep: xr.Dataset, here: xr.Dataset, rule: DecisionRule) -> Figure:
    """Draw the excess coherence over depth beside the rule's threshold, one panel per task.

    ``deep``: the stored table, lines with the rule's intervals over seeds. ``here``: this run's, open markers.
    """
    figure, axes = plt.subplots(1, len(OUTPUTS), figsize=(WIDTH, 3.8), sharey=True)
    for panel, (task, outputs) in zip(axes, OUTPUTS.items(), strict=True):
        for name, kind in compared().items():
            if kind in deep.kind:
                stored = deep.excess.sel(task=task, kind=kind)
                ends = [rule.interval(stored.sel(depth=depth).values) for depth in deep.depth.values]
                bar(panel, deep.depth, *np.array(ends).T, **look(name))
            now = here.excess.sel(task=task, kind=kind).mean("seed")
            how = look(name) | {"mfc": "none", "ms": 7, "linestyle": "none", "label": None}
            panel.plot(now.depth * 1.06, now, **how)
        threshold(panel, rule, color="grey", label="holds below, fails above")
        panel.set_xscale("log")
        panel.set_xticks(deep.depth.values, [str(depth) for depth in deep.depth.values])
        panel.minorticks_off()
        panel.set(xlabel="depth [hidden layers]", title=outputs)
    axes[0].set(ylabel="excess coherence", ylim=(0, None))
    axes[0].legend(fontsize=8)
    return figure


def exchange(tied: Sequence[xr.Dataset], groups: Mapping[tuple[str, str], Sequence[xr.Dataset]], title: str) -> Figure:
    """Draw z with M' held against z with M' recomputed, and how the exchange falls with the distance of shells.

    ``tied``: one network per seed, measured with recomputed flips. ``groups``: networks by (task, architecture).
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 4), width_ratios=[1, 1.35])
    for number, one in enumerate(tied):
        kept, colour = judged_boundaries(one), list(COLOURS.values())[number % len(COLOURS)]
        how = {"color": colour, "label": f"seed {one.attrs['seed']}"}
        left.plot(np.abs(kept.z), np.abs(kept.z_recomputed), MARKERS[number % len(MARKERS)], **how)
    top = left.get_xlim()[1]
    left.plot([0, top], [0, top], color="black", lw=0.8)
    left.axhline(SIGNS, color="grey", ls="--", lw=1)
    left.axvline(SIGNS, color="grey", ls="--", lw=1)
    left.set(xlabel="$|z_c|$, $M'$ held", ylabel="$|F_{off}|$ / rms over flips, $M'$ recomputed", title=title)
    if len(tied) <= len(MARKERS):
        left.legend(fontsize=8, loc="upper left")
    _decay(right, groups)
    return figure


def _decay(axes: Axes, groups: Mapping[tuple[str, str], Sequence[xr.Dataset]]) -> None:
    for (task, name), group in groups.items():
        found, how = by_distance(group), look(name)
        slope = np.mean([float(one.decay) for one in group])
        how["label"] = f"{name}, {OUTPUTS[task]}: slope {slope:.2f}"
        if task == "parity":
            how["mfc"] = "none"
        middle, twice = found["mean"], 2 * found.standard_error
        bar(axes, decades(found.distance), middle, middle - twice, middle + twice, **how, ms=6, capsize=2)
    axes.axhline(0, color="black", lw=0.8)
    axes.set(xlabel=r"distance $|s_a - s_b|$ [decades of $\lambda$]", ylabel=r"mean of $\log_{10}\hat R_{ab}$")
    axes.set_title("strength of the exchange; open: one output")
    axes.legend(fontsize=8, loc="upper left")
