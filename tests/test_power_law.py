"""A power law with an offset in a table: known answers, coverage, and tables built to mislead the fit."""

import math
import re

import numpy as np
import pytest
from scipy.optimize import curve_fit

import grsd
from grsd.laws import more_seeds_said
from grsd.laws.more_seeds import more_seeds
from grsd.laws.power_law import Profile, Table

X = np.geomspace(1, 1e4, 14)
A, B, C = 2.0, 0.5, 0.3
LAW = A * X**-B + C


def noise(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape or 14)


def test_an_exact_law_is_recovered_at_any_scale():
    for unit_x, unit_y in ((1.0, 1.0), (1e9, 1e-6)):
        found = grsd.fit_power_law(X * unit_x, LAW * unit_y)
        assert found.exponent == pytest.approx(B, abs=1e-7)
        assert found.amplitude == pytest.approx(A * unit_y * unit_x**B, rel=1e-6)
        assert found.offset == pytest.approx(C * unit_y, rel=1e-6)
        assert found.verdict == "power law"
        assert found.residual_p == 1
    shuffled = np.random.default_rng(0).permutation(14)
    again = grsd.fit_power_law((X * 1e9)[shuffled].tolist(), (LAW * 1e-6)[shuffled].tolist())
    assert again.exponent_interval == found.exponent_interval
    rising = grsd.fit_power_law(X, 1 - 0.5 * X**-0.7)
    assert (rising.exponent, rising.amplitude, rising.offset) == pytest.approx((0.7, -0.5, 1.0), abs=1e-6)
    pure = grsd.fit_power_law(X, A * X**-B, offset=0)
    assert (pure.exponent, pure.amplitude, pure.offset) == pytest.approx((B, A, 0), abs=1e-6)
    noisy = grsd.fit_power_law(X, A * X**-B * (1 + 0.01 * noise(3)), offset=0)
    assert noisy.verdict == pure.verdict == "power law"
    assert "asks for no bend" in noisy.reason


def test_the_same_fit_as_scipy():
    y, errors = LAW + 0.01 * noise(0), np.full(14, 0.01)
    found = grsd.fit_power_law(X, y, errors=errors)
    best, covariance = curve_fit(lambda x, a, b, c: a * x**-b + c, X, y, (1, 1, 0), sigma=errors)
    assert (found.amplitude, found.exponent, found.offset) == pytest.approx(tuple(best), rel=1e-5)
    wald = 2.2 * np.sqrt(np.diag(covariance))  # Student's 97.5 % quantile for 11 degrees is 2.201
    intervals = (found.amplitude_interval, found.exponent_interval, found.offset_interval)
    assert [np.ptp(interval) / 2 for interval in intervals] == pytest.approx(wald, rel=0.05)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long)])
def test_coverage(seed):
    """Of 90 % intervals of b, a, c and a forecast a decade on; 150 tables, whose standard error is 2.4 %."""
    rng, hits, tables = np.random.default_rng(seed), np.zeros(4), 150
    for _ in range(tables):
        own = Profile.of(Table(X, LAW, None), LAW * (1 + 0.03 * rng.standard_normal(14)), 0.9)
        forecast, offset = own.around(np.array([1e5])), own.around(None)
        intervals = (own.exponent(), own.amplitude()[1], *((low[0], high[0]) for _, low, high in (offset, forecast)))
        truths = (B, A, C, A * 1e5**-B + C)
        hits += [low <= truth <= high for (low, high), truth in zip(intervals, truths, strict=True)]
    assert (np.abs(hits / tables - 0.9) < 3 * 0.0245).all(), hits / tables


def test_coverage_over_runs_that_are_not_independent_along_x():
    """Each run is a curve of its own, off by a common factor and a slope: only runs are units."""
    inside = 0
    for seed in range(40):
        drawn = noise(seed, 2, 8, 1)
        runs = LAW * np.exp(0.05 * drawn[0] + 0.02 * drawn[1] * np.log(X))
        found = grsd.fit_power_law(X, runs, level=0.9, draws=19)
        assert found.runs == 8
        low, high = found.predict([1e2]).isel(x=0)[["low", "high"]].to_array().values
        inside += low <= A * 1e2**-B + C <= high
    assert 0.75 <= inside / 40 <= 1.0


BROKEN = {
    "exponential": (np.linspace(1, 10, 14), lambda x: np.exp(-x / 3) + 0.1, "another law", "beside the exponential"),
    "too short": (np.linspace(1, 1.5, 14), lambda x: A * x**-B + C, "not determined", "too short or too noisy"),
    "logarithm": (X, lambda x: 10 - np.log(x), "not determined", "reaches 0, a logarithm: the"),
    "broken": (X, lambda x: np.minimum(x**-0.2, 100**0.5 * x**-0.7), "another law", "beside the broken power law"),
    "a decade": (np.geomspace(1, 30, 14), lambda x: A * x**-B + C, "not told apart", "does not exclude the .*log-para"),
    "a law": (np.geomspace(1, 1e7, 14), lambda x: A * x**-B + C, "power law", "the table refuses the exponential"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BROKEN))
