import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import sympy
import torch

import grsd
from grsd.conditions.covariance import along_runs, between_problems
from grsd.laws import compare_laws, exponents
from grsd.studies import rigidity as cases
from grsd.studies.calibration import INTERIOR, LAW, WIDTHS, ensemble_budgets
from grsd.theory import (
    EXAMPLES,
    additive,
    certify,
    covariance_error,
    log_periodic,
    nearest_affine,
    nearest_law,
    shift_defect,
    shift_error,
    velocity_band,
    worst_curve,
)

S = np.linspace(-8, 2, 41)


@pytest.mark.parametrize("cells", [*range(2, 13), 16, 24, 32])
def test_worst_curve_on_n_cells(cells):
    """(1 - 1/n) epsilon, and the curve found has the defect and the distance it claims."""
    distance, curve = worst_curve(cells)
    assert distance == pytest.approx(1 - 1 / cells, abs=1e-9)
    assert shift_defect(curve) == pytest.approx(1, abs=1e-9)
    assert nearest_affine(np.arange(cells + 1.0), curve).distance == pytest.approx(distance, abs=1e-9)


def test_no_curve_is_worse_than_the_theorem():
    """Random curves of defect epsilon, smooth and rough, are within (1 - 1/n) epsilon of affine."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for trial in range(400):
        cells = int(rng.integers(2, 12))
        rough = rng.standard_normal(cells + 1)
        curve = np.cumsum(rough) if trial % 3 == 0 else rough if trial % 3 == 1 else np.sign(rough)
        defect = shift_defect(curve)
        if defect == 0:
            continue
        worst = max(worst, nearest_affine(np.arange(cells + 1.0), curve).distance / (defect * (1 - 1 / cells)))
    assert 0.5 < worst <= 1 + 1e-9


def test_short_shifts_only():
    """Shifts up to T of an interval L certify epsilon ceil(L / T)."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        curve = np.cumsum(rng.standard_normal(13))
        for furthest in (2, 3, 4, 6):
            distance = nearest_affine(np.arange(13.0), curve).distance
            assert distance <= shift_defect(curve, furthest=furthest) * math.ceil(12 / furthest) + 1e-9


def test_nearest_affine():
    line = nearest_affine(S, 0.7 * S - 2)
    assert (line.distance, line.slope, line.intercept) == pytest.approx((0, 0.7, -2), abs=1e-9)
    wave = nearest_affine(S, 0.7 * S + np.where(np.arange(41) % 2, 0.1, -0.1))
    assert wave.distance == pytest.approx(0.1)
    assert nearest_affine(S, S**2).distance == pytest.approx(25 / 2, rel=1e-3)


def test_certificate_of_a_band():
    """Against brute force: every curve of the band lies between, and both ends are reached."""
    rng = np.random.default_rng(2)
    s = np.sort(rng.random(5))
    for _ in range(10):
        middle = rng.standard_normal(5)
        half = 0.4 * rng.random(5)
        found = certify(s, middle - half, middle + half)
        curves = middle + half * rng.uniform(-1, 1, (200, 5))
        corners = np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1).T * half + middle
        distances = [nearest_affine(s, curve).distance for curve in [*curves, *corners]]
        assert found.least <= min(distances) + 1e-9
        assert found.most == pytest.approx(max(distances), abs=1e-9)
    curve = np.sin(3 * s)
    exact = certify(s, curve, curve)
    assert exact.least == pytest.approx(exact.most, abs=1e-9)
    assert exact.least == pytest.approx(nearest_affine(s, curve).distance, abs=1e-9)
    wide = certify(S, 0.5 * S - 1, 0.5 * S + 1)
    assert wide.least == 0
    assert wide.slopes == pytest.approx((0.5 - 2 / 10, 0.5 + 2 / 10))


