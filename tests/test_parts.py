"""What the transport is made of: growth of the whole kernel, crossing beyond it, and rotation."""

import numpy as np
import pytest
import torch
import xarray as xr

import grsd
from grsd.shells import PARTS, LogShells, coupling_crossing, energy_budget, parts_over_runs, transport_parts
from grsd.solvable import DiagonalNet, PlantedShells

SHELLS, WINDOW = LogShells(1.0, 0.2), (-10.0, -2.0)


@pytest.fixture(scope="module")
def network():
    """Kernel, rate and error of a network on digits."""
    data = grsd.digits(40)
    model = grsd.Perceptron(64, 10, width=8, depth=3).double()
    with torch.no_grad():
        error = model(data.inputs) - data.targets
    return *grsd.tangent_kernel_and_rate(model, data.inputs, data.targets), error


def runs(count=6, **changed):
    settings = {"exponent": 1.5, "drift": 0.3, "rotation": 0.2, "scale": 0.2, "modes": 60}
    return PlantedShells(**settings | changed).budgets(range(count), LogShells(0.8, 0.2))


def same(parts, whole, tolerance=1e-12):
    assert np.allclose(parts, whole, rtol=0, atol=tolerance * float(np.abs(whole).max()))


@pytest.mark.parametrize("rate", [None, 0.7])
def test_parts_of_a_snapshot_add_up(network, rate):
    kernel, change, error = network
    modes = grsd.spectrum(kernel, change)
    budget = energy_budget(modes, error, SHELLS)
    found = transport_parts(budget, rate=rate, crossing=coupling_crossing(modes, error, SHELLS))
    same(found.flux.sum("part"), budget.flux)
    same(found.coupling_growth + found.coupling_beyond, budget.coupling)
    same(found.coupling_crossing + found.coupling_rotation, found.coupling_beyond)
    kept = budget.boundary_mask == 0
    same(found.velocity.sum("part").where(kept, 0), budget.velocity.where(kept, 0))
    assert float(found.share.sum()) == pytest.approx(1)
    assert "clock" not in found


def test_the_rate_is_that_of_least_squares(network):
    kernel, change, error = network
    budget = energy_budget(grsd.spectrum(kernel, change), error, SHELLS)
    found = transport_parts(budget, window=(-6.0, 3.0))
    kept = budget.isel(boundary=(budget.boundary_mask == 0).values).sel(boundary=slice(-6.0, 3.0))
    flux, density = kept.flux.values, kept.density.values
    r = np.linalg.lstsq(density[:, None], flux, rcond=None)[0][0]
    assert float(found.rate) == pytest.approx(r)
    left = np.square(flux - r * density).sum() / np.square(flux).sum()
    assert float(found.share.sel(part="growth")) == pytest.approx(1 - left)
    assert 0 < left < 1


def test_a_kernel_that_only_grows_is_all_growth(network):
    kernel, _, error = network
    modes = grsd.spectrum(kernel, 0.3 * kernel)
    found = transport_parts(energy_budget(modes, error, SHELLS), crossing=coupling_crossing(modes, error, SHELLS))
    assert float(found.rate) == pytest.approx(0.3, rel=1e-12)
    assert np.allclose(found.share, [1, 0, 0], atol=1e-12)
    largest = float(np.abs(found.coupling_growth).max())
    for name in ("coupling_beyond", "coupling_crossing", "coupling_rotation"):
        assert float(np.abs(found[name]).max()) < 1e-12 * largest


def test_crossing_of_couplings_is_that_of_fluxes(network):
    kernel, change, error = network
    modes = grsd.spectrum(kernel, change)
    budget, found = energy_budget(modes, error, SHELLS), coupling_crossing(modes, error, SHELLS)
    through = [found.values[c:, :c].sum() for c in range(1, len(found))]
    same(through, budget.flux_crossing)
    same(found.values, -found.values.T)


def test_a_diagonal_net_does_not_rotate():
    kernel, rate, error = DiagonalNet(3, a=1.5, start=0.05, modes=80).matrices(5.0)
    modes = grsd.spectrum(kernel, rate)
    budget, crossing = energy_budget(modes, error, SHELLS), coupling_crossing(modes, error, SHELLS)
    found = transport_parts(budget, crossing=crossing)
    largest = float(np.abs(budget.flux).max())
    assert float(np.abs(found.flux.sel(part="rotation")).max()) < 1e-12 * largest
    assert float(np.abs(found.flux.sel(part="crossing")).max()) > 0.01 * largest
    assert float(np.abs(found.coupling_rotation).max()) < 1e-12 * float(np.abs(budget.coupling).max())


