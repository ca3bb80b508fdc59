"""The cases and what is drawn of them; each condition has tests of its own in test_evolution and test_invariance."""

import importlib

import numpy as np
import pytest
import xarray as xr

from grsd.conditions import evolution, invariance
from grsd.laws.profile import profile
from grsd.studies import jacobian_evolution, log_shift_invariance, stages


def points(values, seeds):
    size = len(values)
    data = {name: ("point", np.asarray(values, float)) for name in ("t_rho", "t_omega")}
    coords = {"time": ("point", [1.0, 10.0] * (size // 2)), "shell": ("point", [0.0] * size)}
    coords |= {"depth": ("point", [4] * size), "seed": ("point", seeds)}
    return xr.Dataset(data, coords)


def test_profile_is_a_geometric_mean_with_its_error_over_seeds():
    found = profile(points([1, 2, 4, 8], [0, 0, 1, 1]), "time")
    assert np.allclose(found.centre.values, [[2, 4]])
    assert np.allclose(np.log(found.factor.values), np.log(4) / 2)
    with pytest.raises(ValueError, match='expected "time" or "shell", got \'depth\''):
        profile(points([1, 2], [0, 0]), "depth")


def test_a_profile_of_one_seed_has_no_error():
    assert np.isnan(profile(points([1, 2], [0, 0]), "time").centre).all()


def test_pseudo_values_average_to_the_bias_corrected_defect(monkeypatch):
    judged = type("Judged", (), {"defect": 0.5})()
    without = tuple(np.linspace(0.4, 0.6, 8))
    plain, residual = (stages.EARLY.block(name, 4, 1000) for name in ("plain", "residual"))
    monkeypatch.setattr(log_shift_invariance, "judged", lambda _: (judged, without))
    values = [log_shift_invariance.defect(plain, seed) for seed in range(1000, 1008)]
    assert np.isclose(np.mean(values), 8 * 0.5 - 7 * np.mean(without))
    assert values[0] == 8 * 0.5 - 7 * 0.4
    assert log_shift_invariance.contrast(log_shift_invariance.Contrast(plain, residual), 1003) == 0


def test_a_table_of_slopes(monkeypatch):
    noise = np.exp(0.1 * np.random.default_rng(0).standard_normal(16))
    measured = points(np.tile([1, 2], 8) * noise, np.repeat(np.arange(4), 4))
    coords = {"shell": ("point", np.arange(16) % 5), "depth": ("point", np.arange(16) // 2 % 2 + 2)}
    measured = measured.assign_coords(coords)
    monkeypatch.setattr(evolution, "measure", lambda specs: measured)
    slopes = jacobian_evolution.slope_table(jacobian_evolution.NETWORK, [2, 3], range(4))
    assert ((slopes.low <= slopes.slope) & (slopes.slope <= slopes.high)).all()
    assert np.allclose(slopes.slope.sel(of="time"), np.log10(2), atol=0.1)
    assert slopes.attrs["verdict_plain"] == "inconclusive", "four seeds decide nothing"


@pytest.mark.parametrize("name", ["propagation", "incoherence", "evolution", "invariance"])
def test_each_condition_measures_and_judges(name):
    module = importlib.import_module(f"grsd.conditions.{name}")
    assert callable(module.measure)
    assert callable(module.judge)


def test_a_run_that_is_past_the_loss_is_watched_from_earlier_on(monkeypatch):
    runs = [xr.Dataset({"loss": ("time", [first, 0.01]), "start_loss": 1.0}) for first in (0.5, 0.07)]
    monkeypatch.setattr(stages, "ensemble", lambda specs, **_: [runs[spec.seed == 2003] for spec in specs])
    monkeypatch.setattr(
        invariance, "measure", lambda specs, log_loss: xr.Dataset({"start": ("run", [s.times[0] for s in specs])})
    )
    assert stages.LATE.block("residual", 16, 2000).measure().start.values.tolist() == [12.0] * 3 + [3.0] + [12.0] * 20
