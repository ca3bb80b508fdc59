"""Planted laws through fit and test: coverage, false rejection, power. Ensembles 0, 1, ... are pilot ensembles."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from grsd.laws import law_test
from grsd.solvable import PlantedShells
from grsd.studies.calibration import (
    INTERIOR,
    LAW,
    SHELLS,
    WIDTHS,
    coverage,
    detection_limit,
    ensemble_budgets,
    outcomes,
    power_curve,
)

TWO = WIDTHS[0]


@pytest.mark.long
def test_coverage_and_false_rejection():
    law = coverage(LAW, WIDTHS, INTERIOR, ensembles=40)
    shells = coverage(SHELLS, [TWO], INTERIOR, ensembles=40)
    assert (law.low <= law.nominal).all(), law.share
    assert (law.nominal <= law.high).all(), law.share
    for name in ("b_coupling", "kappa"):
        one = shells.sel(outcome=name)
        assert one.low <= 0.95 <= one.high, shells.share
    assert "c" not in shells.outcome
    assert "kappa" not in law.outcome
    exact = stats.binomtest(int(law.hits.sel(outcome="c")), 40).proportion_ci(0.99)
    assert (law.low.sel(outcome="c"), law.high.sel(outcome="c")) == pytest.approx(tuple(exact))
    assert law.attrs["read_shells"] == "width 0.693147 smoothing 0.1, width 1.09861 smoothing 0.1"
    assert law.attrs["noise"] == 0.2
    assert "torch" in law.attrs["versions"]


@pytest.mark.parametrize(
    "change",
    [
        {"wiggle": 0.2, "period": 1.7},
        {"scale": 0.03},
        {"bend": (-6.0, 1.0)},
        {"wiggle": 0.4, "period": math.log(2)},
    ],
    ids=["wiggle", "scale", "bend", "commensurate"],
)
def test_broken_laws_are_caught(change):
    planted = replace(LAW, **change)
    caught, alone = 0, 0
    for ensemble in range(10):
        test = law_test(ensemble_budgets(planted, WIDTHS, ensemble, 8), observable="velocity", window=INTERIOR)
        caught += test.p <= 0.05
        alone += test.p_by_width[0] <= 0.05
    assert caught >= 8
    if change.get("period") == math.log(2):
        assert alone <= 2


def test_an_ensemble_is_its_number():
    first, again = (outcomes(LAW, [TWO], INTERIOR, 3, runs=6) for _ in range(2))
    assert first == again
    seeds = [budget.attrs["seed"] for budget in ensemble_budgets(LAW, [TWO], 7, 4)[0]]
    assert seeds == [700, 701, 702, 703]


def test_power_grows_with_the_effect_and_the_runs():
    curve = power_curve(LAW, [TWO], INTERIOR, effect=[0.0, 0.05, 0.4], runs=[4, 6, 8], ensembles=5)
    assert curve.hits.dims == ("effect", "runs")
    assert (curve.share.sel(runs=4) == 0).all()
    assert float(curve.share.sel(effect=0.4, runs=8)) == 1
    assert float(curve.share.sel(effect=0.0, runs=8)) < 0.5
    assert (curve.low <= curve.share).all()
    assert (curve.share <= curve.high).all()
    one = power_curve(LAW, [TWO], INTERIOR, effect=[0.05], runs=[6], ensembles=5)
    assert one.share.item() == curve.share.sel(effect=0.05, runs=6)
    scales = power_curve(LAW, [TWO], INTERIOR, effect=[0.1], runs=[8], ensembles=2, kind="scale")
    assert scales.share.item() == 1
    assert scales.effect.attrs["units"] == "1/time"


def test_smoothing_damps_a_wiggle_as_the_normal_window_does():
    drift = PlantedShells(exponent=1.5, drift=0.3, wiggle=0.2)
    found = detection_limit(drift, INTERIOR, period=[0.7, 1.7, 3.0], smoothing=[0.1, 0.2, 0.4])
    assert np.allclose(found.damping, found.damping_theory, atol=1e-5)
    assert "share" not in found
    kernel = replace(LAW, wiggle=0.3)
    both = detection_limit(kernel, INTERIOR, period=[1.7], smoothing=[0.1, 0.9], ensembles=4)
    assert (both.damping < both.damping_theory).all()
    assert both.share.values[0, 0] == 1
    assert both.share.values[0, 1] < 1
    assert both.attrs["runs"] == 8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: coverage(LAW, [TWO], INTERIOR, ensembles=0), "ensembles=.*at least 1"),
        (lambda: coverage(LAW, [TWO], INTERIOR, seed=-1), "seed=.*at least 0"),
        (lambda: coverage(LAW, [TWO], INTERIOR, runs=101), r"coverage.runs=.* from 4 to 100, got 101"),
        (lambda: power_curve(LAW, [TWO], INTERIOR, effect=[0.1], runs=[8, 3]), r"power_curve.runs=.*got 3"),
        (lambda: power_curve(LAW, [TWO], INTERIOR, effect=[0.1], kind="noise"), "expected one of .'wiggle', 'scale'."),
        (lambda: power_curve(LAW, [TWO], INTERIOR, effect=[0.1], ensembles=0), "at least 1"),
        (lambda: detection_limit(LAW, INTERIOR, period=[1.0], smoothing=[0.1]), "use replace.planted, wiggle=.2."),
        (lambda: detection_limit(replace(LAW, wiggle=0.1), INTERIOR, period=[0.0], smoothing=[0.1]), "positive"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
