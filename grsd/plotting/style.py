"""One look for all figures, and how they are written."""

from __future__ import annotations

import io
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from grsd.networks import architecture
from grsd.support.files import write_atomically
from grsd.support.folders import figures
from grsd.support.session import begin

# Okabe and Ito's palette: distinct under every common colour blindness; markers are used besides colour.
COLOURS = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "red": "#D55E00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "black": "#000000",
}
MARKERS = "os^vDPX"
ARCHITECTURES = {"residual": ("blue", "o", "-"), "plain": ("red", "s", "--")}
FURTHER = [name for name in COLOURS if name not in {"blue", "red"}]
WIDTH = 10.0  # inches of a wide figure: in a column of 740 pixels its smallest letters, of 8 points, stay readable
LAMBDA = r"$\log_{10}\lambda$ [1/time]"  # the axis of shells, boundaries and eigenvalues
METADATA = {"svg": {"Date": None}, "png": {"Software": None}}
STYLE = {
    "axes.prop_cycle": mpl.cycler(color=list(COLOURS.values())),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "font.size": 10,
    "image.cmap": "viridis",
    "legend.frameon": False,
    "lines.markersize": 4,
    "svg.hashsalt": "grsd",
}


def use_style() -> None:
    """The companion's look for the rest of this session; a notebook also begins here (``support.session``)."""
    begin()
    mpl.rcParams.update(STYLE)


def look(name: str) -> dict[str, str]:
    """How an architecture is drawn everywhere, as keywords of ``Axes.plot``: color, marker, linestyle and label.

    An architecture that is not ``residual`` or ``plain`` takes the next colour and marker in the registry's order.
    """
    others = [other for other in architecture.names() if other not in ARCHITECTURES]
    place = others.index(name) if name in others else len(others)
    further = FURTHER[place % len(FURTHER)], MARKERS[(place + 2) % len(MARKERS)], "-."
    colour, marker, line = ARCHITECTURES.get(name, further)
    return {"color": COLOURS[colour], "marker": marker, "linestyle": line, "label": name}


def savefig(figure: Figure, name: str) -> list[Path]:
    """Write ``name``.svg and ``name``.png, the same bytes whenever the figure is the same, and return their paths.

    ``name`` starts with its notebook's: "01_shell_dynamics-energy". Where to: ``grsd.support.folders.figures``.
    """
    if not re.fullmatch(r"\d\d_[a-z0-9_]+-[a-z0-9-]+", name):
        raise ValueError(f"savefig(name=...): expected NOTEBOOK-WHAT such as '01_shell_dynamics-energy', got {name!r}")
    _settle(figure)
    payloads = {suffix: _drawn(figure, suffix) for suffix in METADATA}
    return [write_atomically(figures() / f"{name}.{suffix}", payload) for suffix, payload in payloads.items()]


def svg_of(figure: Figure) -> bytes:
    """Return the figure as SVG, the same bytes whenever it is the same."""
    _settle(figure)
    return _drawn(figure, "svg")


def _drawn(figure: Figure, suffix: str) -> bytes:
    drawn = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": STYLE["svg.hashsalt"]}):
        figure.savefig(drawn, format=suffix, metadata=METADATA[suffix], dpi=150)
    return drawn.getvalue()


def _settle(figure: Figure) -> None:
    """Lay the figure out once and round where its axes are.

    The solver behind the constrained layout moves axes by a rounding error from run to run, and clip paths are named
    after a hash of those positions.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position(np.round(axes.get_position(original=True).bounds, 6))


def plain_log(axis: Axis) -> None:
    """Write the ticks of a logarithmic axis as plain numbers: 0.2 instead of a power of ten, at 1, 2 and 5."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def decades(s: float | np.ndarray | xr.DataArray) -> float | np.ndarray:
    """log10 of an eigenvalue from its natural logarithm: what the axes show."""
    return np.asarray(s) / np.log(10)
