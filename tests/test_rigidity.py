import math
from itertools import combinations

import numpy as np
import pytest

from grsd.rigidity import (
    EXAMPLES,
    additive,
    certify,
    covariance_error,
    log_periodic,
    nearest_affine,
    shift_defect,
    shift_error,
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
