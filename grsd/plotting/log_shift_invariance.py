"""The figures of notebook 06: what couplings are made of, how much of them is beyond growth, and by which law."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grsd.conditions import Verdict, invariance
from grsd.plotting.cells import cell_look
from grsd.plotting.ensembles import verdict_forest
from grsd.plotting.intervals import bar, rows, threshold
from grsd.plotting.parts import LOOKS
from grsd.plotting.style import COLOURS, WIDTH, decades, look

VERDICT_LOOK = {
    "growth only": "tab:green",
    "inconclusive": "lightgrey",
    "beyond growth": "tab:red",
    "non-trivial invariance": "tab:blue",
}
RATE = r"$\log_{10}\lambda t$"
DEFECT = "defect $D^2$, 95 % interval"


def planted(found: Mapping[str, Sequence[Verdict]]) -> Figure:
    """One row per planted system: the defect of each ensemble with its interval, and the condition's threshold."""
    figure, axes = plt.subplots(figsize=(7, 3.2))
    verdict_forest(axes, found, invariance.RULE)
    axes.axvline(0, color="grey", lw=0.8)
    runs = next(iter(found.values()))[0].runs
    axes.set_xlabel(f"{DEFECT}, {runs} planted runs each; dashed: {invariance.RULE.threshold:g}")
    return figure


def parts(table: xr.Dataset, here: Mapping[str, xr.Dataset]) -> Figure:
    """t u over the spectrum, one panel per cell, split into growth, crossing and rotation, and their sum.

    ``table`` from ``parts_table``; ``here``: by name, in the same units, networks that were trained just now.
    """
    several = {name: table.isel(cell=n) for n, name in enumerate(names_of(table))}
    several |= here
    figure, axes = plt.subplots(1, len(several), figsize=(WIDTH, 3.5), squeeze=False, sharex=True)
    for panel, (name, one) in zip(axes.flat, several.items(), strict=True):
        x = decades(one.position)
        for part, (colour, marker) in LOOKS.items():
            style = {"color": COLOURS[colour], "marker": marker, "markersize": 4, "lw": 1, "capsize": 2, "label": part}
            panel.errorbar(x, one[part], 2 * one[f"{part}_error"], **style)
        panel.plot(x, sum(one[part] for part in LOOKS), color="black", lw=2, label="sum: $t\\,u$")
        panel.axhline(0, color="black", lw=0.8)
        panel.set_title(name)
        panel.set_xlabel(RATE)
    axes[0, 0].set_ylabel("$t\\,u$ and its parts, two standard errors")
    axes[0, 0].legend(fontsize=8, loc="upper left")
    return figure


def beyond(table: xr.Dataset, surrogates: xr.Dataset) -> Figure:
    """One row per cell: D^2 by the first rule, of networks and of a surrogate; D_0^2; the surrogate's verdicts.

    ``table`` from ``cell_table``, ``surrogates`` from ``surrogate_table``.
    """
    labels = [str(name) for name in table.cell_name.values]
    figure, (old, new, verdicts) = plt.subplots(1, 3, figsize=(WIDTH, 1.8 + 0.35 * len(labels)), sharey=True)
    for row in range(len(labels)):
        one = table.isel(cell=row)
        style = look(str(one.architecture.values)) | {"linestyle": "none", "label": None}
        for panel, name, shift, more in (
            (old, "rule", -0.12, {}),
            (old, "rule_surrogate", 0.12, {"mfc": "white"}),
            (new, "share", 0, {}),
        ):
            values = [float(one[name + end]) for end in ("", "_low", "_high")]
            bar(panel, row + shift, *values, horizontal=True, **style | more)
    for panel in (old, new):
        threshold(panel, invariance.RULE, horizontal=True)
        _defect_scale(panel)
    old.set_xlabel("$D^2$ by the first rule, 95 %;\nhollow: a surrogate")
    new.set_xlabel("$D_0^2$, the part\nbeyond growth, 95 %")
    shares = surrogates.share.sel(enlarged=1).dropna("case", how="all")
    left = np.zeros(len(labels))
    for verdict, colour in VERDICT_LOOK.items():
        known = shares.sel(verdict=verdict).reindex(case=labels)  # a cell without surrogates has no bar
        wide = np.nan_to_num(known.values)
        verdicts.barh(range(len(labels)), wide, left=left, height=0.5, color=colour, label=verdict)
        left += wide
    verdicts.set(xlabel="verdicts on surrogates", xlim=(0, 1))
    verdicts.legend(fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    rows(old, labels)
    return figure


def names_of(table: xr.Dataset) -> list[str]:
    """The cells of ``parts_table`` or ``remainder_table``."""
    return [str(np.unique(table.of.isel(cell=n))[0]) for n in range(table.sizes["cell"])]


def remainder(table: xr.Dataset, wanted: Sequence[str]) -> Figure:
    """The couplings beyond growth over the spectrum, by separation, with the law: b free solid, b = 1 dotted.

    ``table`` from ``remainder_table``; ``wanted``: the cells that are shown.
    """
    figure, axes = plt.subplots(1, len(wanted), figsize=(WIDTH, 3.8), squeeze=False)
    names = names_of(table)
    for panel, name in zip(axes.flat, wanted, strict=True):
        cell = table.isel(cell=names.index(name))
        for step, separation in enumerate(np.unique(cell.separation.values[np.isfinite(cell.separation.values)])):
            one = cell.where(cell.separation == separation).dropna("pair", how="any", subset=["value"])
            style = cell_look(name.split()[1], step, 2) | {"linestyle": "none", "marker": "os"[step]}
            x = decades(one.position)
            panel.errorbar(x, one.value, 2 * one.error, capsize=2, label=f"a - b = {separation:g}", **style)
            panel.plot(x, one.free, color=style["color"], lw=1)
            panel.plot(x, one.strict, color=style["color"], lw=1, ls=":")
        panel.axhline(0, color="black", lw=0.8)
        panel.set(xlabel=f"middle of the pair, {RATE}", title=name)
        panel.legend(fontsize=8)
    axes[0, 0].set_ylabel("$t\\,(K - r z)$, two standard errors")
    return figure


def _defect_scale(axes: Axes) -> None:
    """Linear between -.1 and .1: an unbiased estimate of a share can be negative."""
    ticks = [-1, -0.1, 0, invariance.RULE.threshold, 0.1, 1]
    axes.axvline(0, color="grey", lw=0.8)
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_xlim(-3, 3)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
