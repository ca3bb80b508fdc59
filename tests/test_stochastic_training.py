"""Notebook 11's study: flux and growth share where they are known, trainings to their levels, single steps."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import xarray as xr

from grsd.studies import stochastic_steps as single
from grsd.studies.stochastic_training import (
    LATE,
    LEVELS,
    Trainer,
    Training,
    growth_share,
    late_and_lazy,
    through,
    trained_history,
)

TINY = Training(width=8, depth=2, samples=16, batch=4, levels=(-0.2, -0.5))


def planted(flux, growth):
    """Budgets of one step whose transport between neighbours gives these fluxes."""

    def pairs(values):
        found = np.zeros((1, len(values) + 1, len(values) + 1))
        for lower, value in enumerate(values):
            found[0, lower + 1, lower], found[0, lower, lower + 1] = value, -value
        return ("step", "shell", "shell_from"), found

    upper = np.arange(len(flux) + 1.0)
    return xr.Dataset({"transport": pairs(flux), "growth": pairs(growth)}, {"shell_upper": ("shell", upper)})


def test_flux_is_what_the_shells_above_gain_from_those_below():
    rng = np.random.default_rng(0)
    pairs = rng.normal(size=(3, 6, 6))
    pairs = xr.DataArray(pairs - pairs.swapaxes(1, 2), dims=("step", "shell", "shell_from"))
    plain = np.stack([pairs.values[:, c:, :c].sum((1, 2)) for c in range(1, 6)], axis=1)
    assert np.allclose(through(pairs), plain, rtol=0, atol=1e-13)


def test_growth_share_where_it_is_known():
    growth = np.array([1.0, 2.0, 2.0, 0.5])
    assert growth_share(planted(-3 * growth, growth), (0,)) == pytest.approx(1)
    across = np.array([2.0, -1.0, 0.0, 0.0])
    assert growth_share(planted(across, growth), (0,)) == pytest.approx(0, abs=1e-15)
    both = growth / np.linalg.norm(growth) + 2 * across / np.linalg.norm(across)
    assert growth_share(planted(both, growth), (0,)) == pytest.approx(1 / 5)
    flat = np.ones(40)
    tilted = np.exp(np.arange(40.0))
    plain = tilted.sum() ** 2 / (40 * np.square(tilted).sum())
    assert growth_share(planted(flat, flat), (0,), tilt=1.0) == pytest.approx(plain)


@pytest.mark.parametrize(
    "training",
    [TINY, replace(TINY, optimizer="momentum"), replace(TINY, optimizer="adam", rate=0.01, loss="cross-entropy")],
    ids=lambda training: training.optimizer,
)
def test_a_training_stops_at_its_levels(training):
    found = trained_history(asdict(training))
    loss = found.loss.values
    assert (np.log(loss[1:] / loss[0]) <= np.array(training.levels)).all()
    assert (np.diff(found.steps) >= 0).all()
    change = found.energy_after - found.energy_before
    assert np.allclose(change, found.relaxation + found.transport.sum("shell_from"), rtol=0, atol=1e-13)
    assert 0 <= growth_share(found, (0, 1)) <= 1


def test_several_networks_are_those_of_their_seeds():
    levels = replace(TINY, levels=(-0.1, -0.2, -0.3, -0.4, -0.5, -0.6))
    found = late_and_lazy(asdict(levels) | {"networks": 2})
    second = trained_history(asdict(replace(levels, seed=1)))
    assert float(found.growth[1]) == growth_share(second, LATE)
    np.testing.assert_array_equal(found.laziness[1], second.laziness)


def test_a_training_that_diverges_says_so():
    with pytest.raises(RuntimeError, match=r"no loss of e\^-0.2 after \d+ steps"):
        trained_history(asdict(replace(TINY, rate=1e4)))


def test_batches_follow_from_the_seed_and_initial_networks_are_the_same_for_all_ways():
    one, other = (Trainer.start(replace(TINY, optimizer=name)) for name in ("sgd", "momentum"))
    for p, q in zip(one.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(p, q)
    for _, first, second in zip(range(3), one.batches(), other.batches(), strict=False):
        assert torch.equal(first, second)
        assert len(set(first.tolist())) == TINY.batch
    assert len(LEVELS) == 6


def test_partitions_use_every_sample_once():
    drawn = single.partitions(12, 4, 6, 0)
    for three in (drawn[:3], drawn[3:]):
        assert sorted(torch.cat(three).tolist()) == list(range(12))


def test_single_steps_cancel_over_a_partition_and_agree_with_the_expectation():
    spec = asdict(replace(TINY, levels=(-0.2,))) | {"draws": 40, "scale": 1.0}
    found = single.drawn_steps(spec)
    linear = np.abs(found.fluctuation.isel(draw=slice(0, 4)).mean("draw"))
    assert float(linear.max()) < 1e-10 * float(np.abs(found.fluctuation).max())
    assert float(np.abs(single.heating_z(found)).max()) < 4
    wrong = found.assign(expected=2 * found.expected)
    assert float(np.abs(single.heating_z(wrong)).max()) > 4


def test_halves_of_one_partition_are_one_draw():
    """With two parts the noise is opposite and the heating the same: the error counts them once."""
    found = single.drawn_steps(asdict(replace(TINY, batch=8)) | {"draws": 12, "scale": 1.0})
    assert found.partition.values.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    pairs = found.heating.values.reshape(6, 2, -1)
    assert np.allclose(pairs[:, 0], pairs[:, 1], rtol=1e-9, atol=0)
    mean, error = single.over_partitions(found.heating)
    assert np.allclose(mean, pairs[:, 0].mean(0))
    assert np.allclose(error, pairs[:, 0].std(0, ddof=1) / np.sqrt(6))


@pytest.mark.long
def test_a_cell_of_the_grid_has_the_order_of_the_rest_and_the_expected_heating():
    """Momentum by its actual step; Adam's has no expectation, its rest falls fourfold too."""
    grid = single.step_grid(single.Grid(("momentum", "adam"), (8,), (1.0,), partitions=6, few=3))
    assert np.abs(grid.order - 2).max() < 0.1
    z = (grid.heating - grid.expected) / grid.heating_error
    assert abs(z.sel(optimizer="momentum").item()) < 4
    assert bool(z.sel(optimizer="adam").isnull().all())
    assert all((grid[part] > 0).all() and (grid[f"{part}_error"] >= 0).all() for part in single.SIZES)
