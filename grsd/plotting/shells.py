"""Shells over time."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from grsd.plotting.style import COLOURS, LAMBDA, decades


def energy_map(
    axes: Axes, history: xr.Dataset, *, floor: float = 1e-9, largest: float | None = None
) -> mpl.collections.QuadMesh:
    """Shell energies over log time as an image, with the frontier lambda t = 1; returns the mesh for a colour bar.

    Shells that are masked, or under ``floor`` times ``largest`` (the largest shell energy), are left white.
    """
    history = history.isel(time=history.time.values > 0)
    energy = history.energy.where(history.mask == 0)
    if history.sizes["time"] < 2 or not energy.notnull().any():
        raise ValueError("energy_map(history=...): expected at least 2 times after 0 and a shell that is not masked")
    largest = float(energy.max()) if largest is None else largest
    energy = energy.where(energy > floor * largest)
    kept = energy.notnull().any("time").values
    index = np.flatnonzero(kept)
    energy = energy.isel(shell=slice(index[0], index[-1] + 1))
    width = history.attrs["shell_width"]
    edges = np.append(energy.shell.values - width / 2, energy.shell.values[-1] + width / 2)
    times = np.log10(history.time.values)
    half = np.diff(times) / 2
    time_edges = np.concatenate([[times[0] - half[0]], times[:-1] + half, [times[-1] + half[-1]]])
    norm = LogNorm(floor * largest, largest)
    mesh = axes.pcolormesh(time_edges, decades(edges), energy.T.values, norm=norm, rasterized=True)
    axes.plot(times, -times, color="white", lw=3)
    axes.plot(times, -times, color=COLOURS["red"], lw=1.5, ls="--", label=r"frontier $\lambda t = 1$")
    axes.legend(loc="upper right", frameon=True, framealpha=0.85, edgecolor="none")
    axes.set(
        xlim=(time_edges[0], time_edges[-1]),
        ylim=decades(edges[[0, -1]]),
        xlabel=r"$\log_{10}$ time $t$",
        ylabel=f"shell, {LAMBDA}",
    )
    return mesh
