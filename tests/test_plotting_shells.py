"""Figures of notebooks 00 to 02, from small data."""

from dataclasses import replace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

import grsd
from grsd.evidence import claims, judge
from grsd.evidence.tables import read_table
from grsd.laws import coupling_law, law_test, velocity_law
from grsd.plotting import calibration, look, shell_dynamics, start_here
from grsd.solvable import AlignedDeepLinear, DiagonalNet, LazyPowerLaw, ProjectedTwoLayer
from grsd.studies.calibration import COVERED, INTERIOR, LAW, MEASUREMENTS, SHELLS, WIDTHS, power_curve
from grsd.studies.exact_readings import Reading, of_network

SPEC = grsd.Spec(width=16, depth=2, samples=16, times=(0.1, 30.0, 4))


@pytest.fixture(autouse=True)
def headless():
    mpl.use("Agg")
    with mpl.rc_context():
        yield
    plt.close("all")


@pytest.fixture(scope="module")
def learned():
    """A flow and its shells, and the largest eigenvalue at the start."""
    data = SPEC.batch()
    network = SPEC.network(data)
    top = float(grsd.spectrum(grsd.tangent_kernel(network, data.inputs)).eigenvalues[-1])
    flow = grsd.gradient_flow(network, data.inputs, data.targets, grsd.log_times(0.1 / top, 30 / top, 4))
    return flow, grsd.shell_history(flow, grsd.LogShells(1.0, 0.2)), top


def test_the_tour_has_a_curve_and_a_map_for_each_architecture(learned):
    _, history, top = learned
    names = ["residual", "plain", "one of a reader's"]
    losses = np.array([history.loss.values, 3 * history.loss.values, 2 * history.loss.values])
    times = history.time.values * top
    figure = start_here.tour(
        dict.fromkeys(names, times),
        dict.fromkeys(names, losses),
        dict.fromkeys(names, losses[:1]),
        dict.fromkeys(names, history),
    )
    curves, *maps = figure.axes[: 1 + len(names)]
    for line, name in zip(curves.lines[::2], names, strict=True):
        assert (line.get_color(), line.get_label()) == (look(name)["color"], name)
        assert np.allclose(line.get_ydata(), 2 * history.loss), "the median of three"
    assert [axes.get_title() for axes in maps] == [f"{name}: energy of the shells" for name in names]


def test_shells_and_their_budget(learned):
    flow, history, top = learned
    figure = shell_dynamics.learning(history, "a title")
    assert np.allclose(figure.axes[0].lines[0].get_ydata(), history.loss)
    figure = shell_dynamics.budget(history, 2, top)
    rates, matrix, flux = figure.axes[:3]
    now = history.isel(time=2)
    kept = now.mask.values == 0
    heights = [patch.get_height() for patch in rates.patches]
    total = float(now.dissipation.sum())
    assert np.allclose(heights[: kept.sum()], -now.dissipation[kept] / total)
    drawn = matrix.collections[0].get_array()
    assert np.allclose(drawn, -drawn.T), "what one gains the other loses"
    whole, *parts = (np.asarray(line.get_ydata(), dtype=float) for line in flux.lines[:4])
    assert len(parts) == 3
    assert np.allclose(sum(parts), whole, rtol=1e-9, atol=1e-12), "growth, crossing and rotation are all of it"
    rule = claims()["budget-closes"].judged
    gaps = shell_dynamics.closure(grsd.measured_energy_change(flow, 2, grsd.LogShells(1.0, 0.2)), rule).axes[1]
    assert set(gaps.lines[-1].get_ydata()) == {rule.threshold}


def test_velocities_of_several_networks(learned):
    flow, _, _ = learned
    budgets = []
    for snapshot in (*flow.snapshots[-2:], *flow.snapshots[-2:]):
        modes = grsd.spectrum(*grsd.tangent_kernel_and_rate(snapshot.model, flow.inputs, flow.targets))
        parameters = {"time": snapshot.time}
        budgets.append(grsd.energy_budget(modes, snapshot.error, grsd.LogShells(1.0, 0.2), parameters=parameters))
    whole, parts = shell_dynamics.velocities(budgets, "a title").axes
    assert whole.get_legend_handles_labels()[1] == ["one network", r"$\lambda t = 1$", "4 networks, 2 standard errors"]
    pooled = grsd.velocity_over_runs(budgets)
    drawn = {line.get_label().partition(",")[0]: line.get_ydata() for line in parts.lines}
    total = sum(np.asarray(drawn[part]) for part in ("growth", "crossing", "rotation"))
    assert np.allclose(total, pooled.velocity.where(pooled.velocity.notnull(), drop=True), rtol=1e-9)


