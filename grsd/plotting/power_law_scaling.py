"""The figures of notebook 09: transport, exponents, forecasts of losses, and the axes of scaling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from grsd.evidence import DecisionRule
from grsd.networks import architecture
from grsd.plotting.intervals import bar, threshold
from grsd.plotting.style import COLOURS, WIDTH, plain_log
from grsd.solvable import ProjectedTwoLayer
from grsd.studies.power_law_scaling.axes import AXES, along, slope, slopes_of
from grsd.studies.power_law_scaling.exact import Case
from grsd.theory import local_exponent

FORECASTS = {
    "covariant": ("covariant $\\Phi$", "blue", "o"),
    "power law": ("power law in $\\Phi$", "green", "^"),
    "growth": ("growth only, $\\Phi = c$", "purple", "v"),
    "lazy": ("lazy, u = 0", "red", "--"),
    "straight line": ("straight line", "orange", ":"),
}
ALONG = {"model": "features $P$", "data": "samples $N$", "time": "time $t$", "compute": "compute $C = P\\,t$"}


def characteristics(laws: Mapping[str, Case], mapped: Sequence[str], solved: Mapping[str, xr.Dataset]) -> Figure:
    """Draw eigenvalues over time for the ``mapped`` laws, fading with their energy, and the energy left for all laws.

    ``solved``: ``energies`` by law, ``characteristics`` and ``finite_volume`` over time.
    """
    figure, axes = plt.subplots(1, len(mapped) + 1, figsize=(WIDTH, 4))
    for panel, title in zip(axes, mapped, strict=False):
        _paths(panel, laws[title])
        panel.set_title(title, fontsize=9)
        panel.set_xlabel(r"$\log_{10} t/t_0$")
    axes[0].set_ylabel(r"$\log_{10} \lambda t_0$")
    axes[0].legend(loc="lower left", frameon=True, framealpha=1, edgecolor="none", fontsize=8)
    for (title, found), colour in zip(solved.items(), COLOURS.values(), strict=False):
        when = np.log10(found.time)
        axes[-1].plot(when, np.log10(found.characteristics), color=COLOURS["black"], lw=0.8)
        axes[-1].plot(when, np.log10(found.finite_volume), "o", color=colour, label=title, ms=5)
    worst = max(float(np.abs(found.difference).max()) for found in solved.values())
    axes[-1].set_title(f"characteristics (lines), finite volumes (points):\nat most {worst:.0e} apart", fontsize=9)
    axes[-1].set(xlabel=r"$\log_{10} t/t_0$", ylabel=r"$\log_{10} E$")
    low, high = axes[-1].get_ylim()
    axes[-1].set_ylim(low - 0.5 * (high - low), high)  # room for the legend
    axes[-1].legend(fontsize=8, loc="lower left")
    return figure


def _paths(axes: Axes, case: Case) -> None:
    tau = np.linspace(0, case.tau, 24)
    start = np.linspace(-10.5, 0, 22)
    paths = case.velocity.log_path(start[:, None], tau) - tau
    left = np.exp(-np.array([case.velocity.losses(start, one) for one in tau])).T
    for path, share in zip(paths, left, strict=True):
        kept = np.isfinite(path)
        ends = np.stack([tau[kept], path[kept]], axis=1) / math.log(10)
        pieces = np.stack([ends[:-1], ends[1:]], axis=1)
        lines = LineCollection(pieces, cmap="Blues", clim=(-0.25, 1), lw=1.3, rasterized=True)
        lines.set_array(share[kept][:-1])
        axes.add_collection(lines)
    axes.plot(tau / math.log(10), -tau / math.log(10), color=COLOURS["red"], ls="--", label=r"$\lambda t = 1$")
    axes.set(ylim=(-4.5, 0.6), xlim=(0, case.tau / math.log(10)))


def exponents(
    log_times: np.ndarray,
    curves: Mapping[str, np.ndarray],
    limits: Mapping[str, float],
    published: pd.DataFrame,
    betas: Sequence[float],
) -> Figure:
    """Draw local exponents of laws with their limits, and the published exponents of projected networks.

    ``published``: columns beta, p and published. ``betas``: of the networks that are followed in finite time.
    """
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 4))
    last = 1.02 * log_times[-1]
    for (name, curve), colour in zip(curves.items(), COLOURS.values(), strict=False):
        axes[0].plot(log_times, curve, color=colour, label=name)
        axes[0].plot(last, limits[name], "<", color="black", ms=6, clip_on=False)
    axes[0].set(xlabel=r"$\log\, t/t_0$", ylabel=r"$-d\log E / d\log t$, for $q = 0$", xlim=(0, last))
    axes[0].set(title="laws, and their limits (triangles)", ylim=(-0.05, 2.9))
    axes[0].legend(fontsize=8, loc="upper right")
    beta = np.linspace(0.05, 1.7, 200)
    axes[1].plot(beta, beta * np.maximum(1, 2 / (1 + beta)), color="black", lw=1, label=r"published $\chi$")
    axes[1].plot(beta, beta, color="grey", ls="--", lw=1, label=r"lazy, $\beta$")
    axes[1].plot(published.beta, published.p, "o", color=COLOURS["blue"], ms=6, label="$(q+1)(1+c)$, measured")
    axes[1].set(xlabel=r"source exponent $\beta$", ylabel="loss exponent", title="a published law")
    axes[1].legend(fontsize=8, loc="upper left")
    when = np.exp(np.linspace(1, 21, 11))
    for one, colour in zip(betas, COLOURS.values(), strict=False):
        model = ProjectedTwoLayer(beta=one)
        speeds = np.array([time * model.relative_velocity(time) for time in when])
        axes[2].plot(np.log10(when), one * (1 + speeds), color=colour, label=rf"$\beta$ = {one}: $(q+1)(1+tu)$")
        axes[2].plot(np.log10(when), local_exponent(when, model.loss(when)), "o", color=colour)
        axes[2].axhline(model.loss_exponent, color=colour, ls=":", lw=1)
    axes[2].set(xlabel=r"$\log_{10} t$", ylabel="local exponent", title="the same in finite time")
    axes[2].legend(fontsize=8, loc="center right")
    return figure


def forecasts(examples: Mapping[str, xr.Dataset], scores: Mapping[str, xr.DataArray], rule: DecisionRule) -> Figure:
    """Draw losses and their forecasts, one panel per example, and beneath them the scores of the written forecasts.

    ``examples``: ``compared`` of exact models and of networks, by title. ``scores``: over architecture, seed and
    method, by task. ``rule``: of the accuracy of the covariant forecast.
    """
    names = [f"example {number}" for number in range(len(examples))]
    figure, axes = plt.subplot_mosaic([names, ["scores"] * len(names)], figsize=(WIDTH, 7.4), height_ratios=(1, 1.1))
    for place, (title, found) in zip(names, examples.items(), strict=True):
        panel = axes[place]
        panel.loglog(found.time_seen, found.loss_seen, color="black", lw=2, label="loss, seen")
        panel.loglog(found.ahead, found.loss_after, color="black", lw=1, label="loss, later")
        for method, (label, colour, style) in FORECASTS.items():
            options = {"marker": style, "mfc": "none", "ls": ""} if style in "o^v" else {"ls": style}
            losses = found.loss.sel({"method": method})
            panel.loglog(found.ahead, losses, color=COLOURS[colour], label=label, **options)
        panel.axvspan(0.3, 1, color="grey", alpha=0.12, lw=0)
        panel.set(xlabel="time / $t_1$ (shaded: seen)", xlim=(0.3, 11), title=title)
        plain_log(panel.xaxis)
        plain_log(panel.yaxis)
    axes[names[0]].set_ylabel("loss")
    axes[names[0]].legend(fontsize=8, loc="lower left")
    _scores(axes["scores"], scores, rule)
    return figure


def _scores(axes: Axes, scores: Mapping[str, xr.DataArray], rule: DecisionRule) -> None:
    """Draw one point per seed, with the mean and standard error, for each task, architecture and method."""
    ticks = []
    for task, score in scores.items():
        for kind in [name for name in architecture.names(compared=True) if name in score.architecture]:
            for shift, (method, (label, colour, _)) in zip(
                np.linspace(-0.3, 0.3, len(FORECASTS)), FORECASTS.items(), strict=True
            ):
                values = score.sel({"architecture": kind, "method": method}).values
                values = values[np.isfinite(values)]
                place = len(ticks) + shift
                axes.plot(np.full(values.size, place), values, ".", color=COLOURS[colour], alpha=0.4)
                error = values.std(ddof=1) / math.sqrt(values.size) if values.size > 1 else 0.0
                ends = values.mean() - error, values.mean() + error
                name = None if ticks else label
                bar(axes, place, values.mean(), *ends, fmt="D", color=COLOURS[colour], ms=5, capsize=0, label=name)
            ticks.append(f"{kind},\n{task}")
    threshold(axes, rule, color="grey", zorder=0)
    axes.set_yscale("log")
    axes.set_xticks(range(len(ticks)), ticks, fontsize=9)
    axes.set(ylabel="mean |log(forecast / loss)|", xlim=(-0.5, len(ticks) - 0.5))
    seeds = next(iter(scores.values())).sizes["seed"]
    text = f"dashed: the rule of accuracy, {rule.direction} {rule.threshold:g}"
    axes.set_title(f"written before: {seeds} seeds, mean and standard error; {text}", fontsize=10)
    axes.legend(fontsize=8, loc="lower right", ncols=len(FORECASTS))


def axes_of_scaling(regressions: Sequence[xr.Dataset], predicted: xr.Dataset, networks: xr.Dataset) -> Figure:
    """Draw the losses of drawn regressions along all axes, and of networks over samples and over width.

    ``predicted``, ``networks``: ``read_losses`` of the predictions and of the tables. Lines are theory.
    """
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 4.2))
    _regressions(axes[0], regressions)
    trained = {"lazy": ("red", "s", "initial kernel"), "by_samples": ("blue", "o", "trained")}
    learnt = networks.attrs["samples"]
    wide = {
        "readout": ("green", "^", "only the readout, on all"),
        "by_width": ("blue", "o", f"all layers, on {learnt}"),
    }
    _networks(axes[1], predicted.by_samples, networks, trained)
    _networks(axes[2], predicted.by_width, networks, wide)
    pool = f"loss on the {networks.attrs['pool']} samples"
    axes[1].set(xlabel="samples $N$", ylabel=pool, title="networks: samples")
    axes[2].set(xlabel="width $P$", title="networks: width")
    low = min(panel.get_ylim()[0] for panel in axes[1:])
    for panel in axes[1:]:
        panel.set_ylim(0.3 * low, max(one.get_ylim()[1] for one in axes[1:]))  # room for the legends
        plain_log(panel.yaxis)
    return figure


def _regressions(axes: Axes, runs: Sequence[xr.Dataset]) -> None:
    for name, colour, marker in zip(AXES, COLOURS.values(), "os^D", strict=False):
        expected = along(runs[0], name, "_theory")
        where = expected[expected.dims[0]]
        axes.loglog(where, expected, color="black", lw=1, label="theory, before the draws" if name == AXES[0] else None)
        drawn = np.array([along(run, name).values for run in runs])
        found = f"{ALONG[name]}: {np.mean([slope(along(run, name)) for run in runs]):.2f}"
        ends = drawn.min(0), drawn.max(0)
        label = f"{found}, theory {slope(expected):.2f}"
        bar(axes, where, drawn.mean(0), *ends, fmt=marker, color=colour, ms=4, capsize=0, label=label)
    axes.set(xlabel="$P$, $N$, $t$ or $C$", ylabel="loss", title="regression: slopes")
    low, high = axes.get_ylim()
    axes.set_ylim(low / 8, high)  # room for the legend
    axes.legend(fontsize=8, loc="lower left")


def _networks(axes: Axes, theory: xr.DataArray, losses: xr.Dataset, kinds: Mapping[str, tuple[str, str, str]]) -> None:
    """Mean and range of the theory, mean and standard error of what was measured, over seeds, with their slopes."""
    where = theory[theory.dims[-1]].values
    text = f"theory, before: slope {np.mean(slopes_of(theory)):.2f}"
    axes.fill_between(where, theory.min("seed"), theory.max("seed"), color="black", alpha=0.15, lw=0)
    axes.loglog(where, theory.mean("seed"), color="black", lw=1, label=text)
    for kind, (colour, marker, said) in kinds.items():
        found, slopes = losses[kind], slopes_of(losses[kind])
        mean, error = found.mean("seed"), found.std("seed", ddof=1) / math.sqrt(found.sizes["seed"])
        text = f"{said}: {np.mean(slopes):.2f} ± {np.std(slopes, ddof=1) / math.sqrt(len(slopes)):.2f}"
        bar(axes, where, mean, mean - error, mean + error, fmt=marker, color=COLOURS[colour], capsize=0, label=text)
    axes.set_xticks(where, [str(value) for value in where])
    axes.set_xticks([], minor=True)
    axes.legend(fontsize=8, loc="lower left")