def test_planted_rotation_and_growth_come_back():
    """Rotation from the population without drift; growth and rotation as planted, crossing zero."""
    turning = PlantedShells(exponent=1.5, rotation=0.2)
    growing = PlantedShells(exponent=1.5, rotation=0.2, scale=0.4)
    shells = LogShells(1.0, 0.2)
    rotation = energy_budget(*turning.population(), shells).flux
    budget = energy_budget(*growing.population(), shells)
    found = transport_parts(budget, rate=0.4)
    same(found.flux.sel(part="rotation"), rotation)
    assert np.allclose(found.velocity.sel(part="growth"), 0.4)
    assert float(np.abs(found.flux.sel(part="crossing")).max()) < 1e-12 * float(np.abs(rotation).max())


def test_a_run_is_split_time_by_time():
    model = PlantedShells(exponent=1.5, rotation=0.2, drift=0.1, scale=0.2, modes=30, span=(-6.0, 0.0))
    rows = [(t, energy_budget(m, e, SHELLS)) for t, m, e in model.trajectory(0, [0.5, 1.0, 2.0])]
    budgets = [row for _, row in rows]
    joined = xr.concat(budgets, dim=xr.DataArray([t for t, _ in rows], dims="time", name="time"), join="inner")
    wide = ["shell_index", "shell_lower", "shell_upper"]
    history = joined.assign_coords({name: budgets[0][name] for name in wide}).assign_attrs(budgets[0].attrs)
    found = transport_parts(history)
    same(found.flux.sum("part"), history.flux)
    same(found.coupling_growth + found.coupling_beyond, history.coupling)
    for time, budget in rows:
        alone = transport_parts(budget)
        assert np.allclose(found.flux.sel(time=time), alone.flux)
        assert float(found.clock.sel(time=time)) == pytest.approx(time * float(alone.rate))
    masked = history.assign(boundary_mask=history.boundary_mask.where(history.time > 0.6, 4))
    late = transport_parts(masked)
    assert late.rate.isnull().values.tolist() == [True, False, False]
    assert np.allclose(late.flux.isel(time=[1, 2]), found.flux.isel(time=[1, 2]))


def test_parts_summed_over_runs_add_up():
    budgets = [budget.assign(time=2.0 + seed) for seed, budget in enumerate(runs())]
    found = parts_over_runs(budgets, window=WINDOW)
    kept = [budget.sel({dim: found[dim].values for dim in ("boundary", "shell", "shell_from")}) for budget in budgets]
    flux, density = (sum(budget[name] for budget in kept) for name in ("flux", "density"))
    same(6 * found.flux.sum("part"), flux)
    same(found.velocity.sum("part"), flux / density)
    same(6 * (found.coupling_growth + found.coupling_beyond), sum(budget.coupling for budget in kept))
    assert float(found.share.sum()) == pytest.approx(1)
    assert np.allclose(found.clock, found.rate * (2.0 + np.arange(6)))
    assert (found.share_error > 0).all()
    grown = sum(float(r) * budget.density for r, budget in zip(found.rate, kept, strict=True))
    same(found.velocity.sel(part="growth"), grown / density)


def test_a_given_rate_is_every_runs():
    found = parts_over_runs(runs(drift=0.0, rotation=0.0, scale=0.2), rate=0.2)
    assert found.rate.shape == (6,)
    assert np.allclose(found.share, [1, 0, 0], atol=1e-12)
    assert np.allclose(found.velocity.sel(part="growth"), 0.2)


@pytest.mark.usefixtures("as_users_run_it")
def test_refusals(network):
    kernel, change, error = network
    modes, budgets = grsd.spectrum(kernel, change), runs(4)
    first, elsewhere = budgets[0], (5.0, 9.0)
    refusals = {
        "transport_parts(budget): expected an unmasked boundary in the window, got none": (
            lambda: transport_parts(first, window=elsewhere)
        ),
        "transport_parts(budget): 'scale_coupling' is missing; make the budget from grsd.spectrum(kernel, rate)": (
            lambda: transport_parts(first.drop_vars("scale_coupling"))
        ),
        "transport_parts(crossing=...): expected coupling_crossing(...) of the budget's one snapshot": (
            lambda: transport_parts(first, crossing=first.flux)
        ),
        "transport_parts(crossing=...): expected finite numbers on the budget's own shells": (
            lambda: transport_parts(first, crossing=coupling_crossing(modes, error, SHELLS))
        ),
        "transport_parts(budget): expected 'density' above 0 where nothing is masked": (
            lambda: transport_parts(first.assign(density=-first.density))
        ),
        "parts_over_runs(budgets): the runs have no unmasked boundary of the window in common": (
            lambda: parts_over_runs(budgets, window=elsewhere)
        ),
        "parts_over_runs(budgets): expected at least 4 runs, got 3": lambda: parts_over_runs(budgets[:3]),
        "coupling_crossing(spectrum=...): expected a spectrum with its rate, made by spectrum(kernel, rate)": (
            lambda: coupling_crossing(grsd.spectrum(kernel), error, SHELLS)
        ),
    }
    for line, wrong in refusals.items():
        with pytest.raises((TypeError, ValueError)) as refused:
            wrong()
        assert str(refused.value) == line
    assert PARTS == ("growth", "crossing", "rotation")
