"""Numbers at the ends of their range: right, or refused in one line; never NaN or infinity that no mask excuses."""

import math

import numpy as np
import pytest
import torch
import xarray as xr
from material import PLANTED, SHELLS, decomposed, flow

import grsd
from grsd import LogShells
from grsd.decomposition import Spectrum
from grsd.shells.windows import MOST_SHELLS

SIZE = 40
ENERGIES = ("energy", "dissipation", "density", "coupling", "scale_coupling", "flux", "flux_crossing")
UNITS = ("mask", "boundary_mask", "velocity", "drift", "effective_modes", "modes")


@pytest.fixture(scope="module")
def spread():
    """A kernel with its rate, both of modest condition, and an error."""
    generator = torch.Generator("cpu").manual_seed(0)
    draw = {"generator": generator, "dtype": torch.float64, "device": "cpu"}
    turn = torch.linalg.qr(torch.randn(SIZE, SIZE, **draw))[0]
    values = torch.linspace(-4, 0, SIZE, dtype=torch.float64, device="cpu").exp()
    rate = torch.randn(SIZE, SIZE, **draw)
    return (turn * values) @ turn.T, (rate + rate.T) / SIZE, torch.randn(SIZE, **draw)


def same(one: xr.DataArray, other: xr.DataArray) -> bool:
    return np.allclose(one, other, rtol=1e-12, atol=0, equal_nan=True)


@pytest.mark.parametrize("power", [-480, -300, 300, 480])
def test_energies_scale_with_the_square_of_any_error(spread, power):
    """Powers of two, so that nothing but the range can differ: the squares of 2^480 are no numbers in between."""
    kernel, rate, error = spread
    modes = grsd.spectrum(kernel, rate)
    plain, scaled = (grsd.energy_budget(modes, error * factor, SHELLS) for factor in (1.0, 2.0**power))
    for name in ENERGIES:
        assert same(scaled[name] / 2.0**power / 2.0**power, plain[name]), name
    for name in UNITS:
        assert same(scaled[name], plain[name]), name


@pytest.mark.parametrize("factor", [1e-308, 1e-200, 1e-155, 1e155, 1e200, 1e307])
def test_energies_out_of_range_are_refused(spread, factor):
    kernel, rate, error = spread
    with pytest.raises(
        ValueError, match=r"^energy_budget\(error=...\): the .* leaves the range of float64 for an error up to .*$"
    ):
        grsd.energy_budget(grsd.spectrum(kernel, rate), error * factor, SHELLS)


def test_float32_has_its_own_range(spread):
    kernel, rate, error = (item.float() for item in spread)
    modes = grsd.spectrum(kernel, rate)
    plain, scaled = (grsd.energy_budget(modes, error * factor, SHELLS) for factor in (1.0, 2.0**50))
    for name in ("energy", "flux", "coupling"):
        assert scaled[name].dtype == np.float32
        assert np.allclose(scaled[name] / 2.0**100, plain[name], rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="leaves the range of float32"):
        grsd.energy_budget(modes, error * 1e25, SHELLS)


def test_no_error_is_all_masked(spread):
    kernel, rate, error = spread
    budget = grsd.energy_budget(grsd.spectrum(kernel, rate), error * 0, SHELLS)
    assert (budget.energy == 0).all()
    assert (budget.mask != 0).all()
    assert (budget.boundary_mask != 0).all()


@pytest.mark.parametrize("factor", [1e-200, 1e200, 1e300])
def test_time_may_have_any_unit(spread, factor):
    """M and M' / M in units of time: relative velocities stay what they are."""
    kernel, rate, error = spread
    shells = [LogShells(1.0, 0.2, (low - 4.0, low)) for low in (0.0, math.log(factor))]
    one = grsd.energy_budget(grsd.spectrum(kernel, rate), error, shells[0])
    other = grsd.energy_budget(grsd.spectrum(kernel * factor, rate * factor), error, shells[1])
    low, high = float(one.boundary[1]), float(other.boundary[1])
    assert np.isfinite(other.velocity.values[other.boundary_mask.values == 0]).all()
    assert abs(high - low - math.log(factor)) < 1


