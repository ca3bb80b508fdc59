"""Gradient propagation of one network at several depths: its first nodes are those of a shorter network."""

from __future__ import annotations

import numpy as np
import xarray as xr

CUTS = 3  # depths that a slope on log depth needs


def cuts(found: xr.Dataset) -> list[xr.Dataset]:
    """Return what ``propagation.measure`` would give of the network cut after 2, 3, ... of its nodes.

    All that a network makes of its inputs passes through each node, so the gains between its first k nodes do not know
    what follows. The attribute ``depth`` is k.
    """
    return [_cut(found, depth) for depth in range(2, found.sizes["m"] + 1)]


def _cut(found: xr.Dataset, depth: int) -> xr.Dataset:
    upper = np.triu_indices(depth, 1)
    distance = upper[1] - upper[0]
    with np.errstate(divide="ignore"):
        half = np.log(found.gain.values[upper]) / 2
        norm = np.log(found["norm"].values[upper])
    scalars = {
        "growth": max(half.max(), 0.0),
        "decay": max(-half.min(), 0.0),
        "worst": np.abs(half).max(),
        "norm_growth": max(norm.max(), 0.0),
        "lyapunov": (half * distance).sum() / np.square(distance).sum(),
    }
    return xr.Dataset(
        {name: ((), float(value)) for name, value in scalars.items()}, attrs=found.attrs | {"depth": depth}
    )
