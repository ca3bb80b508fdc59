"""Transport by a rigid velocity: the path of a mode, the two solutions, the table of exponents, published exponents."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from grsd.solvable import LazyPowerLaw, ProjectedTwoLayer
from grsd.studies.power_law_scaling.exact import ROWS, Late, bordelon_error, compared, draw, measured_law
from grsd.theory import (
    PowerLawVelocity,
    characteristics,
    extrapolated_exponent,
    local_exponent,
    loss_exponent,
    transport,
)

LAWS = [(1.5, -0.7), (1.5, 0.2), (0.5, 0.1), (0.5, -0.1), (1.0, 0.4), (1.0, -1.0), (2.5, -2.0), (1 + 1e-9, 0.4)]
START = np.array([-4.0, -2.0, -0.5])


@pytest.mark.parametrize(("b", "c"), LAWS)
def test_paths_against_an_integrator(b, c):
    """v itself, integrated tightly, with 2 lambda beside it."""
    law = PowerLawVelocity(b, c)

    def right(t, y):
        return np.concatenate([c * t ** (b - 2) * y[:3] ** b, 2 * y[:3]])

    begin = np.concatenate([np.exp(START) / 2.0, np.zeros(3)])
    found = solve_ivp(right, (2.0, 2.0 * math.e), begin, method="DOP853", rtol=1e-11, atol=1e-14).y[:, -1]
    assert law.eigenvalue(begin[:3], 2.0, 2.0 * math.e) == pytest.approx(found[:3], rel=1e-7)
    assert law.losses(START, 1.0) == pytest.approx(found[3:], rel=1e-7)
    assert law(np.log(begin[:3]), 2.0) * begin[:3] == pytest.approx(c * 2.0 ** (b - 2) * begin[:3] ** b)


def test_where_modes_go():
    assert PowerLawVelocity(1.5, 1.0).log_path(0.0, 3.0) == math.inf
    assert PowerLawVelocity(0.5, -2.0).log_path(-1.0, 3.0) == -math.inf
    piled = PowerLawVelocity(2.0, -2.0)
    assert piled.fixed_point == 0.5
    assert piled.log_path(START, 40.0) == pytest.approx(math.log(0.5), abs=1e-9)


def test_late_energy_is_resolved(monkeypatch):
    """b < 1, c < 0: late, modes on either side of x* part within rounding; other panels give the same energy."""
    law, late = PowerLawVelocity(0.7, -0.3), [math.exp(30)]
    energy = law.energy(late, 0.2)
    monkeypatch.setattr(characteristics, "PANEL", 0.37)
    assert law.energy(late, 0.2) == pytest.approx(energy, rel=1e-9)


def test_lazy_energy_is_the_lazy_power_law():
    """c = 0, and E = int lambda^q e^(-2 lambda (t - 1)) in closed form far below the top."""
    energy = PowerLawVelocity(1.7, 0.0).energy([1e6], 0.3)[0]
    assert energy == pytest.approx(math.gamma(1.3) * (2 * (1e6 - 1)) ** -1.3, rel=1e-7)
    model = LazyPowerLaw(1.5, 1.0)
    assert loss_exponent(1.0, 0.0, model.loss_exponent - 1).value == pytest.approx(model.loss_exponent)


@pytest.mark.parametrize("row", ROWS)
def test_finite_volumes_agree_with_characteristics(row):
    case = draw(row, 3)
    case = replace(case, tau=min(case.tau, 1.5), cell=max(case.cell, 0.01))
    assert np.abs(compared(case).difference).max() < 1e-3


def test_the_comparison_can_fail():
    """A velocity 1 % off moves the energy by more than the bound."""
    law, when = PowerLawVelocity(1.0, 0.5), np.array([math.exp(5)])
    edges = np.arange(-800, 101) * 0.02
    under = np.exp(np.minimum(edges, 0.0))
    off = transport(edges, np.diff(under), PowerLawVelocity(1.0, 0.505), when, start=1.0, below=under[0])
    assert abs(off.energy[0] / law.energy(when, 0.0)[0] - 1) > 1e-2


def test_finite_volumes_keep_the_books():
    """Without a sink (eigenvalues of nothing) energy is conserved; densities never become negative."""
    rng = np.random.default_rng(0)
    edges = np.linspace(-60.0, -50.0, 201)
    cells = rng.exponential(size=200) * (rng.random(200) < 0.3)
    moved = transport(edges, cells, lambda s, t: 3 * np.sin(3 * s + t), [1.5, 2.0], start=1.0, negligible=0.0)
    assert (moved.density >= 0).all()
    assert (moved.energy + moved.escaped).values == pytest.approx(cells.sum(), rel=1e-12)
    down = transport(edges, cells, lambda s, t: -8.0 + 0 * s, [4.0], start=1.0)
    assert float(down.below[0]) == pytest.approx(cells.sum())
    up = transport(edges, cells, lambda s, t: 8.0 + 0 * s, [4.0], start=1.0)
    assert float(up.escaped[0]) == pytest.approx(cells.sum())


def test_better_than_second_order_where_smooth():
    """A bump carried by two e-folds: halving the cells divides the mean error by more than four."""
    errors = []
    for count in (200, 400):
        edges = np.linspace(-60.0, -50.0, count + 1)
        middle = (edges[:-1] + edges[1:]) / 2
        cells = np.exp(-2 * (middle + 57) ** 2)
        end = transport(edges, cells, lambda s, t: 1.0 + 0 * s, [3.0], start=1.0, negligible=0.0, courant=0.1)
        errors.append(np.abs(end.density.values[0] * np.diff(edges) - np.exp(-2 * (middle + 55) ** 2)).mean())
    assert errors[0] / errors[1] > 4


@pytest.mark.parametrize(
    ("b", "c", "q", "value", "regime"),
    [
        (1.0, 0.5, 0.2, 1.8, "power"),
        (1.0, -1.0, 0.2, 0.0, "logarithmic"),
        (1.0, -1.5, 0.2, 0.0, "floor"),
        (2.0, -1.0, 0.0, 1.0, "power"),
        (2.0, -4.0, 0.0, 0.5, "power"),
        (2.0, -2.0, 0.0, 1.0, "power with a log"),
        (1.5, 0.3, 0.2, 1.2, "power"),
        (0.5, -0.3, 0.2, 0.0, "floor"),
        (0.5, 0.3, 0.2, math.inf, "exponential"),
        (0.5, 0.0, 0.2, 1.2, "power"),
    ],
)
def test_table_of_exponents(b, c, q, value, regime):
    """What it says, and what the energy does: ever faster, at a floor, or a power (to .01 or better)."""
    found = loss_exponent(b, c, q)
    assert (found.value, found.regime) == (pytest.approx(value), regime)
    law = PowerLawVelocity(b, c)
    if regime == "exponential":
        local = local_exponent([10.0, 20.0, 40.0, 80.0], law.energy([10.0, 20.0, 40.0, 80.0], q))
        assert local[-1] > 2.5 * local[1] > 5
        return
    times = np.exp(np.linspace(10, 40, 9))
    energy = law.energy(times, q)
    if regime == "logarithmic":
        assert energy[-1] / energy[0] == pytest.approx(4 ** -(q + 1), rel=1e-3)
    else:
        assert extrapolated_exponent(times, energy) == pytest.approx(value, abs=0.01)
    if regime == "floor":
        assert energy[-1] == pytest.approx(energy[0], rel=0.01)
    if regime == "power with a log":
        assert energy[-1] * times[-1] / (energy[0] * times[0]) == pytest.approx(4, rel=0.15)


def test_energy_escapes_undissipated():
    """Why b > 2 with c > 0 has no exponent: a mode at infinite eigenvalue has lost only 2 int dx/(1 + c x^(b-1))."""
    lost = 2 * math.pi / 2
    x = np.geomspace(1e-8, 1e6, 200001)
    assert np.trapezoid(2 / (1 + x**2), x) == pytest.approx(lost, rel=1e-4)
    nearly = PowerLawVelocity(3.0, 1.0).losses(np.array([-20.0]), 20 - 1e-9)
    assert nearly[0] < lost
    with pytest.raises(ValueError, match="infinite eigenvalue in finite time with energy left"):
        loss_exponent(3.0, 1.0, 0.0)


def test_slow_near_one():
    """b = 1.1, c = -.9: at t = e^20 still far from the limit 1, which the extrapolation cannot know."""
    times = np.exp(np.linspace(10, 20, 11))
    local = local_exponent(times, PowerLawVelocity(1.1, -0.9).energy(times, 0.0))
    assert local[-1] == pytest.approx(0.62, abs=0.01)
    assert loss_exponent(1.1, -0.9, 0.0).value == 1.0


def test_published_exponents_from_budgets():
    assert max(bordelon_error(Late(), seed) for seed in range(2)) < 1e-3
    c, q = measured_law(ProjectedTwoLayer(beta=0.5), 1e3)
    assert (c, q) == (pytest.approx(1 / 3, abs=0.05), pytest.approx(-0.5, abs=1e-3))
    lazy, _ = measured_law(ProjectedTwoLayer(beta=0.5, gamma=0.0), 1e3)
    assert lazy == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PowerLawVelocity(math.nan, 1.0), "expected finite numbers"),
        (lambda: PowerLawVelocity(1.0, 0.0).energy([2.0], -1.0), r"expected q > -1"),
        (lambda: PowerLawVelocity(1.0, 0.0).energy([0.5], 0.0), "from start = 1 on"),
        (lambda: PowerLawVelocity(3.0, 0.1).energy([2.0], 0.0), "infinite eigenvalues"),
        (lambda: loss_exponent(1.0, 0.0, -1.0), "q > -1"),
        (lambda: local_exponent([1.0, 2.0], [1.0, 2.0]), ">= 3 increasing times"),
        (lambda: extrapolated_exponent(np.arange(1.0, 5.0), np.ones(4)), "at least 4 times"),
        (lambda: transport(np.array([0.0, 1.0, 3.0]), np.ones(2), lambda s, t: s, [2.0], start=1.0), "equally spaced"),
        (lambda: transport(np.arange(3.0), -np.ones(2), lambda s, t: s, [2.0], start=1.0), "energies >= 0"),
        (lambda: transport(np.arange(3.0), np.ones(2), lambda s, t: s, [0.5], start=1.0), "increasing times"),
        (lambda: transport(np.arange(3.0), np.ones(2), lambda s, t: s / 0 * 0, [2.0], start=1.0), "not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*divide:RuntimeWarning", "ignore:invalid:RuntimeWarning")
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