@pytest.mark.parametrize("name", EXAMPLES)
def test_counterexamples_keep_what_they_should_and_break_the_rest(name):
    example = EXAMPLES[name]
    for time in (0.5, 3.0):
        allowed = {"all": (0.1, 0.37, math.log(2), 1.3), "log 2": (math.log(2), 2 * math.log(2)), "none": ()}
        for shift in allowed[example.shifts]:
            assert shift_error(example.velocity, shift, time, S) < 1e-12
        if example.shifts != "all":
            assert shift_error(example.velocity, 0.37, time, S) > 0.05
        for factor in (0.3, 2.0, 7.0):
            error = covariance_error(example.velocity, factor, time, S)
            assert (error < 1e-12) == example.covariant
            assert example.covariant or error > 0.01
        distance = nearest_affine(S, np.log(example.velocity(np.exp(S), time))).distance
        assert (distance < 1e-9) == (example.shifts == "all")


def test_one_width_cannot_see_its_own_period():
    """Read once a period the log-periodic law is a power law; read at another width it is not."""
    law = log_periodic(amplitude=0.4)
    for width, seen in ((math.log(2), False), (math.log(3), True)):
        s = width * np.arange(-10, 3)
        assert (nearest_affine(s, np.log(law(np.exp(s), 1.0))).distance > 0.1) == seen


def test_a_wild_additive_function():
    """Additive on a dense set, bounded by no line."""
    for p, r in combinations([1, 0, 3, -7, 17], 2):
        assert additive(p + r) == additive(p) + additive(r)
    near_zero = 17 - 12 * math.sqrt(2)
    assert abs(near_zero) < 0.03
    assert additive(17) == 17


@pytest.mark.usefixtures("as_users_run_it")
def test_refusals():
    with pytest.raises(ValueError, match="nearest_affine"):
        nearest_affine(S, S[:-1])
    with pytest.raises(ValueError, match="increasing"):
        nearest_affine(S[::-1], S)
    with pytest.raises(ValueError, match="low <= high"):
        certify(S, S + 1, S)
    with pytest.raises(ValueError, match="shift_defect"):
        shift_defect(np.array([1.0, np.nan]))


def test_generators_commute_and_leave_only_the_law():
    lam, t, b, v = sympy.symbols("lambda t b v", positive=True)
    shift, rescaling = {lam: lam, v: b * v}, {lam: lam, t: -t, v: 2 * v}

    def act(field, f):
        return sum(rate * sympy.diff(f, x) for x, rate in field.items())

    for x in (lam, t, v):
        assert sympy.simplify(act(shift, act(rescaling, x)) - act(rescaling, act(shift, x))) == 0
    for field in (shift, rescaling):
        assert sympy.simplify(act(field, v / (lam**b * t ** (b - 2)))) == 0
    assert sympy.simplify(act(rescaling, v / (lam**b * t ** (b - 1)))) != 0


def test_nearest_law_and_theorem_three():
    s, log_t = np.meshgrid(np.linspace(-5, 0, 9), np.linspace(0, 2, 4))
    law = 1.4 * s - 0.6 * log_t + 0.3
    found = nearest_law(s.ravel(), log_t.ravel(), law.ravel())
    assert (found.distance, found.slope, found.intercept) == pytest.approx((0, 1.4, 0.3), abs=1e-9)
    assert nearest_law(s.ravel(), log_t.ravel(), (law + 0.1 * log_t).ravel()).distance > 0.05
    assert 0.5 < max(cases.theorem_ratio(cases.Drawn(), seed) for seed in range(3)) <= 1 + 1e-9


def test_covariance_between_problems():
    """Exact for a network; and refused for a wrong clock, so that the check can fail."""
    data = grsd.digits(16)
    network = grsd.Perceptron(64, 10, width=12, depth=2, residual=True, seed=1).to(torch.float64)
    found = between_problems(network, data.inputs, data.targets, 0.5, cases.EXACT_SHELLS)
    kept = found.where(found["mask"] == 0, drop=True)
    assert kept.sizes["boundary"] >= 5
    assert found.discrepancy < 1e-9
    assert float(np.abs(kept.rescaled * found.kappa - kept.velocity).max()) > 0.1 * float(np.abs(kept.velocity).max())
    with pytest.raises(ValueError, match="steps"):
        between_problems(network, data.inputs, data.targets, 0.5, cases.EXACT_SHELLS, steps=0)


