"""The drawings of notebooks 05 to 07 on small material: what must be seen is there, thresholds are the rules'."""

from itertools import pairwise

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from grsd.conditions import closure, evolution, interventions, invariance, locality, profile_flow
from grsd.evidence import claims, results
from grsd.evidence.tables import read_table
from grsd.plotting import cells, ensembles, jacobian_evolution, log_shift_invariance, look, renormalization
from grsd.studies import jacobian_evolution as rates_study
from grsd.studies import log_shift_invariance as law_study
from grsd.studies import renormalization as closure_study


@pytest.fixture(autouse=True)
def headless():
    mpl.use("Agg")
    yield
    plt.close("all")


def lines_at(axes, along="y"):
    """Places of the lines that cross the axes from end to end."""
    pairs = ((line.get_ydata(), line.get_xdata())[:: 1 if along == "y" else -1] for line in axes.lines)
    return {float(places[0]) for places, others in pairs if list(others) == [0, 1] and places[0] == places[-1]}


def said(axes):
    legend = axes.get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


def drawn(figure):
    figure.draw_without_rendering()
    return figure


def test_cells_of_any_registered_architecture_over_depth():
    """A third architecture appears by itself; tables on disk have theirs in the order of the alphabet."""
    table = xr.Dataset(
        {
            name: (("architecture", "depth"), np.array([[1.0, 2.0], [3.0, np.nan], [4.0, 5.0]]) + shift)
            for name, shift in (("value", 0.0), ("low", -0.5), ("high", 0.5))
        },
        {"architecture": ["aligned", "plain", "residual"], "depth": [2, 8]},
    )
    found = cells.of_table(table, "value", "low", "high")
    assert found["plain", 2] == (3.0, 2.5, 3.5)
    assert ("plain", 8) not in found, "a cell without an estimate is left out"
    _, axes = plt.subplots()
    cells.over_depth(axes, {"this run": found, "others": {("plain", 8): (1.0, 0.0, 2.0)}}, closure.RULE)
    assert said(axes) == ["residual", "plain", "aligned", "this run", "others"]
    assert lines_at(axes) == {closure.RULE.threshold}
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["2", "8"]
    colours = [handle.get_color() for handle in axes.get_legend().legend_handles[:3]]
    assert len(set(colours)) == 3
    assert colours[0] == look("residual")["color"]


def test_the_deepest_has_the_architectures_own_colour():
    own = np.array(mpl.colors.to_rgb(look("plain")["color"]))
    shades = [np.array(cells.cell_look("plain", step, 3)["color"]) for step in range(3)]
    assert np.allclose(shades[-1], own)
    assert all((lighter >= darker).all() for lighter, darker in pairwise(shades))
    assert "label" not in cells.cell_look("plain", 0, 1)


@pytest.fixture(scope="module")
def lattices():
    budgets = {
        "local": [closure_study.lattice_budgets(closure_study.CLOSED, n) for n in range(2)],
        "long range": [closure_study.lattice_budgets(closure_study.LONG_RANGE, 0)],
    }
    window = closure_study.EVERYTHING
    return budgets, {
        name: [closure.judge(one, window=window, permutations=19) for one in several]
        for name, several in budgets.items()
    }


def test_a_forest_has_a_row_a_system_and_a_bar_an_ensemble(lattices):
    _, found = lattices
    _, axes = plt.subplots()
    ensembles.verdict_forest(axes, found, closure.RULE)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(found)
    assert lines_at(axes, "x") == {closure.RULE.threshold}
    points = [line.get_xdata() for line in axes.lines if line.get_marker() in "os"]
    assert [len(places) for places in points] == [2, 1]
    assert points[0].tolist() == [one.estimate for one in found["local"]]


def test_figures_of_rates():
    time, shell = [1.0, 30.0], [-4.0, -2.0]
    values = np.array([[0.1, 0.2], [0.3, 1e-12]])
    run = xr.Dataset({"t_rho": (("time", "shell"), values)}, {"time": time, "shell": shell}, {"case": "a model"})
    bound = claims()["evolution-bound-residual"].judged
    assert bound.threshold == evolution.BOUND
    (panel,) = drawn(jacobian_evolution.exact([run], bound)).axes
    assert panel.get_title() == "a model"
    assert lines_at(panel) == {evolution.BOUND}
    assert panel.get_ylim()[0] >= jacobian_evolution.SMALLEST
    turning = run.rename(t_rho="t_jacobian").assign(t_rho=0 * run.t_rho)
    (panel,) = drawn(jacobian_evolution.exact([turning], bound)).axes
    assert panel.get_ylabel() == r"$t\,\tau_a$"
    points = [(t, s, seed) for t in time for s in (-5.0, -3.0) for seed in range(3)]
    columns = dict(zip(("time", "shell", "seed"), np.array(points).T, strict=True))
    rate = 0.1 * np.exp(columns["seed"])
    gathered = xr.Dataset(
        {"t_rho": ("point", rate), "t_jacobian": ("point", 2 * rate)},
        {name: ("point", column) for name, column in columns.items()},
    )
    left, right = drawn(jacobian_evolution.rates({"residual": gathered, "plain": gathered}, bound)).axes
    assert lines_at(left) == lines_at(right) == {evolution.BOUND}
    assert len(said(right)) == 6, "three places below the frontier for each architecture"
    middle = left.lines[0].get_ydata()
    assert np.allclose(middle, 0.1 * np.e)


