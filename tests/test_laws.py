import math
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from scipy.optimize import least_squares

from grsd.laws import coupling_law, law_test, observe, resampled, velocity_law
from grsd.laws.coupling import couplings
from grsd.laws.velocity import velocities
from grsd.shells import LogShells, energy_budget, velocity_over_runs
from grsd.solvable import PlantedShells

TWO, THREE = LogShells(math.log(2), 0.1), LogShells(math.log(3), 0.1)
PLANTED = PlantedShells(exponent=1.5, drift=0.3, rotation=0.1, reach=0.5)
WINDOW = (-10.0, -2.0)


def synthetic(seed, *, runs=8, b=1.4, c=0.3, kappa=(0.5, -0.2), r=0.0, noise=0.1, wave=0.0, period=1.7, h=1.0):
    """Budgets that follow the law directly, without modes: flux and coupling written down, Gaussian noise."""
    rng = np.random.default_rng(seed)
    index = np.arange(-12, 1)
    centre, boundary = (index + 0.5) * h, index[1:] * h
    budgets = []
    for _ in range(runs):
        energy = np.exp(0.3 * centre + 0.3 * rng.standard_normal(len(index)))
        density = np.exp(0.3 * boundary + 0.3 * rng.standard_normal(len(boundary)))
        factor = 1 + wave * np.cos(2 * np.pi * boundary / period) + noise * rng.standard_normal(len(boundary))
        coupling = np.zeros((len(index), len(index)))
        for k, value in enumerate(kappa, 1):
            middle = (centre[k:] + centre[:-k]) / 2
            part = value * np.exp((b - 1) * middle) * (1 + noise * rng.standard_normal(len(middle)))
            part = part * np.sqrt(energy[k:] * energy[:-k])
            coupling += np.diag(part + r * density * (k == 1) if k == 1 else part, -k)
        data = {
            "energy": ("shell", energy),
            "mask": ("shell", np.zeros(len(index), int)),
            "density": ("boundary", density),
            "flux": ("boundary", density * (r + c * np.exp((b - 1) * boundary) * factor)),
            "boundary_mask": ("boundary", np.zeros(len(boundary), int)),
            "coupling": (("shell", "shell_from"), coupling - coupling.T),
        }
        coords = {"shell_index": ("shell", index), "boundary": boundary, "shell": centre}
        budgets.append(xr.Dataset(data, coords=coords, attrs={"shell_width": h, "smoothing": 0.1}))
    return budgets


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("b", [0.3, 1.6])
def test_noiseless_laws_come_back(b, scale):
    r = 0.05 if scale else 0.0
    budgets = synthetic(0, b=b, r=r, noise=0.0)
    velocity = velocity_law(budgets, scale=scale, reference=0.0)
    coupling = coupling_law(budgets, scale=scale, reference=0.0)
    assert velocity.exponent == pytest.approx(b, abs=1e-5)
    assert coupling.exponent == pytest.approx(b, abs=1e-5)
    assert velocity.amplitudes == pytest.approx([0.3], rel=1e-4)
    assert coupling.amplitudes == pytest.approx([0.5, -0.2], rel=1e-4)
    assert np.allclose(velocity.fitted, velocity.values, rtol=1e-5)
    assert velocity.degrees_of_freedom == 7
    assert velocity.conclusive
    if scale:
        assert velocity.scale == pytest.approx(r, rel=1e-3)
        assert coupling.scale == pytest.approx(r, rel=1e-3)
    else:
        assert velocity.scale is None


def test_one_fit_by_an_independent_route():
    """The fit against scipy's least squares with the same weights; the velocity against the ratio of sums."""
    budgets = synthetic(3, noise=0.3)
    fit = velocity_law(budgets, window=WINDOW)
    kept = [item.sel(boundary=slice(*WINDOW)) for item in budgets]
    u = sum(item.flux.values for item in kept) / sum(item.density.values for item in kept)
    assert np.allclose(fit.values, u)
    x = fit.positions - fit.reference
    found = least_squares(
        lambda p: (u - p[0] * np.exp((p[1] - 1) * x)) / fit.standard_errors, [0.1, 1.0], xtol=1e-14, ftol=1e-14
    )
    assert fit.exponent == pytest.approx(found.x[1], abs=1e-5)
    assert fit.amplitudes[0] == pytest.approx(found.x[0], rel=1e-4)