def test_readings_of_exact_models():
    """Gaps to the closed forms, and the same readings drawn."""
    shells = grsd.LogShells(0.5, 0.1)
    lazy = LazyPowerLaw(1.05, 0.5, modes=40)
    still = Reading(of_network(*lazy.problem()), shells, lazy.eigenvalues, lazy.velocity(0.0))
    assert still.gap == 0
    net = DiagonalNet(3, a=1.05, start=0.05, modes=100)
    reading = Reading(net.matrices(3.0), shells, net.eigenvalues(3.0), net.velocity(3.0))
    assert 0 < reading.gap < 1e-3
    wrong = replace(reading, velocity=2 * reading.velocity)
    assert wrong.gap == pytest.approx(float(np.nanmax(reading.budget.velocity)) / wrong.curve[1].max(), rel=1e-2)
    net = AlignedDeepLinear((0.5, 1.0, 2.0))
    two = Reading(of_network(*net.problem(0.8)), shells, net.eigenvalues(0.8), net.velocity(0.8))
    net, times = ProjectedTwoLayer(alpha=2.0, beta=0.5, modes=20), np.array([1.0, 2.0])
    figure = calibration.exact({3: reading}, {0.8: two}, times, {0.5: (times, times, net.bulk_exponent)})
    line, markers = figure.axes[0].lines
    assert np.allclose(line.get_ydata(), reading.curve[1])
    assert np.allclose(markers.get_ydata(), reading.budget.velocity, equal_nan=True)
    assert calibration.moved(reading, 10.0, "a title").axes[0].lines[-1].get_xdata()[0] == -1


def test_planted_laws_and_how_often_intervals_hold():
    runs, couplings = LAW.budgets(range(6), WIDTHS[0]), SHELLS.budgets(range(6), WIDTHS[0])
    velocity, coupling = velocity_law(runs, window=INTERIOR), coupling_law(couplings, window=INTERIOR)
    found = read_table("02_calibration-coverage"), read_table("02_calibration-coverage-shells")
    shares = {}
    for outcome, name in COVERED.items():
        claim = claims()[name]
        stored = judge(claim, range(1000, 1200), [0.0, *[1.0] * 199], {})
        shares[outcome] = found[outcome == "kappa"].sel(outcome=outcome), claim, stored
    axes = calibration.planted(LAW, runs, velocity, SHELLS, coupling, shares).axes
    nominal = [line.get_xdata()[0] for line in axes[2].lines if line.get_marker() == "None" and line.get_lw() == 1.5]
    confirmed = [line.get_xdata()[0] for line in axes[2].lines if line.get_marker() == "s"]
    assert confirmed == [199 / 200] * len(COVERED)
    assert nominal == [claims()[name].judged.threshold for name in COVERED.values()]
    assert {name: MEASUREMENTS[name].protocol.outcome for name in COVERED.values()} == {
        name: outcome for outcome, name in COVERED.items()
    }
    assert len(axes[2].get_yticklabels()) == len(shares)


def test_refusals_and_power():
    test = law_test([LAW.budgets(range(6), width) for width in WIDTHS], observable="velocity", window=INTERIOR)
    figure = calibration.refused({"power law": test}, ("log 2", "log 3"))
    assert figure.axes[0].get_title() == f"power law\np = {test.p:.3f}"
    curve = power_curve(LAW, WIDTHS, INTERIOR, effect=(0.0,), runs=(6,), ensembles=1, progress=False)
    rule = claims()["false-rejection"].judged
    (axes,) = calibration.power({"wiggle": curve}, {"wiggle": curve}, rule).axes
    assert set(axes.lines[-1].get_ydata()) == {rule.threshold}