def test_the_figure_of_etas_and_its_table():
    """The stored table holds the values that the claims judge."""
    table, stored, known = read_table("05_jacobian_evolution-eta"), results(), claims()
    names = {"eta": "eta", "late": "late", "top": "supremum"}
    for (of, rate, name), claim in rates_study.ETA_CLAIMS.items():
        assert np.allclose(stored[claim].values, table.value.sel(architecture=name, rate=rate, of=names[of]))
        assert known[claim].judged.threshold == (evolution.BOUND if of == "top" else evolution.TREND)
    rules = [known[rates_study.ETA_CLAIMS[of, "rho", "residual"]].judged for of in ("eta", "top")]
    left, right = drawn(jacobian_evolution.etas(table, *rules)).axes
    assert lines_at(left, "x") == {0, evolution.TREND}
    assert lines_at(right, "x") == {evolution.BOUND}
    assert len(left.get_yticklabels()) == 4


def test_the_figure_of_slopes():
    deep, stored = read_table("05_jacobian_evolution-slopes"), results()
    confirmed = {of: stored[claim] for of, claim in rates_study.SLOPE_CLAIMS.items()}
    rule = claims()["jacobian-evolution"].judged
    figure = drawn(jacobian_evolution.slopes({"this run": deep, "pilots": deep}, confirmed, rule))
    assert [panel.get_title() for panel in figure.axes] == ["residual", "plain"]
    assert said(figure.axes[0]) == ["this run", "pilots", "8 confirmatory seeds"]
    (band,) = figure.axes[0].patches
    assert band.get_bbox().bounds[0] == -rule.threshold
    assert band.get_bbox().bounds[2] == pytest.approx(2 * rule.threshold)


def test_figures_beyond_growth():
    """From the stored tables; the threshold is that of the condition, and every transport is split into its parts."""
    table = read_table("06_log_shift_invariance-beyond")
    axes = drawn(log_shift_invariance.beyond(table, read_table("06_log_shift_invariance-beyond-surrogate"))).axes
    assert all(invariance.RULE.threshold in lines_at(panel, "x") for panel in axes[:2])
    labels = [str(name) for name in table.cell_name.values]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == labels
    parts = read_table("06_log_shift_invariance-beyond-parts")
    assert log_shift_invariance.names_of(parts) == labels[:2]
    axes = drawn(log_shift_invariance.parts(parts, {"again": parts.isel(cell=0)})).axes
    assert [panel.get_title() for panel in axes if panel.get_title()] == [*labels[:2], "again"]
    assert said(axes[0]) == ["sum: $t\\,u$", "growth", "crossing", "rotation"]
    total = sum(parts[part].isel(cell=0) for part in ("growth", "crossing", "rotation"))
    line = next(line for line in axes[0].lines if line.get_label() == "sum: $t\\,u$")
    assert np.allclose(line.get_ydata(), total, equal_nan=True)
    (panel,) = drawn(
        log_shift_invariance.remainder(read_table("06_log_shift_invariance-beyond-remainder"), labels[:1])
    ).axes
    assert said(panel) == ["a - b = 1", "a - b = 2"]


def test_the_figure_of_planted_laws():
    runs = law_study.planted_runs(law_study.INVARIANT, 0, 4)
    found = {"the law": [invariance.judge(runs, window=law_study.INTERIOR)]}
    (panel,) = drawn(log_shift_invariance.planted(found)).axes
    assert invariance.RULE.threshold in lines_at(panel, "x")
    assert "4 planted runs each; dashed: 0.04" in panel.get_xlabel()


def test_figures_of_closure(lattices):
    budgets, found = lattices
    one, window = budgets["local"][0], closure_study.EVERYTHING
    states = {name: closure_study.states_and_fluxes(several[0]) for name, several in budgets.items()}
    assert states["local"].state.shape == states["local"].flux.shape == (8, states["local"].sizes["boundary"])
    table, lawful = read_table("07_renormalization-interventions"), [{"v": 0.1, "w": 0.2, "ratio": 0.7}]
    scatter, forest, blind = drawn(renormalization.planted(states, found, table, lawful)).axes
    assert len(scatter.lines) == len(states) + 1
    assert lines_at(forest, "x") == lines_at(blind) == {closure.RULE.threshold}
    law = invariance.judge(one, observable="velocity", window=window)
    left, right = drawn(renormalization.not_enough(states["local"], found["local"][0], law, 1.0)).axes
    assert left.get_title().startswith("holds: ")
    assert law.verdict in right.get_title()
    flow = profile_flow.judge(one, separations=3, window=closure_study.INTERIOR)
    networks = read_table("07_renormalization-networks")
    axes = drawn(renormalization.flow({"planted": flow}, networks)).axes
    assert axes[0].get_title() == f"planted: {flow.verdict}"
    assert said(axes[1]) == [f"{name}, depth {depth}" for name in ("residual", "plain") for depth in (16, 32)]
    series = {"pilots": cells.of_table(networks.sel(factor=1), "ratio", "ratio_low", "ratio_high")}
    laws, size, reach = drawn(renormalization.networks(table, {}, series)).axes
    assert lines_at(laws) == {interventions.RULE.threshold, interventions.RULE.fails_beyond, 0}
    assert lines_at(size) == {1}
    assert said(size) == [f"{name}, {stage}" for name in ("residual", "plain") for stage in table.stage.values]
    assert lines_at(reach) == {locality.RULE.threshold}