def test_tables_built_to_mislead_the_fit(name):
    x, law, verdict, reason = BROKEN[name]
    found = [grsd.fit_power_law(x, law(x) * (1 + 0.005 * noise(seed)), seed=seed) for seed in range(3)]
    assert [one.verdict for one in found].count(verdict) >= 2, [str(one) for one in found]
    for one in found:
        if one.verdict == verdict:
            assert re.search(reason, one.reason), one.reason
        if one.verdict == "not determined":
            assert one.exponent_interval[0] == 0 or one.exponent_interval[1] == math.inf
            assert not math.isfinite(sum(one.amplitude_interval)) or one.exponent_interval[0] > 0


def test_the_power_law_is_seldom_refused_where_it_is_true():
    """At 5 % over three rivals: at most 4 of 20, by chance less than once in a hundred times."""
    verdicts = [grsd.fit_power_law(X, LAW * (1 + 0.02 * noise(seed)), draws=99).verdict for seed in range(20)]
    assert verdicts.count("another law") <= 4, verdicts


def test_residuals_that_hang_together_are_said():
    wave = LAW * (1 + 0.02 * np.sin(1.5 * np.log(X)))
    found = grsd.fit_power_law(X, wave)
    assert found.residual_p <= 0.05
    assert "neighbouring residuals hang together" in found.reason


def test_predictions_are_labelled():
    found = grsd.fit_power_law(X, LAW * (1 + 0.02 * noise(0)))
    ahead = found.predict([1.0, 1e5])
    assert set(ahead.data_vars) == {"y", "low", "high"}
    assert ahead.y.values == pytest.approx(found.amplitude * np.array([1, 1e5]) ** -found.exponent + found.offset)
    assert (ahead.low < ahead.y).all()
    assert (ahead.y < ahead.high).all()
    assert str(found).startswith(f"{found.verdict}: exponent ")
    assert len(str(found).splitlines()) == 1


REFUSED = [
    ({"x": X[:5], "y": LAW[:5]}, r"x\): expected positive numbers \(n,\), n >= 6"),
    ({"x": -X}, r"x\): expected positive numbers \(n,\)"),
    ({"x": [*X[:13], X[12]]}, r"x\): expected different values, 4923.88 occurs twice; take means"),
    ({"y": LAW[:6]}, r"y\): expected numbers \(14,\) or \(runs, 14\), as x has, got ndarray of shape \(6,\)"),
    ({"y": LAW - 0.4}, r"y\): expected positive finite numbers, got"),
    ({"y": np.ones(14)}, r"y\): expected values that change with x, all are 1"),
    ({"y": [LAW] * 3}, r"y\): expected one run or at least 4, for intervals over runs, got 3"),
    ({"errors": np.ones(3)}, r"errors=...\): expected positive numbers \(14,\), n >= 14, got ndarray of shape \(3,\)"),
    ({"errors": np.ones(14), "y": [LAW] * 4}, r"errors=...\): expected None with several runs"),
    ({"offset": 0.5}, r"offset=0.5\): expected an offset below every y, the least is 0.3"),
    ({"level": 95}, r"level=...\): expected a number between 0 and 1, got 95"),
    ({"draws": 3}, r"draws=...\): expected a whole number of at least 19, got 3"),
]


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_refusals_of_tables(given, message):
    with pytest.raises((TypeError, ValueError), match=rf"^fit_power_law\({message}"):
        grsd.fit_power_law(**({"x": X, "y": LAW} | given))


def test_more_seeds():
    """The half width falls as one over the root of the number: twice too wide, four times as many."""
    assert more_seeds(0.0, (-2.0, 2.0), 1.0, 8) == 25
    assert more_seeds(2.0, (0.0, 2.5), 1.0, 8) == 25
    assert more_seeds(0.0, (-0.5, 0.5), 1.0, 8) == 0
    assert more_seeds(0.0, (-0.5, 0.5), 1.0, 3, least=8) == 5
    assert more_seeds(1.0, (0.0, 2.0), 1.0, 8) == math.inf
    assert more_seeds(math.nan, (math.nan, math.nan), 1.0, 8) == math.inf
    assert more_seeds_said(0.0, (-2.0, 2.0), 1.0, 8) == "needs about 25 more seeds, if the estimate stays"
    assert (
        more_seeds_said(0.0, (-0.5, 0.5), 1.0, 3, least=4, of="runs") == "needs about 1 more run, if the estimate stays"
    )
    assert more_seeds_said(0.0, (-9.0, 9.0), 1.0, 8) == "needs about 640 more seeds, if the estimate stays"
    assert more_seeds_said(1.0, (0.0, 2.0), 1.0, 8) == "no number of seeds decides, if the estimate stays"
    assert more_seeds_said(0.0, (-0.5, 0.5), 1.0, 8) == more_seeds_said(0.0, (-math.inf, math.inf), 1.0, 8) == ""
    with pytest.raises(ValueError, match=r"^more_seeds\(interval=...\): expected low <= high"):
        more_seeds(0.0, (2.0, -2.0), 1.0, 8)
