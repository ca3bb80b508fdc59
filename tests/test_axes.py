"""Regression on power-law data: drawn and in theory, the axes, and what breaks them."""

import math

import numpy as np
import pytest
import xarray as xr

from grsd.solvable.regression import PowerLawRegression
from grsd.studies.power_law_scaling import axes

MODEL = PowerLawRegression(modes=1500)


@pytest.fixture(scope="module")
def run():
    return axes.losses(axes.Regression((4, 8, 16, 32, 64, 128), modes=1500, columns=256))


def test_gradient_descent_on_the_features_ends_where_the_closed_form_says():
    """Explicit Euler on the weights of the drawn features, from the definition."""
    model, size, seed = PowerLawRegression(1.5, 0.8, modes=40), 6, 5
    rng = np.random.default_rng([seed, size])
    matrix = rng.standard_normal((40, size)).T
    teacher = np.sqrt(model.power / model.eigenvalues) * rng.choice([-1.0, 1.0], 40)
    weights, step = np.zeros(size), 1e-3
    for _ in range(2000):
        gap = matrix.T @ weights / math.sqrt(size) - teacher
        weights -= step * matrix @ (model.eigenvalues * gap) / math.sqrt(size)
    gap = matrix.T @ weights / math.sqrt(size) - teacher
    assert model.features(size, [2.0], seed)[0] == pytest.approx(model.eigenvalues @ gap**2 / 2, rel=2e-3)
    assert model.features(size, [0.0], seed)[0] == pytest.approx(model.power.sum() / 2)


def test_theory_in_its_exact_limits():
    """At time 0 nothing is learnt; with many features K is the covariance; after all times the fixed point remains."""
    times = np.array([1e-6, 1.0, 30.0])
    exact = [(MODEL.power @ np.exp(-2 * MODEL.eigenvalues * time)) / 2 for time in times]
    assert MODEL.features_theory(1400, times)[:2] == pytest.approx(exact[:2], rel=3e-3)
    late = MODEL.features_theory(16, [1e9, math.inf])
    assert late[0] == pytest.approx(late[1], rel=1e-4)


def test_draws_follow_the_theory_and_a_wrong_one_is_refused(run):
    assert axes.theory_gap(run) < 0.1
    wrong = run.assign(features_theory=run.features_theory * 1.5, samples_theory=run.samples_theory * 1.5)
    assert axes.theory_gap(wrong) > 0.3


@pytest.mark.parametrize("r", [0.5, 1.0, 1.4])
def test_exponents_come_from_the_source(r):
    """The theory's own slopes, far out, for other teachers than the one of the claims."""
    model = PowerLawRegression(2.0, r, modes=100_000)
    sizes = np.array([256, 512, 1024])
    found = [model.features_theory(int(size), [math.inf])[0] for size in sizes]
    assert np.polyfit(np.log(sizes), np.log(found), 1)[0] == pytest.approx(model.exponents["model"], abs=0.07)
    found = [model.samples_theory(int(size)) for size in sizes]
    assert np.polyfit(np.log(sizes), np.log(found), 1)[0] == pytest.approx(model.exponents["data"], abs=0.07)


def test_slopes_and_axes(run):
    line = xr.DataArray([8.0, 2.0, 0.5], {"size": [1, 4, 16]}, ["size"])
    assert axes.slope(line) == pytest.approx(-1)
    table = axes.slope_table([run])
    assert table.predicted.values == pytest.approx([-1, -1, -0.5, -1 / 3])
    assert (np.abs(table.slope.isel(seed=0) - table.theory) < 0.15).all()
    assert axes.slope_error(run, "model") == pytest.approx(abs(float(table.slope.sel(axis="model")[0]) + 1))
    compute = axes.along(run, "compute")
    assert (np.diff(compute) < 0).all()
    with pytest.raises(ValueError, match="expected one of model, data, time, compute, got 'depth'"):
        axes.along(run, "depth")


def test_wider_networks_fit_better():
    small, large = (axes.width_losses(axes.Width(width, 0, samples=10, held_out=50, end=5.0)) for width in (2, 16))
    assert float(large.training) < float(small.training)
    assert float(large.held_out) > 0


def test_refusals():
    with pytest.raises(ValueError, match="expected more than 1 and than r = 2"):
        PowerLawRegression(1.5, 2.0)
    with pytest.raises(ValueError, match="expected fewer than the 1500 modes, got 1500"):
        MODEL.limit(1500)