def test_couplings_are_means_of_the_runs_own():
    budgets = PLANTED.budgets(range(5), TWO)
    fit = coupling_law(budgets, k_max=1, window=WINDOW)
    own = [item.coupling.values / np.sqrt(np.outer(item.energy, item.energy)) for item in budgets]
    middle = (budgets[0].shell.values[1:] + budgets[0].shell.values[:-1]) / 2
    expected = np.diag(np.mean(own, 0), -1)[np.isin(middle.round(9), fit.positions.round(9))]
    assert np.allclose(fit.values, expected)
    assert set(fit.separations) == {1}
    assert fit.positions.min() - TWO.width >= WINDOW[0] - 1e-9


def test_departures_need_no_ratio_of_one_run():
    """About the pooled velocity they sum to zero over runs, whatever single densities do."""
    budgets = PLANTED.budgets(range(5), TWO)
    velocity = velocities("test", budgets, scale=False, window=WINDOW)
    departures = velocity.departures(velocity.y[0])
    assert np.abs(departures.sum(0)).max() < 1e-12 * np.abs(departures).max()
    pooled = velocity_over_runs(budgets).sel(boundary=velocity.x)
    assert np.allclose(velocity.y[0], pooled.velocity)
    assert np.allclose(np.sqrt(np.square(departures).sum(0) / (5 * 4)), pooled.standard_error)
    coupling = couplings("test", budgets, k_max=1, scale=False, window=WINDOW)
    assert np.array_equal(coupling.departures(0 * coupling.x), coupling.numerator)


def test_the_mean_budget_gives_what_was_planted():
    budgets = [energy_budget(*PLANTED.population(), TWO)] * 4
    assert velocity_law(budgets, window=WINDOW).exponent == pytest.approx(1.5, abs=1e-4)
    assert coupling_law(budgets, window=WINDOW).exponent == pytest.approx(1.5, abs=1e-5)
    scaled = [energy_budget(*replace(PLANTED, scale=0.05).population(), TWO)] * 4
    for law in (velocity_law, coupling_law):
        fit = law(scaled, scale=True, window=WINDOW)
        assert fit.exponent == pytest.approx(1.5, abs=2e-3)
        assert fit.scale == pytest.approx(0.05, rel=1e-2)


def test_intervals_cover():
    """Gaussian noise, 200 ensembles of 8: the exact 99 % binomial interval of each coverage contains .95."""
    hits = np.zeros(5, int)
    for seed in range(200):
        budgets = synthetic(seed, noise=0.3)
        velocity, coupling = velocity_law(budgets, reference=-6.0), coupling_law(budgets, reference=-6.0)
        shrink = math.exp(-6 * 0.4)
        low, high = np.transpose([velocity.exponent_interval, velocity.log_amplitude_intervals[0]])
        hits[:2] += (low <= [1.4, math.log(0.3 * shrink)]) & ([1.4, math.log(0.3 * shrink)] <= high)
        hits[2] += coupling.exponent_interval[0] <= 1.4 <= coupling.exponent_interval[1]
        hits[3] += coupling.contains([0.5 * shrink, -0.2 * shrink])
        low, high = coupling.amplitude_intervals[1]
        hits[4] += low <= -0.2 * shrink <= high
    for count in hits:
        interval = stats.binomtest(int(count), 200).proportion_ci(0.99, method="exact")
        assert interval.low <= 0.95 <= interval.high, hits


def test_the_joint_region():
    fit = coupling_law(synthetic(1), k_max=2)
    assert fit.contains(fit.amplitudes)
    assert fit.distance(fit.amplitudes) == 0
    assert fit.region == pytest.approx(2 * 7 / 6 * stats.f.ppf(0.95, 2, 6))
    assert not fit.contains(fit.amplitudes * [1, -1])
    with pytest.raises(ValueError, match="expected 2 numbers"):
        fit.contains([1.0])


def test_a_scale_near_the_flat_law_is_inconclusive():
    assert not velocity_law(synthetic(2, b=1.02, r=0.05), scale=True).conclusive
    assert velocity_law(synthetic(2, b=1.6, r=0.05, noise=0.02), scale=True).conclusive


@pytest.mark.long
def test_rejection_under_the_law_and_power():
    rejected, caught = 0, 0
    for seed in range(120):
        rejected += law_test(synthetic(seed, noise=0.2), observable="velocity").p <= 0.05
        caught += law_test(synthetic(seed, noise=0.2, wave=0.2), observable="velocity").p <= 0.05
    interval = stats.binomtest(int(rejected), 120).proportion_ci(0.99, method="exact")
    assert interval.low <= 0.05 <= interval.high
    assert caught >= 114


