"""Notebook 03: gains between the layers of perceptrons, pair by pair, on the way back, and over depth."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grsd.evidence import DecisionRule, Result
from grsd.plotting.intervals import bar, rows, threshold
from grsd.plotting.style import COLOURS, WIDTH, look
from grsd.studies.gradient_propagation import compared, slopes

LABELS = {
    "residual": r"residual, branches $\times\, 1/\sqrt{L}$",
    "critical": r"plain, $\sigma_w = 1$ (critical)",
    "sub-critical": r"plain, $\sigma_w = 0.7$",
    "super-critical": r"plain, $\sigma_w = 1.5$",
    "residual, whole branches": r"residual, branches $\times\,1$",
    "Gaussian linear": "linear, Gaussian",
    "orthogonal linear": "linear, orthogonal",
}
OTHERS = {
    "sub-critical": ("orange", "v", "--"),
    "super-critical": ("green", "^", "--"),
    "residual, whole branches": ("sky", "D", "-"),
    "Gaussian linear": ("purple", "P", ":"),
    "orthogonal linear": ("black", "X", ":"),
}
LIMIT = 1.5  # decades of a gain's square root, where the colours end


def kind_look(kind: str) -> dict[str, str]:
    """``style.look`` of a kind of ``studies.gradient_propagation``."""
    names = {kind: name for name, kind in compared().items()}
    if kind not in OTHERS:
        return look(names.get(kind, kind)) | {"label": LABELS.get(kind, kind)}
    colour, marker, line = OTHERS[kind]
    return {"color": COLOURS[colour], "marker": marker, "linestyle": line, "label": LABELS[kind]}


def pairs(found: Mapping[str, xr.Dataset]) -> Figure:
    """Draw the gain from every node to every later one as a colour, one panel per kind of network."""
    figure, axes = plt.subplots(1, len(found), figsize=(WIDTH, 3.6), sharey=True, squeeze=False)
    for panel, (kind, one) in zip(axes.flat, found.items(), strict=True):
        half = np.log10(one.gain) / 2
        mesh = panel.pcolormesh(one.m, one.l, half, cmap="PuOr_r", vmin=-LIMIT, vmax=LIMIT, rasterized=True)
        panel.set(title=kind_look(kind)["label"], xlabel="to node $m$", aspect="equal", facecolor="lightgrey")
    axes.flat[0].set_ylabel("from node $l$")
    axes.flat[0].invert_yaxis()
    figure.colorbar(mesh, ax=list(axes.flat), label=r"$\log_{10}\sqrt{G_{lm}}$", extend="both", shrink=0.85)
    return figure


def way_back(found: Mapping[str, xr.Dataset], far: xr.Dataset) -> Figure:
    """Draw the gains of random directions and of the worst one back from the last node, and means over distances.

    ``far``: from ``distance_table``, of several networks per architecture.
    """
    figure, (random, worst, reach) = plt.subplots(1, 3, figsize=(WIDTH, 3.8))
    for kind, one in found.items():
        last, how = one.isel(m=-1), kind_look(kind) | {"marker": ""}
        back, gain, error = one.sizes["l"] - last.l, last.gain, last.standard_error
        random.plot(back, np.sqrt(gain), **how)
        low = np.sqrt(np.maximum(gain - 2 * error, 0.01 * gain))
        random.fill_between(back, low, np.sqrt(gain + 2 * error), color=how["color"], alpha=0.3, lw=0)
        worst.plot(back, last.norm, **how)
    random.set(ylabel=r"$\sqrt{G_{lL}}$", title="a random gradient")
    worst.set(ylabel=r"$|\partial h_L/\partial h_l|_2$", title="the worst gradient")
    for panel in (random, worst):
        panel.axhline(1, color="black", lw=0.8)
        panel.set(yscale="log", xlabel="layers passed on the way back, $L - l$")
    random.legend(fontsize=8, loc="lower left")
    _by_distance(reach, far)
    return figure


GROWTH = {
    "growth": r"growth: $\max\, \frac{1}{2}\log G_{lm}$",
    "norm_growth": r"worst direction: $\max\, \log|\partial h_m/\partial h_l|_2$",
    "decay": r"decay: $\max\, -\frac{1}{2}\log G_{lm}$",
}


def growth(table: xr.Dataset, judged: Mapping[tuple[str, str], Result]) -> Figure:
    """Draw growth, growth of the worst direction and decay over depth.

    ``table``: from ``growth_table``; two standard errors over seeds. ``judged``: results by (measure, architecture),
    whose slopes on log depth stand in the legends.
    """
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 3.8), sharey=True)
    for panel, (what, title) in zip(axes, GROWTH.items(), strict=True):
        for name in table.architecture.values:
            values, how = table[what].sel(architecture=name), look(str(name))
            if (what, name) in judged:
                found = judged[what, str(name)]
                how["label"] = f"{name}: slope {found.estimate:.2f} [{found.low:.2f}, {found.high:.2f}]"
            middle, twice = values.mean("seed"), 2 * values.std("seed", ddof=1) / values.sizes["seed"] ** 0.5
            bar(panel, values.depth, middle, middle - twice, middle + twice, **how, capsize=2)
        panel.set_xscale("log")
        panel.set_xticks(table.depth.values, [str(depth) for depth in table.depth.values])
        panel.minorticks_off()
        panel.set(xlabel="depth $L$ [hidden layers]", ylim=(-0.1, 2.8))
        panel.legend(fontsize=8, loc="upper left")
        panel.set_title(title, fontsize=10)
    axes[0].set_ylabel("change of a gradient [nats]")
    return figure


def _by_distance(axes: Axes, far: xr.Dataset) -> None:
    for name in far.architecture.values:
        one, how = far.sel(architecture=name), look(str(name)) | {"marker": "", "label": f"{name}, random"}
        axes.plot(one.distance, one.amplitude, **how | {"linestyle": "-"})
        axes.plot(one.distance, one.norm_amplitude, **how | {"linestyle": ":", "label": f"{name}, worst"})
    axes.axhline(0, color="black", lw=0.8)
    axes.set(xlabel="distance $m - l$ [layers]", title=f"over distance, depth {far.attrs['depth']}")
    axes.set_ylabel("mean of log amplitude [nats]")
    axes.legend(fontsize=8, loc="lower left")


def over_depth(deep: xr.Dataset, here: xr.Dataset, rule: DecisionRule) -> Figure:
    """Draw both measures over depth, and their slopes on log depth beside the threshold of the rule.

    ``deep``: the stored table, lines with two standard errors, and the slopes with the rule's intervals over seeds.
    ``here``: this run's table, open markers.
    """
    figure, (worst, rate, slope) = plt.subplots(1, 3, figsize=(WIDTH, 4), width_ratios=[1, 1, 0.8])
    for kind in here.kind.values:
        _over_depth(worst, deep.worst, here.worst, kind)
        _over_depth(rate, deep.lyapunov_depth, here.lyapunov_depth, kind)
    worst.set(ylabel=r"$\Gamma$, largest $|\frac{1}{2}\log G_{lm}|$ [nats]", title="worst pair of nodes")
    rate.set(ylabel=r"|Lyapunov rate $\times\ L$| [nats]", title="added up along the network")
    for panel in (worst, rate):
        panel.set_yscale("symlog", linthresh=0.5)
        panel.set_xscale("log")
        panel.set_xticks(deep.depth.values, [str(depth) for depth in deep.depth.values])
        panel.minorticks_off()
        panel.set(xlabel="depth $L$ [hidden layers]", ylim=(-0.05, 20))
    _slopes(slope, deep, rule)
    return figure


def _over_depth(axes: Axes, deep: xr.DataArray, here: xr.DataArray, kind: str) -> None:
    how = kind_look(kind)
    if kind in deep.kind:
        stored = deep.sel(kind=kind)
        middle, twice = stored.mean("seed"), 2 * stored.std("seed", ddof=1) / stored.sizes["seed"] ** 0.5
        bar(axes, stored.depth, middle, middle - twice, middle + twice, **how, capsize=2)
    now = here.sel(kind=kind).mean("seed")
    axes.plot(now.depth * 1.06, now, how["marker"], color=how["color"], mfc="none", ms=7, ls="none")


def _slopes(axes: Axes, deep: xr.Dataset, rule: DecisionRule) -> None:
    kinds, found = [str(kind) for kind in deep.kind.values], slopes(deep)
    kinds.sort(key=[*LABELS, *kinds].index)
    for row, kind in enumerate(kinds):
        how = kind_look(kind) | {"linestyle": "none", "label": None}
        for name, place, fill in (("worst", row - 0.15, how["color"]), ("lyapunov_depth", row + 0.15, "none")):
            ends = rule.interval(found[name].sel(kind=kind).values)
            bar(axes, place, *ends, horizontal=True, **how, mfc=fill, ms=5)
    threshold(axes, rule, horizontal=True)
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_xticks([0, 0.1, 1, 5], ["0", "0.1", "1", "5"])
    axes.minorticks_off()
    axes.set(xlabel=r"slope on $\log L$ [nats]", title="slopes")
    axes.set_xlim(-0.03, 8)
    rows(axes, [kind_look(kind)["label"] for kind in kinds])
    for text, kind in zip(axes.get_yticklabels(), kinds, strict=True):
        text.set_color(kind_look(kind)["color"])