def test_covariance_along_a_run_on_exact_models():
    for case, kept in (("flat", True), ("proportional", True), ("projected", True), ("common", False)):
        defect = cases.exact_collapse(case).defect
        assert (defect < 1e-4) if kept else (defect > 0.01), case
    with pytest.raises(ValueError, match="three or more runs"):
        along_runs([])
    with pytest.raises(ValueError, match="expected one of"):
        cases.exact_collapse("other")


def test_planted_laws_are_certified_and_ranked():
    for name, planted in cases.PLANTED.items():
        budgets = ensemble_budgets(planted, WIDTHS, 0, 8)
        band = velocity_band(budgets, window=INTERIOR)
        found = band.certificate()
        assert (band.signs >= 0).all()
        assert (band.signs == 1).mean() > 0.5
        assert found.least <= cases.true_distance(name) <= found.most
        assert (found.least == 0) == (name == "power law")
        assert compare_laws(budgets, window=INTERIOR).chosen == name


def test_laws_are_judged_at_times_that_they_did_not_see():
    """Under covariance a power law foretells t u at a left-out time; with another clock no law of lambda t does."""
    times = (1.0, 3.0, 9.0)
    scores = {}
    for clock in (LAW.exponent - 2, -1.0):
        drawn = [replace(LAW, drift=0.3 * t**clock, rotation=0.1 * t**clock, noise=0.1) for t in times]
        budgets = [ensemble_budgets(item, WIDTHS[:1], 20 + n, 6)[0] for n, item in enumerate(drawn)]
        found = compare_laws(budgets, window=(-6.5, -2.0), times=times)
        scores[clock] = found.scores["power law"]
        if clock == LAW.exponent - 2:
            assert found.chosen == "power law"
    assert scores[-1.0] > 5 * scores[LAW.exponent - 2]
    with pytest.raises(ValueError, match="three or more increasing times"):
        compare_laws(budgets, times=(1.0, 1.0, 2.0))
    with pytest.raises(ValueError, match="same number of runs at each of the times"):
        compare_laws(budgets[:2], times=times)


def test_a_certificate_where_signs_are_unsure_or_change():
    turned = [[item.copy() for item in width] for width in ensemble_budgets(LAW, WIDTHS, 1, 6)]
    for width in turned:
        for item in width:
            item["flux"] = item.flux * np.sign(item.boundary + 6.1)
    found = velocity_band(turned, window=INTERIOR).certificate()
    assert found.least == found.most == math.inf
    with pytest.raises(ValueError, match="changes sign"):
        compare_laws(turned, window=INTERIOR)
    unsure = [[item.copy() for item in width] for width in turned]
    for width in unsure:
        for number, item in enumerate(width):
            item["flux"] = item.flux * (-1) ** number
    assert velocity_band(unsure, window=INTERIOR).certificate().least == 0
    assert certify(S, np.where(S < 0, -np.inf, S), S + 1).most == math.inf


def test_one_exponent_three_ways():
    times = (1.0, 3.0, 9.0, 27.0)

    def planted(power):
        parts = [replace(LAW, drift=0.3 * t**power, rotation=0.1 * t**power) for t in times]
        return [ensemble_budgets(part, WIDTHS[:1], 20 + n, 6)[0] for n, part in enumerate(parts)]

    covariant = exponents(planted(-0.5), times, window=INTERIOR)
    assert covariant.p > 0.05
    assert covariant.values == pytest.approx({"profile": 1.5, "couplings": 1.5, "clock": 1.5}, abs=0.15)
    broken = exponents(planted(-1.0), times, window=INTERIOR)
    assert broken.p < 0.01
    with pytest.raises(ValueError, match="four or more"):
        exponents(planted(-1.0)[:2], times[:2], window=INTERIOR)
