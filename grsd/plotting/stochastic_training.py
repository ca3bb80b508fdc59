"""The figures of notebook 11: one step by shell and by optimizer, its noise, what moves energy in several trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grsd.evidence import DecisionRule, Result
from grsd.plotting.cells import ordered
from grsd.plotting.intervals import bar, rows, threshold
from grsd.plotting.style import COLOURS, LAMBDA, MARKERS, WIDTH, decades, look
from grsd.studies.stochastic_steps import over_partitions

PARTS = {
    "overshoot": ("black", "s"),
    "heating": ("red", "o"),
    "windows_noise": ("blue", "^"),
    "curvature_noise": ("green", "v"),
}
LAZINESS = {
    "frozen": ("the force on a kernel that stands still", "sky"),
    "growth": ("a kernel that grows as a whole", "green"),
    "rest": ("crossing and rotation", "purple"),
}


SIZES = {
    "drift": ("the step without noise", "black"),
    "fluctuation": ("linear in the noise", "blue"),
    "heating": ("heating", "red"),
    "rest": ("the rest", "purple"),
}


def step(orders: Mapping[float, xr.Dataset], heated: xr.Dataset, grid: xr.Dataset) -> Figure:
    """The rest over the rate of the step; the mean heating beside its expectation, by shell and over a grid.

    ``orders``: steps by rate; ``heated``: many draws, with ``expected``; both from ``drawn_steps``. ``grid``: from
    ``step_grid``.
    """
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 3.8))
    _orders(axes[0], orders)
    kept = heated.where(heated["mask"] == 0, drop=True)
    mean, error = over_partitions(kept.heating)
    label = f"mean of {kept.sizes['draw']} minibatches"
    bar(axes[1], decades(kept.shell), mean, mean - 2 * error, mean + 2 * error, color=COLOURS["red"], label=label)
    axes[1].plot(decades(kept.shell), kept.expected, color="black", lw=1, label="expectation, from the kernel")
    axes[1].set(yscale="log", xlabel=f"shell, {LAMBDA}", ylabel="heating [energy]")
    _expectations(axes[2], grid)
    for panel in axes:
        panel.legend(fontsize=8)
    return figure


def parts(grid: xr.Dataset) -> Figure:
    """The parts of one step over the learning rate: panels by optimizer, colours by part, markers by minibatch size."""
    figure, row = plt.subplots(1, grid.sizes["optimizer"], figsize=(WIDTH, 3.8), sharey=True)
    for axes, optimizer in zip(row, grid.optimizer.values, strict=True):
        for part, (label, colour) in SIZES.items():
            for batch, marker in zip(grid.batch.values, MARKERS, strict=False):
                cell = grid.sel(optimizer=optimizer, batch=batch)
                size, error = cell[part], cell[f"{part}_error"]
                style = {"color": COLOURS[colour], "marker": marker, "ls": "-", "lw": 0.8}
                named = label if axes is row[0] and marker == MARKERS[0] else None
                bar(axes, cell.factor, size, size - 2 * error, size + 2 * error, **style, label=named)
        axes.set(xscale="log", yscale="log", xlabel="learning rate over the usual one", title=optimizer)
        axes.set_xticks(grid.factor.values, [f"{factor:g}" for factor in grid.factor.values])
        axes.minorticks_off()
    for batch, marker in zip(grid.batch.values, MARKERS, strict=False):
        row[1].plot([], [], marker=marker, ls="none", color="grey", label=f"batch {batch}")
    row[0].set_ylabel("size of the part over the energy")
    for axes in row[:2]:
        axes.legend(fontsize=8)
    return figure


def _orders(axes: Axes, orders: Mapping[float, xr.Dataset]) -> None:
    rates = np.array(sorted(orders))
    for name, power, (colour, marker) in (("rest", 2, ("blue", "o")), ("higher", 3, ("red", "s"))):
        sizes = np.array([float(np.abs(orders[rate][name]).sum()) for rate in rates])
        label = {"rest": "the rest", "higher": "its part of third order"}[name]
        axes.loglog(rates, sizes, marker=marker, ls="none", color=COLOURS[colour], label=label)
        line = sizes[0] * (rates / rates[0]) ** power
        axes.loglog(rates, line, color=COLOURS[colour], lw=0.8, label=rf"$\eta^{power}$ from the first")
    axes.set(xlabel=r"$\eta\,\lambda_{max}(0)$", ylabel="sum over shells and draws, without sign")
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.minorticks_off()


def _expectations(axes: Axes, grid: xr.Dataset) -> None:
    """Mean heating over its expectation, one point per cell: colours by optimizer, markers by minibatch size."""
    known = grid.expected.notnull().any(("batch", "factor")).values
    for optimizer, colour in zip(grid.optimizer.values[known], ("blue", "green", "purple"), strict=False):
        for batch, marker in zip(grid.batch.values, MARKERS, strict=False):
            cell = grid.sel(optimizer=optimizer, batch=batch)
            ratio, error = cell.heating / cell.expected, cell.heating_error / cell.expected
            style = {"color": COLOURS[colour], "marker": marker, "label": f"{optimizer}, batch {batch}"}
            bar(axes, cell.expected, ratio, ratio - 2 * error, ratio + 2 * error, **style)
    axes.axhline(1, color="black", lw=1)
    far = float((np.abs(grid.heating / grid.expected - 1) + 2 * grid.heating_error / grid.expected).max())
    axes.set_ylim(1 - 1.1 * far, 1 + 3 * far)  # room for the legend
    axes.set(xscale="log", xlabel="expected heating over the energy", ylabel="mean heating over its expectation")


def noise(found: Mapping[str, xr.Dataset], edges: Mapping[str, xr.Dataset]) -> Figure:
    """What noise does to the shells, means over minibatches with two standard errors, by network; edge of stability.

    ``found``: steps of several networks, by name; ``edges``: steps of the full batch at several rates, by label.
    """
    figure, axes = plt.subplots(1, len(found) + 1, figsize=(WIDTH, 4.0))
    for panel, (name, budget) in zip(axes, found.items(), strict=False):
        kept = budget.where(budget["mask"] == 0, drop=True)
        for part, (colour, marker) in PARTS.items():
            mean, error = over_partitions(kept[part] / kept.energy_before)
            style = {"marker": marker, "color": COLOURS[colour], "label": part.replace("_", ", ")}
            if part in ("overshoot", "heating"):  # the others change their sign
                style |= {"ls": "-", "lw": 0.8}
            bar(panel, decades(kept.shell), mean, mean - 2 * error, mean + 2 * error, **style)
        panel.set_yscale("symlog", linthresh=1e-4)
        panel.axhline(0, color="grey", lw=0.6)
        panel.set(title=name, xlabel=f"shell, {LAMBDA}")
    axes[0].set_ylabel("change per step over the shell's energy")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside lower left", ncols=len(PARTS))
    for (label, budget), colour in zip(edges.items(), COLOURS.values(), strict=False):
        kept = budget.isel(draw=0).where(budget["mask"] == 0, drop=True)
        ratio = -kept.overshoot / kept.descent
        axes[-1].semilogy(decades(kept.shell), ratio, "o-", lw=1, color=colour, label=label)
    axes[-1].axhline(1, color="black", ls="--", lw=1)
    axes[-1].set(xlabel=f"shell, {LAMBDA}", ylabel="overshoot over descent")
    axes[-1].set_title("stable below the dashed line", fontsize=10)
    axes[-1].legend(fontsize=8)
    return figure


def moved(
    shares: Mapping[tuple[str, str], Sequence[float]],
    judged: Mapping[tuple[str, str], Result],
    rule: DecisionRule,
    lazy: Mapping[tuple[str, str], xr.DataArray],
    levels: Sequence[float],
) -> Figure:
    """The growth share late in training, by architecture and way; growth and the rest over the course of training.

    ``shares``: this run's seeds by (architecture, way); ``judged``: confirmed results by the same; ``lazy``:
    ``(step, part)``, laziness, mean over seeds, by the same; ``levels``: logs of the loss over its start at the end of
    each step.
    """
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 4.2))
    ways = list(dict.fromkeys(way for _, way in shares))
    names = ordered(name for name, _ in shares)
    for number, name in enumerate(names):
        shift = 0.24 * (number - (len(names) - 1) / 2)
        drawn = look(name) | {"linestyle": "none"}
        for row, way in enumerate(ways):
            values = shares[name, way]
            style = drawn | {"mfc": "none", "label": f"{name}, this run" if row == 0 else None}
            axes[0].plot(values, np.full(len(values), row + shift), **style)
            if (name, way) in judged:
                result = judged[name, way]
                ends = (result.estimate, result.low, result.high)
                style = drawn | {"label": f"{name}, confirmed" if row == 0 else None, "ms": 7, "mec": "black"}
                bar(axes[0], row + shift + 0.08, *ends, horizontal=True, **style)
    rows(axes[0], ways)
    threshold(axes[0], rule, horizontal=True)
    axes[0].set(xlabel="growth share of the squared flux, late", xlim=(-0.03, 1.03))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside lower left", ncols=4)
    for panel, part in zip(axes[1:], ("growth", "rest"), strict=True):
        _over_training(panel, lazy, part, ways, np.asarray(levels))
    axes[1].set_ylabel("share of the energies' change")
    limits = [panel.get_ylim() for panel in axes[1:]]
    for panel in axes[1:]:
        panel.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    axes[2].legend(fontsize=8, ncols=2)
    return figure


def _over_training(
    axes: Axes, lazy: Mapping[tuple[str, str], xr.DataArray], part: str, ways: Sequence[str], levels: np.ndarray
) -> None:
    """Draw one part's share from level to level, at the middle of each step: a marker per way of training."""
    middle = (np.concatenate([[0.0], levels[:-1]]) + levels) / 2
    for (name, way), found in lazy.items():
        marker = MARKERS[ways.index(way)]
        label = way if name == next(iter(lazy))[0] else None
        style = look(name) | {"marker": marker, "ms": 5, "lw": 1, "label": None}
        axes.plot(middle, found.sel(part=part), **style)
        if label:
            axes.plot([], [], marker=marker, ls="none", color="grey", label=label)
    axes.axhline(0, color="black", lw=0.6)
    axes.set(xlabel="log(loss / loss at 0)", title=LAZINESS[part][0])
    axes.invert_xaxis()
