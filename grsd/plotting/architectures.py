"""The figures of notebook 12: what skips do to the growth share, to velocities, and to what a clock foretells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t as student

from grsd.plotting.intervals import bar, rows
from grsd.plotting.style import COLOURS

LOOKS = {
    1: {"color": COLOURS["blue"], "marker": "o", "linestyle": "none"},
    0: {"color": COLOURS["red"], "marker": "s", "linestyle": "none"},
}
LABELS = {1: "with skips", 0: "without"}
WAYS = {"flow": "gradient flow, squared error", "adam": "Adam, cross-entropy"}
Live = Mapping[tuple[str, int], Sequence[float]]


def skips(runs: xr.Dataset, cells: xr.Dataset, live: Live) -> Figure:
    """The growth share of every run, by cell and way of training, and of the networks trained here.

    ``runs``: the table of runs; ``cells``: that of cells, whose ``tilted_share`` is drawn grey; ``live``: growth shares
    by (way, skips).
    """
    names = _names(runs)
    figure, axes = plt.subplots(1, len(WAYS), figsize=(11, 1.6 + 0.6 * len(names)), sharey=True)
    for panel, (way, title) in zip(axes, WAYS.items(), strict=True):
        for own in LOOKS:
            kept = runs.isel(cell=np.flatnonzero(runs.skips.values == own))
            for row, values in enumerate(kept[way].values):
                _row(panel, row + (0.14 if own == 0 else -0.14), values, own, named=row == 0)
            values = np.asarray(live[way, own], dtype=float)
            style = LOOKS[own] | {"mfc": "none", "color": LOOKS[own]["color"]}
            panel.plot(values, np.full(len(values), len(names) + (0.14 if own == 0 else -0.14)), **style)
        panel.set(title=title, xlabel="growth share of the squared flux", xlim=(-0.03, 1.03))
        panel.axvline(1, color="grey", lw=0.6)
    place = cells.isel(cell=np.flatnonzero(cells.skips.values == 1))
    at = [names.index(name) for name in _names(place)]
    grey = {"color": "grey", "marker": "|", "linestyle": "none", "ms": 14, "mew": 2}
    axes[0].plot(place.tilted_share, at, **grey, label="fluxes that are no growth")
    rows(axes[0], [*names, "trained here"])
    axes[0].legend(fontsize=8, loc="lower left")
    return figure


def velocities(profiles: xr.Dataset) -> Figure:
    """The velocity of the shells' energy times t below the frontier; flat is one clock."""
    names = _names(profiles)
    figure, axes = plt.subplots(1, len(names), figsize=(2.8 * len(names) + 0.6, 3.4), squeeze=False)
    for number in profiles.cell.values:
        one = profiles.sel(cell=number)
        panel, own = axes[0, names.index(_name(one))], int(one.skips)
        whole = one.growth + one.crossing + one.rotation
        kept = np.isfinite(whole.values)
        x = one.position.values[kept] / np.log(10)
        panel.plot(x, whole.values[kept], **LOOKS[own] | {"linestyle": "-", "label": LABELS[own]})
        clock = float(one.growth.values[kept].mean())
        panel.plot(x[[0, -1]], [clock, clock], color=LOOKS[own]["color"], ls=":", lw=1)
        panel.axhline(0, color="grey", lw=0.6)
        panel.set(title=_name(one), xlabel=r"$\log_{10}\lambda t$")
    axes[0, 0].set_ylabel(r"$t\,u$, at $e^{-1}$ of the first loss")
    axes[0, 0].legend(fontsize=8)
    return figure


def clocks(cells: xr.Dataset) -> Figure:
    """The clock t r of each cell, and the errors of two forecasts of the rest of the loss."""
    names = _names(cells)
    figure, axes = plt.subplots(1, 2, figsize=(11, 1.5 + 0.6 * len(names)), sharey=True)
    for number in cells.cell.values:
        one = cells.sel(cell=number)
        own = int(one.skips)
        at = names.index(_name(one)) + (0.14 if own == 0 else -0.14)
        style = LOOKS[own] | {"label": LABELS[own] if names.index(_name(one)) == 0 else None}
        _interval(axes[0], at, one, "clock", **style)
        _interval(axes[1], at, one, "forecast_growth", **style)
        _interval(axes[1], at, one, "forecast_lazy", **style | {"mfc": "white", "label": None})
    axes[0].axvline(0, color="black", lw=0.8, ls="--")
    rows(axes[0], names)
    axes[0].set(xlabel=r"$t\,r$: the power of time with which the kernel grows")
    axes[1].set(xlabel="mean |log(forecast / loss)|; filled: clock, hollow: lazy", xlim=(0, None))
    axes[0].legend(fontsize=8)
    return figure


def _row(panel: Axes, place: float, values: np.ndarray, own: int, *, named: bool) -> None:
    """Draw the runs of a cell faintly, and their mean with Student's 95 % interval."""
    kept = values[np.isfinite(values)]
    if not len(kept):
        return
    panel.plot(kept, np.full(len(kept), place), **LOOKS[own] | {"alpha": 0.25, "ms": 3})
    half = float(student.ppf(0.975, len(kept) - 1)) * kept.std(ddof=1) / np.sqrt(len(kept))
    style = LOOKS[own] | {"mec": "black", "ms": 7, "label": LABELS[own] if named else None}
    bar(panel, place, kept.mean(), kept.mean() - half, kept.mean() + half, horizontal=True, **style)


def _interval(panel: Axes, place: float, one: xr.Dataset, name: str, **style: object) -> None:
    value, half = float(one[name]), float(student.ppf(0.975, int(one.seeds) - 1)) * float(one[f"{name}_error"])
    bar(panel, place, value, value - half, value + half, horizontal=True, **style)


def _name(one: xr.Dataset) -> str:
    return f"{one.family.item()}, {one.data.item()}"


def _names(table: xr.Dataset) -> list[str]:
    pairs = zip(table.family.values, table.data.values, strict=True)
    return list(dict.fromkeys(f"{family}, {data}" for family, data in pairs))