@pytest.mark.parametrize("factor", [1e-310, 1e-300, 5e307])
def test_kernels_out_of_range_are_refused(spread, factor):
    big = torch.full((SIZE, SIZE), 1.0, dtype=torch.float64) + torch.eye(SIZE, dtype=torch.float64)
    with pytest.raises(
        ValueError, match=r"^spectrum\(kernel=...\): (the largest eigenvalue, .* leaves the range|found)"
    ):
        grsd.spectrum(big * factor)
    with pytest.raises(ValueError, match=r"^spectrum\(rate=...\): (in the eigenbasis it leaves the range|found)"):
        grsd.spectrum(big, big * 5e307)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eigenvalues": lambda v: v.flip(0)}, r"Spectrum\(eigenvalues=...\): expected ascending"),
        ({"eigenvalues": lambda v: v * math.nan}, r"Spectrum\(eigenvalues=...\): found NaN or infinity"),
        ({"rate": lambda r: r / 0}, r"Spectrum\(rate=...\): found NaN or infinity"),
        ({"eigenvectors": lambda v: v[:, :-1]}, r"Spectrum\(eigenvectors=...\): expected \(12, 12\), got \(12, 11\)"),
        ({"rate": lambda r: r.float()}, r"Spectrum\(rate=...\): expected torch.float64 on cpu, as the eigenvalues"),
        ({"floor": lambda f: -f}, r"Spectrum\(floor=...\): expected a positive finite number"),
        ({"floor": lambda f: 1e9}, r"Spectrum\(floor=...\): expected less than the largest eigenvalue"),
    ],
)
def test_a_spectrum_of_nonsense_is_refused(changes, message):
    whole = {name: getattr(decomposed(), name) for name in ("eigenvalues", "eigenvectors", "rate", "floor")}
    with pytest.raises((TypeError, ValueError), match=rf"^{message}"):
        Spectrum(**whole | {name: change(whole[name]) for name, change in changes.items()})


def test_a_shell_of_modes_under_the_floor_alone_is_masked():
    """Its drift is a mean over no mode."""
    values = torch.cat([torch.full((5,), 1e-12, dtype=torch.float64), torch.linspace(0.5, 2, 7, dtype=torch.float64)])
    identity = torch.eye(12, dtype=torch.float64)
    budget = grsd.energy_budget(
        Spectrum(values, identity, identity, 1e-6), torch.ones(12, dtype=torch.float64), LogShells(0.5, 0.01, (-3, 1))
    )
    assert np.isnan(budget.drift[0])
    assert budget.mask[0] == 1
    assert np.isfinite(budget.drift.values[budget.mask.values == 0]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 1e-300}, r"LogShells\(width=...\): expected a finite number of at least 1e-09, got 1e-300"),
        ({"width": 1e300}, r"LogShells\(width=...\): expected a finite number from 1e-09 to 1e\+06, got 1e\+300"),
        ({"smoothing": 1e-300}, r"LogShells\(smoothing=...\): expected a finite number of at least 1e-09"),
        ({"smoothing": 1e5}, r"LogShells\(smoothing=...\): .* takes 1.6e\+06 shells of width 1, at most 4096 are made"),
        ({"width": 1e-3, "span": (0, 10)}, r"LogShells\(span=...\): \[0, 10\] in log eigenvalue takes 1e\+04 shells"),
        ({"span": (0, 1e300)}, r"LogShells\(span=...\): expected log eigenvalues of at most 1e\+06 in size"),
    ],
)
def test_the_number_of_shells_is_bounded(arguments, message):
    with pytest.raises(ValueError, match=rf"^{message}"):
        LogShells(**{"width": 1.0} | arguments)


def test_shells_that_only_the_spectrum_makes_too_many():
    with pytest.raises(
        ValueError, match=r"^LogShells\(width=...\): .* shells of width 1e-05, at most 4096 are made: coup"
    ):
        grsd.energy_budget(decomposed(), torch.ones(12, dtype=torch.float64), LogShells(1e-5))
    span = LogShells(1e-2, span=(-20.0, 20.0))
    assert len(span.indices(0.0, 1.0)) == 4000 < MOST_SHELLS


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("step", [0, 0.0, -0.1, 1e-300, 1e300, math.nan, True, None])
def test_a_difference_needs_a_step(step):
    with pytest.raises(ValueError, match=r"^measured_energy_change\(step=...\): expected a (positive )?finite number"):
        grsd.measured_energy_change(flow(), 0, SHELLS, step=step)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("index", [4, -5, 0.5, None])
def test_a_snapshot_must_be_there(index):
    with pytest.raises(ValueError, match=r"^measured_energy_change\(index=...\): expected "):
        grsd.measured_energy_change(flow(), index, SHELLS)


def test_what_is_made_of_budgets_refuses_what_overflows():
    runs = PLANTED.budgets(range(3), SHELLS)
    for name in ("flux", "density"):
        for number in (math.nan, 1e155, 1e300):
            spoilt = runs[0].copy(deep=True)
            spoilt[name].values[spoilt.boundary_mask.values == 0] = number
            with pytest.raises(ValueError, match=rf"^velocity_over_runs\(budgets\): .*'{name}'"):
                grsd.velocity_over_runs([spoilt, *runs[1:]])
    still = grsd.locality(runs[0].assign(flux=runs[0].flux * 0))
    assert np.isnan(still.share).all(), "nothing flows: no share, and no infinity"
