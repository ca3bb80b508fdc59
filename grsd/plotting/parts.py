"""What a flux or a velocity is made of: growth of the whole kernel, crossing and rotation, in the same colours."""

from __future__ import annotations

import xarray as xr
from matplotlib.axes import Axes

from grsd.plotting.style import COLOURS, decades
from grsd.shells.parts import PARTS

LOOKS = dict(zip(PARTS, (("green", "^"), ("orange", "D"), ("purple", "v")), strict=True))


def draw_parts(axes: Axes, parts: xr.DataArray, share: xr.DataArray | None = None) -> None:
    """Draw the parts of a flux or a velocity over the boundaries, as lines whose sum is the whole.

    ``parts(part, boundary)``: from ``grsd.shells.transport_parts`` or ``parts_over_runs``. ``share(part)``: shares of
    the squared flux, which the legend then names.
    """
    for part, (colour, marker) in LOOKS.items():
        label = part if share is None else f"{part}, {float(share.sel(part=part)):.0%} of $F^2$"
        values = parts.sel(part=part)
        options = {"ls": "-", "lw": 1, "ms": 4, "mfc": "none", "color": COLOURS[colour]}
        axes.plot(decades(values.boundary), values, marker=marker, label=label, **options)
