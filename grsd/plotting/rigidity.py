"""The figures of notebook 08: what breaks the theorem, how stable it is, covariance, and distances to a power law."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grsd.conditions.covariance import Collapse
from grsd.evidence import DecisionRule
from grsd.networks import architecture
from grsd.plotting.intervals import bar, threshold
from grsd.plotting.style import COLOURS, LAMBDA, WIDTH, decades, look
from grsd.theory import nearest_affine
from grsd.theory.band import Band
from grsd.theory.counterexamples import Example

TIMES = {0.2: "-", 1.0: "--", 5.0: ":"}
PARTS = {"both": ("o", "whole"), "frontier": ("^", "upper half"), "below": ("v", "lower half")}
DISTANCE = r"distance of $\log|u|$ to affine"


def counterexamples(examples: Mapping[str, Example], exponent: float = 1.5) -> Figure:
    """Draw v over the power law of ``exponent``, one panel per example but the first, which is that law itself.

    Covariance makes the curves of all times one, invariance under all shifts makes each of them straight. Grey: where
    a power law lies, through the mean at time 1.
    """
    _, *others = examples.items()
    s = np.linspace(-6, 6, 481)
    figure, axes = plt.subplots(1, len(others), figsize=(WIDTH, 3.6), squeeze=False)
    for panel, (name, example) in zip(axes.flat, others, strict=True):
        for (time, line), colour in zip(TIMES.items(), COLOURS.values(), strict=False):
            y = np.log10(example.velocity(np.exp(s), time) * np.exp(-exponent * s) * time ** (2 - exponent))
            panel.plot(decades(s + math.log(time)), y, line, color=colour, label=f"t = {time:g}")
            if time == 1:
                panel.axhline(y.mean(), color="grey", lw=3, alpha=0.4, label="power law", zorder=0)
        panel.set_title(f"{name}\n{example.text}", fontsize=9)
        panel.set_xlabel(r"$\log_{10}\lambda t$")
    axes[0, 0].set_ylabel(r"$\log_{10}(v\,\lambda^{-3/2}t^{1/2})$")
    axes[0, -1].legend(fontsize=8)
    return figure


def stability(worst: Mapping[int, tuple[float, np.ndarray]], ratios: Sequence[float], rule: DecisionRule) -> Figure:
    """Draw the worst distances on n cells, a worst curve of the finest grid, and the ratios of theorem 3 by seed.

    ``worst``: what ``worst_curve`` gives by n. ``rule``: of the claim that no ratio passes its threshold.
    """
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 3.6))
    largest = max(worst)
    n = np.linspace(min(worst), largest, 200)
    axes[0].plot(n, 1 - 1 / n, color="black", lw=1, label="$1-1/n$")
    axes[0].plot(list(worst), [one for one, _ in worst.values()], "o", color=COLOURS["blue"], label="linear program")
    axes[0].axhline(1, color="grey", ls="--", lw=0.8, label="theorem 2")
    axes[0].set(xlabel="cells $n$", ylabel=r"worst distance / $\varepsilon$", ylim=(0.4, 1.05))
    axes[0].legend(loc="lower right")
    _, curve = worst[largest]
    place = np.linspace(0, 1, len(curve))
    line = nearest_affine(place, curve)
    axes[1].plot(place, curve - line.slope * place - line.intercept, "o-", color=COLOURS["blue"], lw=1)
    axes[1].axhline(0, color="grey", lw=0.8)
    axes[1].set(xlabel=r"place in the interval, $s/\Lambda$", ylabel=r"$(g-\ell)/\varepsilon$")
    axes[1].set_title(f"a worst curve, n = {largest}", fontsize=10)
    axes[2].hist(ratios, bins=np.linspace(0.4, 1.1, 29), color=COLOURS["sky"])
    threshold(axes[2], rule, horizontal=True)
    axes[2].set(xlabel=r"distance / ($\varepsilon+\delta$), largest of 20", ylabel="seeds")
    axes[2].set_title("theorem 3, drawn velocities", fontsize=10)
    return figure


def collapse(
    exact: Mapping[str, Collapse],
    networks: Mapping[tuple[str, int], tuple[Collapse, Collapse]],
    rule: DecisionRule,
) -> Figure:
    """Draw the covariance along runs of exact models and of networks.

    ``networks``, by (architecture, depth): what is judged, up to the frontier, and what is shown, a little beyond it.
    ``rule``: of the covariance along a run.
    """
    figure, axes = plt.subplots(1, 1 + len(networks), figsize=(WIDTH, 3.9))
    for (name, found), marker in zip(exact.items(), "osD", strict=False):
        _times(axes[0], found, f"{marker}-", labelled=False)
        axes[0].plot([], [], marker, color="grey", label=f"{name}, $D^2$ = {found.defect:.1g}")
    times = next(iter(exact.values())).times
    axes[0].set_title(f"diagonal nets\nrule: $D^2$ {rule.direction} {rule.threshold:g}", fontsize=9)
    axes[0].set_ylabel(f"$t\\,u$ at t = {times[0]:.2g} (dark) to {times[-1]:.0f} (light)")
    for panel, ((name, depth), (judged, found)) in zip(axes[1:], networks.items(), strict=True):
        _times(panel, found, "o-", errors=True)
        low, high = judged.interval
        title = f"{look(name)['label']}, depth {depth}, {found.runs} runs"
        panel.set_title(f"{title}\n$D^2$ = {judged.defect:.2f} [{low:.2f}, {high:.2f}]", fontsize=9)
        panel.set_ylabel("$t\\,u$, two standard errors")
    for panel in axes:
        panel.axhline(0, color="grey", lw=0.8)
        panel.axvline(0, color="grey", ls="--", lw=0.8)
        panel.set_xlabel(r"$\log_{10}\lambda t$")
        low, high = panel.get_ylim()
        panel.set_ylim(low, high + 0.4 * (high - low))  # room for the legend
        panel.legend(fontsize=8, loc="upper left")
    return figure


def _times(axes: Axes, found: Collapse, style: str, *, errors: bool = False, labelled: bool = True) -> None:
    """t u over log lambda t, one colour per time."""
    for row, time in enumerate(found.times):
        colour = plt.cm.viridis(0.9 * row / (len(found.times) - 1))
        error = 2 * found.standard_errors[row] if errors else None
        label = f"t = {time:.2g}" if labelled else None
        axes.errorbar(decades(found.x), found.values[row], error, fmt=style, lw=1, color=colour, capsize=2, label=label)


def certified(bands: Mapping[str, Band], true: Mapping[str, float], tables: Mapping[str, xr.Dataset]) -> Figure:
    """Draw bands of planted laws with their certificates above, and beneath the certificates of networks.

    ``true``: the distance of each planted law. ``tables``: ``studies.rigidity.distance_table`` by the name of a stage.
    """
    names = [f"planted {number}" for number in range(len(bands))]
    figure, axes = plt.subplot_mosaic([names, ["networks"] * len(names)], figsize=(WIDTH, 7), height_ratios=(1, 0.9))
    for number, (name, band) in enumerate(bands.items()):
        panel, found = axes[f"planted {number}"], band.certificate()
        line = nearest_affine(band.s, np.log(np.abs(band.velocity)))
        heights, place = decades(np.log(np.abs(band.velocity))), decades(band.s)
        bottom = heights.min() - 0.6
        low = np.maximum(decades(band.low), bottom)
        panel.fill_between(place, low, decades(band.high), color=COLOURS["sky"], alpha=0.4, lw=0)
        panel.plot(place, heights, "o", color=COLOURS["blue"])
        panel.plot(place, decades(line.slope * band.s + line.intercept), color="black", lw=1)
        numbers = f"least {found.least:.2f}, most {found.most:.2f}, true {true[name]:.2f}"
        panel.set_title(f"planted: {name}\n{numbers}", fontsize=9)
        panel.set(xlabel=LAMBDA, ylim=(bottom, None))
    axes[names[0]].set_ylabel(r"$\log_{10}u$ [1/time], 95 % band")
    _networks(axes["networks"], tables)
    return figure


def _networks(axes: Axes, tables: Mapping[str, xr.Dataset], depths: Sequence[int] = (16, 32)) -> None:
    """Bars from ``least`` to ``most`` and the distance of the mean velocities, three parts to each cell of a table."""
    ticks, first = [], len(tables)
    for when, table in tables.items():
        shown = [name for name in architecture.names(compared=True) if name in table.architecture]
        for name, depth in [(name, depth) for name in shown for depth in depths]:
            for shift, (part, (marker, _)) in zip((-0.25, 0.0, 0.25), PARTS.items(), strict=True):
                cell = table.sel(architecture=name, depth=depth, part=part)
                place, distance = len(ticks) + shift, float(cell.distance)
                if np.isfinite(cell.most):
                    ends = float(cell.least), float(cell.most)
                    bar(axes, place, distance, *ends, color=look(name)["color"], marker="", lw=4, alpha=0.5, capsize=0)
                if np.isfinite(distance):
                    axes.plot(place, distance, marker, color=look(name)["color"], ms=6)
            ticks.append(f"{when}\n{look(name)['label']}, {depth}")
        axes.axvline(len(ticks) - 0.5, color="grey", lw=0.8 if first > 1 else 0)
        first -= 1
    for marker, label in PARTS.values():
        axes.plot([], [], marker, color="black", ms=6, label=label)
    axes.axhline(0, color="grey", lw=0.8)
    axes.set_xticks(range(len(ticks)), ticks, fontsize=8)
    axes.set(ylabel=f"{DISTANCE}, nats", xlim=(-0.5, len(ticks) - 0.5))
    losses = ", ".join(f"{when} {float(table.attrs['log_loss']):g}" for when, table in tables.items())
    axes.set_title(
        f"networks at log(loss / loss at the start): {losses}; a window of six e-folds:", fontsize=9, loc="left"
    )
    axes.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
