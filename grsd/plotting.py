"""One style, one savefig, the figures used twice."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import ipywidgets
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from grsd.evidence import Claim, Result
from grsd.support.files import write_atomically
from grsd.support.folders import figures
from grsd.support.progress import headless
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
VERDICTS = {
    "holds": (COLOURS["green"], "o"),
    "fails": (COLOURS["red"], "X"),
    "inconclusive": ("#666666", "D"),
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
    axes.legend(loc="lower left", frameon=True, framealpha=0.85, edgecolor="none")
    axes.set(
        xlim=(time_edges[0], time_edges[-1]),
        ylim=decades(edges[[0, -1]]),
        xlabel=r"$\log_{10}$ time $t$",
        ylabel=r"shell, $\log_{10}\lambda$ [1/time]",
    )
    return mesh


def verdict_rows(judged: Mapping[str, tuple[Claim, Result]]) -> Figure:
    """One row a claim (``grsd.evidence.headlines``): the interval over seeds against the threshold of its rule.

    Every row has its own scale; what the rule allows is shaded green.
    """
    figure, rows = plt.subplots(len(judged), 1, figsize=(8.5, 0.55 * len(judged)), squeeze=False)
    for axes, (claim, result) in zip(rows.flat, judged.values(), strict=True):
        at, rule = claim.judged.threshold, claim.judged
        span = max(result.high, at) - min(result.low, at) or 1.0
        low, high = min(result.low, at) - 0.25 * span, max(result.high, at) + 0.25 * span
        allowed = {"at most": (low, at), "at least": (at, high), "contains": (result.low, result.high)}[rule.direction]
        axes.axvspan(*allowed, color=COLOURS["green"], alpha=0.18, lw=0)
        axes.axvline(at, color="black", ls="--", lw=1)
        ends = [[result.estimate - result.low], [result.high - result.estimate]]
        colour, marker = VERDICTS[result.verdict]
        axes.errorbar(result.estimate, 0, xerr=ends, fmt=marker, color=colour, capsize=3, markersize=6)
        axes.set(xlim=(low, high), ylim=(-1, 1), yticks=[])
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(labelsize=7, pad=1)
        axes.spines["left"].set_visible(False)
        axes.text(-0.02, 0.5, claim.headline, transform=axes.transAxes, ha="right", va="center")
        axes.text(1.02, 0.5, result.verdict, transform=axes.transAxes, ha="left", va="center", color=colour)
    return figure


def explore(draw: Callable[..., object], **controls: object) -> object:
    """Sliders for the arguments of ``draw``, as ``ipywidgets.interact`` makes them.

    A control is a list of choices or a (low, high, step) range of numbers. Headless there is one drawing, with the
    first of each choice and the middle of each range.
    """
    if headless():
        return draw(**{name: _first(control) for name, control in controls.items()})
    ipywidgets.interact(draw, **controls)
    return None


def _first(control: object) -> object:
    if isinstance(control, tuple):
        low, high, step = control
        return low + step * round((high - low) / step / 2)
    return next(iter(control))
