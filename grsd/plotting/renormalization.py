"""The figures of notebook 07: block spin, closure where it is known, the flow of the profile, networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grsd.conditions import Verdict, closure, interventions, locality
from grsd.conditions.profile_flow import ProfileFlow
from grsd.evidence import Result
from grsd.laws.fit import LawFit
from grsd.plotting.cells import Cells, cell_look, ordered, over_depth
from grsd.plotting.ensembles import FILLS, verdict_forest
from grsd.plotting.intervals import bar, threshold
from grsd.plotting.style import COLOURS, WIDTH, decades, look, plain_log


def planted(
    states: Mapping[str, xr.Dataset],
    found: Mapping[str, Sequence[Verdict]],
    table: xr.Dataset,
    lawful: Sequence[Mapping[str, float]],
) -> Figure:
    """Draw states and fluxes of lattices, the verdicts of closure on them, and what this test cannot see.

    ``states``: from ``states_and_fluxes``, by name; ``found``: the verdicts of several ensembles each, by the same
    names. ``table``: networks by architecture, stage and law; ``lawful``: from ``surrogate``, of lattices that obey.
    """
    figure, (scatter, forest, blind) = plt.subplots(1, 3, figsize=(WIDTH, 3.7))
    for (name, one), fill in zip(states.items(), FILLS, strict=False):
        x, y = (np.log10(part / np.exp(np.log(part).mean("run"))).values.ravel() for part in (one.state, one.flux))
        scatter.plot(x, y, ls="none", ms=2.5, alpha=0.6, label=name, **fill)
    scatter.plot([-0.6, 0.6], [-0.6, 0.6], color="black", lw=0.8)
    scatter.set(xlabel=r"state, $\log_{10}\phi_{rc}/\bar\phi_c$ at $4h$", ylim=(-1.6, 1.6))
    scatter.set_ylabel(r"flux, $\log_{10}F_{rc}/\bar F_c$")
    scatter.set_title("three lattices", fontsize=10)
    verdict_forest(forest, found, closure.RULE)
    forest.set_yticklabels([name.replace(" ", "\n") for name in found])
    runs = next(iter(found.values()))[0].runs
    forest.set(xlabel=rf"largest $r/r_{{perm}}$, 95 %, {runs} runs", xlim=(-0.1, 1.6))
    forest.set_title("closed left of the dashed line", fontsize=10)
    _blind(blind, table, lawful)
    return figure


def not_enough(states: xr.Dataset, closed: Verdict, law: Verdict, time: float) -> Figure:
    """States and fluxes of networks that close, and their velocity, which follows no power law.

    ``states`` from ``states_and_fluxes``; ``closed`` of closure; ``law`` of invariance, on the velocity; at ``time``.
    """
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.8))
    shown = states.isel(boundary=slice(2, None, 3))
    for number, (place, fill) in enumerate(zip(decades(shown.boundary) + np.log10(time), FILLS, strict=False)):
        one = shown.isel(boundary=number)
        label = rf"$\log_{{10}}\lambda t = {place:.1f}$"
        axes[0].plot(one.state / one.state.mean(), one.flux / one.flux.mean(), ls="none", label=label, **fill)
    axes[0].axline((1, 1), slope=1, color="black", lw=0.8)
    axes[0].set(xlabel=r"state $\phi_{rc}$ over its mean, at $4h$", ylabel=r"flux $F_{rc}$ over its mean")
    axes[0].set_title(rf"{closed.verdict}: $r/r_{{perm}}$ = {closed.estimate:.2f}, {closed.runs} networks")
    fit: LawFit = law.details.test.fits[0]
    x = decades(fit.positions) + np.log10(time)
    axes[1].plot(x, fit.values * time, "o-", color=COLOURS["blue"], label="diagonal networks")
    axes[1].plot(x, fit.fitted * time, color=COLOURS["red"], ls="--", label="best power law")
    axes[1].axvline(0, color="grey", lw=0.8)
    axes[1].set(xlabel=r"$\log_{10}\lambda t$", ylabel=r"$t\,u$")
    axes[1].set_title(f"power law {law.verdict}: $D^2$ = {law.estimate:.2f}")
    for panel in axes:
        panel.legend(fontsize=8)
    return figure


def flow(flows: Mapping[str, Verdict], networks: xr.Dataset) -> Figure:
    """The profile at h, 2h, 4h beside what the map makes of it, and the share of neighbours in networks.

    ``flows``: of ``profile_flow.judge``, by name; ``networks``: a table of ``summary``.
    """
    ratios = [1] * len(flows) + [1.2]
    figure, axes = plt.subplots(1, len(ratios), figsize=(WIDTH, 3.8), width_ratios=ratios)
    for panel, (name, judged) in zip(axes, flows.items(), strict=False):
        found: ProfileFlow = judged.details
        k = found.separations
        panel.plot([1, *k], [1, *found.finest], ls="none", label=r"$h$", **FILLS[0])
        for row, (factor, fill) in enumerate(zip(found.factors, FILLS[1:], strict=False)):
            style = fill | {"ls": "none", "label": f"${factor}h$", "capsize": 2}
            panel.errorbar(k, found.measured[row], 2 * found.error[row], **style)
            panel.plot([1, *k], [1, *found.mapped[row]], color=fill["color"], lw=1)
        panel.set(xlabel="separation $k$", title=f"{name}: {judged.verdict}", xticks=[1, *k])
        panel.set(yscale="log", ylim=(5e-4, 1.4))
    axes[0].set_ylabel(r"$\kappa(k)/\kappa(1)$, lines: the map")
    axes[0].legend(loc="lower left")
    _neighbours(axes[-1], networks)
    return figure


def networks(table: xr.Dataset, tasks: Mapping[str, Result], ranges: Mapping[str, Cells]) -> Figure:
    """Closure of networks: what laws explain; the size of the flux; how far it comes.

    ``table``: of the four verdicts, by architecture, stage and law; ``tasks``: by architecture, the result across
    tasks; ``ranges``: series of ``over_depth``.
    """
    rows = [["laws", "laws"], ["size", "reach"]]
    figure, axes = plt.subplot_mosaic(rows, figsize=(WIDTH, 7.6))
    _explained(axes["laws"], table, tasks)
    size, reach = axes["size"], axes["reach"]
    factors = [name for name in table.data_vars if str(name).startswith("bound_")]
    for name, stage, style in _cells(table):
        one = table.sel(architecture=name, stage=stage).isel(law=0)
        size.plot([float(one[factor]) for factor in factors], **style | {"linestyle": "-"})
    size.axhline(1, color="black", ls="--", lw=1)
    labels = [f"${str(name).removeprefix('bound_')}\\,h$" for name in factors]
    size.set(yscale="log", xticks=range(len(factors)), xticklabels=labels)
    plain_log(size.yaxis)
    size.set(
        xlabel=r"width of the blocks, $h = \log 2$", ylabel=r"largest $t\,|F_c|\,/\,(E_{below} + E_{above})$, median"
    )
    size.legend(fontsize=8)
    over_depth(reach, ranges, locality.RULE)
    reach.set(ylim=(-0.5, 8.5), ylabel=r"$\Delta_{90}$ [e-folds], 95 % interval")
    return figure


def _cells(table: xr.Dataset) -> list[tuple[str, str, dict[str, object]]]:
    """Architectures and stages with their style: early ones hollow."""
    found = []
    for name in ordered(table.architecture.values):
        for stage in table.stage.values:
            style = look(name) | {"label": f"{name}, {stage}", "linestyle": "none"}
            found.append((name, str(stage), style | ({"mfc": "white"} if stage == "early" else {})))
    return found


def _blind(axes: Axes, table: xr.Dataset, lawful: Sequence[Mapping[str, float]]) -> None:
    """r / r_perm over v / w, of networks and of what obeys F = U phi with their spread."""
    x = np.geomspace(5e-3, 30)
    axes.plot(x, 1 / np.sqrt(1 + 2 * x), color="grey", lw=1)
    places = [one["v"] / one["w"] for one in lawful]
    style = {"color": "grey", "marker": "x", "ls": "none", "label": "lattices that obey"}
    axes.plot(places, [one["ratio"] for one in lawful], **style)
    for name, stage, style in _cells(table):
        one = table.sel(architecture=name, stage=stage).isel(law=0)
        place = float(one.v / one.w)
        axes.plot(place, float(one.measured), **style)
        bar(axes, 1.12 * place, one.lawful, one.lawful_low, one.lawful_high, color=style["color"], marker="_", lw=1)
    threshold(axes, closure.RULE)
    axes.set(xscale="log", ylim=(0, 1.6), xlabel=r"$v/w$", ylabel=r"$r/r_{perm}$ at $4h$")
    axes.set_title("what the test cannot see", fontsize=10)
    axes.legend(fontsize=8, loc="lower left")


def _explained(axes: Axes, table: xr.Dataset, tasks: Mapping[str, Result]) -> None:
    """R^2 of the laws under interventions, and across tasks."""
    laws = {"state": r"$U\phi$", "local": r"$U\phi\,|e|$", "clock": "one clock", "clocks": "own clocks"}
    cells = _cells(table)
    for shift, (name, stage, style) in zip(np.linspace(-0.25, 0.25, len(cells)), cells, strict=True):
        one = table.sel(architecture=name, stage=stage).sel(law=list(laws))
        bar(axes, np.arange(len(laws)) + shift, one.explained, one.low, one.high, **style)
    for shift, (name, result) in zip((-0.1, 0.1), tasks.items(), strict=False):
        style = look(name) | {"mfc": "white", "label": None}
        bar(axes, len(laws) + shift, result.estimate, result.low, result.high, **style)
    rule = interventions.RULE
    threshold(axes, rule)
    axes.axhline(rule.fails_beyond, color="black", ls=":", lw=1)
    axes.axhline(0, color="grey", lw=0.8)
    axes.set(xticks=range(len(laws) + 1), xticklabels=[*laws.values(), "across tasks"], ylim=(-1, 1.05))
    axes.set(
        ylabel="$R^2$ against a constant, 95 % interval",
        title="closed above the dashed line, not closed below the dotted one",
    )


def _neighbours(axes: Axes, table: xr.Dataset) -> None:
    """The share of the flux between neighbouring blocks over their width, at the two largest depths."""
    places = np.arange(table.sizes["factor"])
    depths = table.depth.values[-2:]
    names = ordered(table.architecture.values)
    for name in names:
        for step, depth in enumerate(depths):
            part = table.sel(architecture=name, depth=depth)
            spread = [part.neighbours - part.neighbours_low, part.neighbours_high - part.neighbours]
            style = cell_look(name, step, len(depths)) | {"label": f"{name}, depth {depth}", "lw": 1, "capsize": 2}
            shift = 0.06 * (step - 0.5) + 0.03 * (names.index(name) - (len(names) - 1) / 2)
            axes.errorbar(places + shift, part.neighbours, spread, **style)
    axes.axhline(1, color="black", lw=0.8)
    labels = [rf"${factor}\,h$" if factor > 1 else "$h$" for factor in table.factor.values]
    axes.set(xticks=places, xticklabels=labels, xlabel=r"width of the blocks, $h = \log 2$")
    axes.set(ylabel="share of the flux between neighbours")
    axes.set_title("networks, 8 pilot seeds")
    axes.legend(fontsize=8, loc="lower right")
