"""Notebook 01: the energy of the shells of one network, its budget, and the velocity of several."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grsd.evidence import DecisionRule
from grsd.plotting.intervals import bar, threshold
from grsd.plotting.parts import draw_parts
from grsd.plotting.shells import energy_map
from grsd.plotting.style import COLOURS, LAMBDA, WIDTH, decades
from grsd.shells import parts_over_runs, transport_parts, velocity_over_runs

SHELL = f"shell, {LAMBDA}"
FRONTIER = {"color": "grey", "ls": "--", "lw": 1, "label": r"$\lambda t = 1$"}


def learning(history: xr.Dataset, title: str) -> Figure:
    """Draw the loss with the integrator's error band above the energies of the shells."""
    figure, (curve, image) = plt.subplots(2, 1, figsize=(7, 6), sharex=True, height_ratios=[1, 2])
    time, loss, error = np.log10(history.time), history.loss.values, 2 * history.error_estimate.values
    curve.fill_between(time, loss * (1 - error), loss * (1 + error), alpha=0.3, lw=0)
    curve.plot(time, loss, "o-", label="loss; band: integrator's error estimate")
    curve.set(yscale="log", ylabel=r"loss $|e|^2/2N$", title=title)
    curve.legend()
    figure.colorbar(energy_map(image, history), ax=image, label=r"shell energy $E_a$")
    return figure


def budget(history: xr.Dataset, index: int, top: float) -> Figure:
    """Draw what the shells dissipate and exchange at one time, who feeds whom, and what the flux is made of.

    ``index``: of the time. ``top``: lambda_max(0), in units of whose inverse the title gives the time.
    """
    figure, (rates, matrix, flux) = plt.subplots(1, 3, figsize=(WIDTH, 3.9))
    now = history.isel(time=index)
    _rates(rates, now)
    rates.set_title(rf"budget at $t\,\lambda_{{\max}}(0) = {float(now.time) * top:.3g}$", fontsize=10)
    figure.colorbar(_coupling(matrix, now), ax=matrix, location="bottom", shrink=0.9)
    _flux(flux, now)
    return figure


def _flux(axes: Axes, now: xr.Dataset) -> None:
    """Draw the flux upward through every boundary, and its parts."""
    inner, total = now.boundary_mask.values == 0, float(now.dissipation.sum())
    parts = transport_parts(now)
    axes.plot(decades(now.boundary)[inner], now.flux[inner] / total, "ko-", ms=4, label="flux")
    draw_parts(axes, parts.flux[:, inner] / total, parts.share)
    axes.axhline(0, color="black", lw=0.8)
    axes.axvline(-np.log10(float(now.time)), **FRONTIER)
    axes.set(xlabel=f"boundary, {LAMBDA}", ylabel=r"flux $F$ / $\langle e, M e\rangle$")
    axes.set_title("flux upward and its parts", fontsize=10)
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.6 * (high - low), high)  # room for the legend
    axes.legend(fontsize=8, loc="lower left")


def _rates(axes: Axes, now: xr.Dataset) -> None:
    kept = now.mask.values == 0
    total, s = float(now.dissipation.sum()), decades(now.shell)[kept]
    thick = 0.42 * decades(now.attrs["shell_width"])
    gain = now.coupling.sum("shell_from").values[kept] / total
    lost = -now.dissipation.values[kept] / total
    axes.bar(s - thick / 2, lost, thick, color=COLOURS["red"], label=r"dissipated, $-D_a$")
    axes.bar(s + thick / 2, gain, thick, color=COLOURS["blue"], hatch="//", label=r"exchanged, $\sum_b T_{ab}$")
    axes.axhline(0, color="black", lw=0.8)
    axes.axvline(-np.log10(float(now.time)), **FRONTIER)
    axes.set(xlabel=SHELL, ylabel=r"rate / $\langle e, M e\rangle$")
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.35 * (high - low), high)  # room for the legend
    axes.legend(loc="lower left", fontsize=8)


def _coupling(axes: Axes, now: xr.Dataset) -> object:
    kept = np.flatnonzero(now.mask == 0)
    coupling = now.coupling.isel(shell=kept, shell_from=kept) / float(now.dissipation.sum())
    limit, width = float(np.abs(coupling).max()), now.attrs["shell_width"]
    edges = decades(np.append(coupling.shell - width / 2, coupling.shell[-1] + width / 2))
    axes.set(xlabel=rf"from {SHELL}", ylabel=f"to shell, {LAMBDA}")
    axes.set(aspect="equal")
    axes.set_title(r"who feeds whom: $T_{ab}$ / $\langle e, M e\rangle$", fontsize=10)
    return axes.pcolormesh(edges, edges, coupling, cmap="PuOr_r", vmin=-limit, vmax=limit, rasterized=True)


def closure(check: xr.Dataset, rule: DecisionRule) -> Figure:
    """Draw the budget beside the difference of the flow, and their discrepancy beside the threshold of its rule.

    ``check``: from ``grsd.measured_energy_change``.
    """
    kept = check.mask.values == 0
    s = decades(check.shell)[kept]
    figure, (rates, gaps) = plt.subplots(2, 1, figsize=(7, 5), sharex=True, height_ratios=[3, 2])
    rates.plot(s, check.budget[kept], color=COLOURS["blue"], label=r"budget, $\sum_b T_{ab} - D_a$")
    measured = {"mfc": "none", "color": COLOURS["red"], "label": "difference of the flow, four kernels"}
    rates.plot(s, check.difference[kept], "o", **measured)
    rates.axhline(0, color="black", lw=0.8)
    rates.set(ylabel=r"$\dot E_a$ [energy/time]")
    rates.legend(loc="lower left")
    gap = check.discrepancy[kept]
    gaps.semilogy(s, gap, "s", color=COLOURS["green"], label="discrepancy / largest term of the shell")
    threshold(gaps, rule, label=f"holds up to {rule.threshold:g}")
    gaps.set(xlabel=SHELL, ylabel="relative", ylim=(1e-13, 1e-6))
    gaps.legend(loc="upper right", bbox_to_anchor=(1, 0.82))
    return figure


def velocities(budgets: Sequence[xr.Dataset], title: str) -> Figure:
    """Draw the velocity of each network in grey, that of all with two standard errors, and beside it its parts.

    ``budgets``: with the attribute ``time``.
    """
    figure, (whole, parts) = plt.subplots(1, 2, figsize=(WIDTH, 4), sharex=True, sharey=True)
    for number, budget in enumerate(budgets):
        single = budget.velocity.where(budget.boundary_mask == 0)
        label = None if number else "one network"
        whole.plot(decades(single.boundary), single, color="grey", lw=0.8, alpha=0.7, label=label)
    pooled, split = velocity_over_runs(budgets), parts_over_runs(budgets)
    middle, twice = pooled.velocity, 2 * pooled.standard_error
    label = f"{len(budgets)} networks, 2 standard errors"
    bar(whole, decades(pooled.boundary), middle, middle - twice, middle + twice, fmt="o-", label=label)
    draw_parts(parts, split.velocity, split.share)
    for axes in (whole, parts):
        axes.axhline(0, color="black", lw=0.8)
        axes.axvline(-np.log10(float(np.mean([budget.attrs["time"] for budget in budgets]))), **FRONTIER)
        axes.set_yscale("symlog", linthresh=0.2)
        axes.set_xlabel(LAMBDA)
        axes.legend(fontsize=8)
    whole.set(ylabel=r"velocity $u$ [1/time]", title=title)
    parts.set_title("what it is made of")
    return figure