def test_a_period_of_one_width_needs_the_second():
    coarse = [synthetic(5, noise=0.1, wave=0.3, period=1.0)]
    assert law_test(coarse, observable="velocity").p > 0.05
    both = [*coarse, synthetic(5, noise=0.1, wave=0.3, period=1.0, h=0.8)]
    test = law_test(both, observable="velocity")
    assert test.p <= 0.05
    assert test.p_by_width[0] > 0.05 >= test.p_by_width[1]
    assert test.observations == sum(len(fit.positions) for fit in test.fits)
    assert test.parameters == 4


def test_the_defect_is_unbiased():
    """.02 = A^2 / 2 of the square is planted, beside ten times as much noise, which the naive share would count."""
    found = [law_test(synthetic(seed, noise=0.4, wave=0.2), observable="velocity").defect for seed in range(80)]
    none = [law_test(synthetic(seed, noise=0.4), observable="velocity").defect for seed in range(80)]
    error = np.std(none) / math.sqrt(80)
    assert abs(np.mean(none)) < 4 * error
    assert 0.013 < np.mean(found) < 0.022


def test_scale_is_part_of_the_law_only_when_asked():
    budgets = synthetic(4, r=0.05, noise=0.05)
    for observable in ("velocity", "coupling"):
        assert law_test(budgets, observable=observable).p <= 0.05
        assert law_test(budgets, observable=observable, scale=True).p > 0.05


def test_many_runs_draw_their_signs():
    test = law_test(synthetic(0, runs=16), observable="velocity")
    assert test.flips == 4096
    assert test.p == law_test(synthetic(0, runs=16), observable="velocity").p
    assert law_test(synthetic(0, runs=6), observable="velocity").flips == 32


def test_runs_over_different_spans_share_what_is_common():
    budgets = PLANTED.budgets(range(6), LogShells(math.log(2), 0.1))
    wide = [
        energy_budget(*PLANTED.run(seed), LogShells(math.log(2), 0.1, span=(-14.0, 1.0)) if seed % 2 else TWO)
        for seed in range(6)
    ]
    assert velocity_law(wide, window=WINDOW).exponent == pytest.approx(velocity_law(budgets, window=WINDOW).exponent)
    assert coupling_law(wide, window=WINDOW).exponent == pytest.approx(coupling_law(budgets, window=WINDOW).exponent)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b: velocity_law(b[:3]), "at least 4 runs, got 3"),
        (lambda b: velocity_law(b, window=(0.0, -1.0)), "low < high"),
        (lambda b: velocity_law(b, window=(-3.0, -2.0)), "2 unmasked values in the window for 2 parameters"),
        (lambda b: velocity_law(b, level=1.0), "between 0 and 1"),
        (lambda b: coupling_law(b, k_max=0), "whole number of at least 1"),
        (lambda b: coupling_law(b, k_max=8), "fewer than the 8 runs, got 8"),
        (lambda b: coupling_law(b, k_max=2, window=(-3.0, -1.0)), "no unmasked pair of shells for some separation"),
        (lambda b: law_test(b, observable="energy"), "expected one of .'coupling', 'velocity'."),
        (lambda b: law_test([b, b[:7]]), "same number of runs at every width"),
        (lambda b: velocity_law([b[0].drop_vars("coupling"), *b[1:]]), "with a rate"),
        (lambda b: velocity_law([b[0].assign_attrs(smoothing=0.2), *b[1:]]), "one shell width and one smoothing"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call(synthetic(0))


def test_resampled_runs_have_the_mean_and_covariance_of_the_measured_ones():
    observed = observe([synthetic(3, noise=0.4, runs=10)] * 2, observable="velocity")
    many = resampled("velocity", observed, 4000, 0)
    for item, drawn in zip(observed, many, strict=True):
        departures = item.departures(item.y[0])
        covariance = np.cov(departures.T)
        assert drawn.y[0] == pytest.approx(item.y[0], abs=5 * math.sqrt(covariance.max() / 4000))
        assert np.cov(drawn.numerator.T) == pytest.approx(covariance, abs=6 * covariance.max() / math.sqrt(4000))
    assert many[0].numerator == pytest.approx(many[1].numerator), "one draw for all widths"
    law = resampled("velocity", observed, 4000, 0, lawful=True)[0]
    fitted = velocity_law(synthetic(3, noise=0.4, runs=10)).fitted
    assert law.y[0] == pytest.approx(fitted, abs=5 * math.sqrt(covariance.max() / 4000))
    with pytest.raises(ValueError, match="without a scale"):
        resampled("velocity", observe(synthetic(3), observable="velocity", scale=True), 8, 0)
    with pytest.raises(ValueError, match="resampled"):
        resampled("velocity", observed, 3, 0)
