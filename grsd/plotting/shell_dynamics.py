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
from grsd.plotting.shells import energy_map
from grsd.plotting.style import COLOURS, decades

SHELL = r"shell, $\log_{10}\lambda$ [1/time]"
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


def budget(history: xr.Dataset, shown: Sequence[int], top: float) -> Figure:
    """Draw what the shells dissipate and exchange, who feeds whom, and the flux.

    ``shown``: indices of three times; the first two panels are of the middle one. ``top``: lambda_max(0).
    """
    figure, (rates, matrix, flux) = plt.subplots(1, 3, figsize=(13.5, 4))
    middle = history.isel(time=shown[len(shown) // 2])
    scaled = {index: rf"$t\,\lambda_{{\max}}(0) = {float(history.time[index]) * top:.3g}$" for index in shown}
    _rates(rates, middle)
    rates.set_title(f"budget at {scaled[shown[len(shown) // 2]]}")
    mesh = _coupling(matrix, middle)
    figure.colorbar(mesh, ax=matrix)
    for index, colour, marker in zip(shown, ("sky", "green", "purple"), "^so", strict=True):
        now = history.isel(time=index)
        inner = now.boundary_mask.values == 0
        values = (now.flux / now.dissipation.sum())[inner]
        flux.plot(decades(now.boundary)[inner], values, f"{marker}-", color=COLOURS[colour], label=scaled[index])
        flux.axvline(-np.log10(float(now.time)), color=COLOURS[colour], ls="--", lw=1)
    flux.axhline(0, color="black", lw=0.8)
    flux.set(xlabel=r"boundary, $\log_{10}\lambda$ [1/time]", ylabel=r"flux $F$ / $\langle e, M e\rangle$")
    flux.set_title(r"flux upward; dashed: $\lambda t = 1$")
    flux.legend(fontsize=8, loc="lower right", frameon=True, framealpha=1, edgecolor="none")
    return figure


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
    axes.legend(loc="lower left", fontsize=8)


def _coupling(axes: Axes, now: xr.Dataset) -> object:
    kept = np.flatnonzero(now.mask == 0)
    coupling = now.coupling.isel(shell=kept, shell_from=kept) / float(now.dissipation.sum())
    limit, width = float(np.abs(coupling).max()), now.attrs["shell_width"]
    edges = decades(np.append(coupling.shell - width / 2, coupling.shell[-1] + width / 2))
    axes.set(xlabel=rf"from {SHELL}", ylabel=r"to shell, $\log_{10}\lambda$ [1/time]")
    axes.set(title=r"who feeds whom: coupling $T_{ab}$ / $\langle e, M e\rangle$", aspect="equal")
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


def velocities(budgets: Sequence[xr.Dataset], pooled: xr.Dataset, title: str) -> Figure:
    """Draw the velocity of each network in grey and that of their ratio of sums with two standard errors.

    ``budgets``: with the attribute ``time``. ``pooled``: from ``grsd.velocity_over_runs``.
    """
    figure, axes = plt.subplots(figsize=(7, 4))
    for number, budget in enumerate(budgets):
        single = budget.velocity.where(budget.boundary_mask == 0)
        label = None if number else "one network"
        axes.plot(decades(single.boundary), single, color="grey", lw=0.8, alpha=0.7, label=label)
    middle, twice = pooled.velocity, 2 * pooled.standard_error
    label = f"{len(budgets)} networks, 2 standard errors"
    bar(axes, decades(pooled.boundary), middle, middle - twice, middle + twice, fmt="o-", label=label)
    axes.axhline(0, color="black", lw=0.8)
    axes.axvline(-np.log10(float(np.mean([budget.attrs["time"] for budget in budgets]))), **FRONTIER)
    axes.set_yscale("symlog", linthresh=0.2)
    axes.set(xlabel=r"$\log_{10}\lambda$ [1/time]", ylabel=r"velocity $u$ [1/time]", title=title)
    axes.legend()
    return figure
