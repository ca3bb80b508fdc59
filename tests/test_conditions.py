"""The cases and what is drawn of them; each condition has tests of its own in test_evolution and test_invariance."""

import numpy as np
import pytest
import xarray as xr

from grsd.conditions import CONDITIONS, Condition, evolution
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
    judged = type("Judged", (), {"estimate": 0.5})()
    without = tuple(np.linspace(0.4, 0.6, 8))
    plain, residual = (stages.EARLY.block(name, 4, 1000) for name in ("plain", "residual"))
    monkeypatch.setattr(log_shift_invariance, "judged", lambda _: (judged, without))
    values = [log_shift_invariance.defect(plain, seed) for seed in range(1000, 1008)]
    assert np.isclose(np.mean(values), 8 * 0.5 - 7 * np.mean(without))
    assert values[0] == 8 * 0.5 - 7 * 0.4
    assert log_shift_invariance.contrast(log_shift_invariance.Contrast(plain, residual), 1003) == 0


def test_a_table_of_slopes(monkeypatch):
    rng, runs = np.random.default_rng(0), []
    for seed in range(4):
        for depth in (2, 3):
            rates = np.array([[1.0], [2.0]]) * np.exp(0.1 * rng.standard_normal((2, 3)))
            data = dict.fromkeys(("t_rho", "t_omega"), (("time", "shell"), rates))
            coords = {"time": [1.0, 10.0], "shell": [-2.0, -1.0, 0.0]}
            runs.append(xr.Dataset(data, coords, {"depth": depth, "seed": seed}))
    monkeypatch.setattr(jacobian_evolution, "of_specs", lambda condition, _, **options: {evolution: runs}[condition])
    slopes = jacobian_evolution.slope_table(jacobian_evolution.NETWORK, [2, 3], range(4))
    assert ((slopes.low <= slopes.slope) & (slopes.slope <= slopes.high)).all()
    assert np.allclose(slopes.slope.sel(of="time"), np.log10(2), atol=0.1)
    assert slopes.attrs["verdict_plain"] == "inconclusive", "four seeds decide nothing"


@pytest.mark.parametrize("name", CONDITIONS)
def test_each_condition_is_its_module(name):
    assert isinstance(CONDITIONS[name], Condition)
    assert CONDITIONS[name].__name__ == f"grsd.conditions.{name}"
    assert CONDITIONS[name].reads in {"start", "flow", "history"}


def test_a_run_that_is_past_the_loss_is_watched_from_earlier_on(monkeypatch):
    runs = [xr.Dataset({"loss": ("time", [first, 0.01]), "start_loss": 1.0}) for first in (0.5, 0.07)]
    monkeypatch.setattr(stages, "ensemble", lambda specs, **_: [runs[spec.seed == 2003] for spec in specs])
    monkeypatch.setattr(
        stages, "of_specs", lambda _, specs, log_loss: [xr.Dataset({"start": spec.times[0]}) for spec in specs]
    )
    found = stages.LATE.block("residual", 16, 2000).measure()
    assert [float(run.start) for run in found] == [12.0] * 3 + [3.0] + [12.0] * 20
