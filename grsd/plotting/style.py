"""One look for all figures, and how they are written."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

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


class Look(NamedTuple):
    """How one architecture is drawn in every figure."""

    colour: str
    marker: str
    line: str
    label: str


DRAWN = {"residual": ("blue", "o", "-"), "plain": ("red", "s", "--")}
FURTHER = (("green", "^", "-."), ("purple", "D", ":"), ("orange", "v", "-"), ("sky", "P", "--"), ("black", "X", "-."))


def look(name: str) -> Look:
    """Colour, marker, line and label of a registered architecture; those without a look of their own share the rest.

    Errors: ``ValueError`` for a name that is not registered.
    """
    others = [other for other in architecture.names() if other not in DRAWN]
    drawn = DRAWN.get(architecture[name].name) or FURTHER[others.index(name) % len(FURTHER)]
    return Look(COLOURS[drawn[0]], drawn[1], drawn[2], name)


def ordered(names: Iterable[str]) -> list[str]:
    """Architectures, each once, in the order of their registration: tables on disk sort them by the alphabet."""
    found = {str(name) for name in names}
    return [name for name in architecture.names() if name in found]


def shade(colour: str, step: int, steps: int) -> tuple[float, float, float]:
    """A colour mixed with white: the last of ``steps`` is the colour itself; for one architecture at several depths."""
    weight = 0.35 + 0.65 * (step + 1) / steps
    red, green, blue = mpl.colors.to_rgb(colour)
    return tuple(1 - weight * (1 - part) for part in (red, green, blue))


def use_style() -> None:
    """The companion's look for the rest of this session; a notebook also begins here (``support.session``)."""
    begin()
    mpl.rcParams.update(STYLE)


def savefig(figure: Figure, name: str) -> list[Path]:
    """Write ``name``.svg and ``name``.png, the same bytes whenever the figure is the same, and return their paths.

    ``name`` starts with its notebook's: "01_shell_dynamics-energy". Where to: ``grsd.support.folders.figures``.
    """
    if not re.fullmatch(r"\d\d_[a-z0-9_]+-[a-z0-9-]+", name):
        raise ValueError(f"savefig(name=...): expected NOTEBOOK-WHAT such as '01_shell_dynamics-energy', got {name!r}")
    _settle(figure)
    payloads = {}
    with mpl.rc_context({"svg.hashsalt": STYLE["svg.hashsalt"]}):
        for suffix, metadata in {"svg": {"Date": None}, "png": {"Software": None}}.items():
            drawn = io.BytesIO()
            figure.savefig(drawn, format=suffix, metadata=metadata, dpi=150)
            payloads[suffix] = drawn.getvalue()
    return [write_atomically(figures() / f"{name}.{suffix}", payload) for suffix, payload in payloads.items()]


def _settle(figure: Figure) -> None:
    """Lay the figure out once and round where its axes are.

    The solver behind the constrained layout moves axes by a rounding error from run to run, and clip paths are named
    after a hash of those positions.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position(np.round(axes.get_position(original=True).bounds, 6))


def decades(s: np.ndarray | xr.DataArray) -> np.ndarray:
    """log10 of an eigenvalue from its natural logarithm: what the axes show."""
    return np.asarray(s) / np.log(10)
