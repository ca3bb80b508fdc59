"""The curves that plots of condition 3 show: geometric means over shells or times, with the spread over seeds."""

from __future__ import annotations

import numpy as np
import xarray as xr

from grsd.support.arguments import dataset, finite
from grsd.support.values import choice, said

BIN = 1.5


def profile(measured: xr.Dataset, of: str, rate: str = "rho") -> xr.Dataset:
    """Return the geometric mean of t rho (or t omega) as a function of ``of``, "time" or "shell", for each depth.

    Args: ``measured`` from ``evolution.gather``. Times are grouped by their value to two digits, shells in bins 1.5
    wide in log eigenvalue.
    Returns: ``centre(depth, of)`` and ``factor(depth, of)`` = e^(standard error over seeds of the logarithm), so that
    one standard error reaches from centre / factor to centre * factor. NaN if fewer than two seeds have a value.
    """
    needed = dict.fromkeys(("t_rho", "t_omega", "time", "shell", "depth", "seed"), ("point",))
    dataset("profile", "measured", measured, needed, "it with evolution.gather(ensemble)")
    if not isinstance(of, str) or of not in ("time", "shell"):
        raise ValueError(f'profile(of=...): expected "time" or "shell", got {said(of)}')
    choice("profile", "rate", rate, ("rho", "omega"))
    for name in needed:
        finite("profile", "measured", measured, name)
    if not (measured[f"t_{rate}"].values > 0).all():
        raise ValueError("profile(measured): expected rates above 0")
    place = measured[of].values
    if of == "time":
        place = np.array([float(f"{value:.2g}") for value in place])
    else:
        place = (np.floor(place / BIN) + 0.5) * BIN
    places, depths = np.unique(place), np.unique(measured.depth.values)
    logs = np.log(measured[f"t_{rate}"].values)
    seeds = np.unique(measured.seed.values)
    means = np.full((len(seeds), len(depths), len(places)), np.nan)
    for at in np.ndindex(means.shape):
        here = (measured.seed.values == seeds[at[0]]) & (measured.depth.values == depths[at[1]])
        here &= place == places[at[2]]
        if here.any():
            means[at] = logs[here].mean()
    count = np.isfinite(means).sum(0)
    enough = count >= 2
    filled = np.where(np.isfinite(means), means, 0)
    centre = filled.sum(0) / np.maximum(count, 1)
    square = (np.where(np.isfinite(means), means - centre, 0) ** 2).sum(0)
    error = np.sqrt(square / np.maximum(count - 1, 1) / np.maximum(count, 1))
    dims = ("depth", of)
    data = {"centre": np.exp(centre), "factor": np.exp(error)}
    return xr.Dataset(
        {name: (dims, np.where(enough, array, np.nan)) for name, array in data.items()},
        {"depth": depths, of: places},
        {"rate": rate, "seeds": len(seeds)},
    )
