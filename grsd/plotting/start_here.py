"""Notebook 00: networks of every architecture learn, and the energy of their shells dies."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from grsd.plotting.shells import energy_map
from grsd.plotting.style import WIDTH, look


def tour(
    times: Mapping[str, np.ndarray],
    losses: Mapping[str, np.ndarray],
    lazy: Mapping[str, np.ndarray],
    histories: Mapping[str, xr.Dataset],
) -> Figure:
    """Draw learning curves beside those of frozen kernels, and one map of shell energies per architecture.

    ``times``: (T,), in units of 1 / lambda_max(0). ``losses`` and ``lazy``: (seeds, T); shown are the median and, for
    the losses, the band from the smallest to the largest.
    """
    count = len(histories)
    wide = WIDTH * (4 + 3.5 * count) / 11  # as wide as every figure if two networks are compared
    figure, (curves, *maps) = plt.subplots(1, 1 + count, figsize=(wide, 3.6), width_ratios=[1.05] + [1] * count)
    for name, loss in losses.items():
        how = look(name)
        curves.fill_between(times[name], loss.min(0), loss.max(0), color=how["color"], alpha=0.25, lw=0)
        curves.plot(times[name], np.median(loss, 0), markevery=3, **how)
        curves.plot(times[name], np.median(lazy[name], 0), color=how["color"], ls=":", label=f"{name}, if lazy")
    curves.set(xscale="log", yscale="log", title="learning curves")
    curves.set(xlabel=r"time $t\,\lambda_{\max}(0)$", ylabel=r"loss $|e|^2/2N$")
    curves.legend(fontsize=8)
    largest = max(float(history.energy.max()) for history in histories.values())
    for axes, (name, history) in zip(maps, histories.items(), strict=True):
        mesh = energy_map(axes, history, largest=largest)
        axes.get_legend().remove()  # there is no room for it
        axes.set(title=f"{name}: energy of the shells", xlabel=r"$\log_{10}$ time $t$; dashed: $\lambda t = 1$")
    spans = np.array([[axes.get_xlim(), axes.get_ylim()] for axes in maps])
    for axes in maps:
        axes.set(xlim=(spans[:, 0, 0].min(), spans[:, 0, 1].max()), ylim=(spans[:, 1, 0].min(), spans[:, 1, 1].max()))
    figure.colorbar(mesh, ax=maps, label=r"shell energy $E_a$")
    return figure
