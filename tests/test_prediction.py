"""Loss curves predicted from early velocities, on models whose later loss is known."""

import math

import numpy as np
import pytest

from grsd.shells import LogShells
from grsd.solvable import DiagonalNet, LazyPowerLaw, ProjectedTwoLayer
from grsd.studies.power_law_scaling.exact import exact_history, forecasts
from grsd.theory import early, extended_fit, fitted_power_law, predict_loss, velocity_profile
from grsd.theory.prediction import NEEDED

SHELLS = LogShells(0.6, 0.2)
T1 = 1e3


@pytest.fixture(scope="module")
def projected():
    return exact_history(ProjectedTwoLayer(), T1 * np.geomspace(0.1, 10, 9), SHELLS)


def errors(found):
    end = found.isel(time=-1)
    return {name: abs(math.log(float(end[name] / end.loss))) for name in found if name != "loss"}


def test_feature_learning_is_forecast_and_lazy_is_not():
    found = errors(forecasts(ProjectedTwoLayer(), T1))
    assert found["covariant"] < 0.01
    assert found["power_law"] < 0.01
    assert found["lazy"] > 0.2


def test_covariance_without_a_power_law():
    """A diagonal network: Phi is no power, and the loss no straight line; only the covariant forecast has it."""
    found = errors(forecasts(DiagonalNet(2, a=1.1, d=0.2, start=0.1, modes=400), 40.0))
    assert found["covariant"] < 0.02
    assert min(found["lazy"], found["extended_fit"]) > 0.2
    assert found["power_law"] > 2 * found["covariant"]


def test_lazy_networks_stay_lazy():
    found = forecasts(LazyPowerLaw(1.05, 0.5, modes=400), 20.0, ahead=3.0)
    assert np.array_equal(found.covariant, found.lazy)
    assert errors(found)["lazy"] < 0.02
    assert np.isnan(found.power_law).all()


def test_the_future_is_not_seen(projected):
    """Later snapshots replaced by nonsense, even after the early part was taken: the same forecast, bit by bit."""
    later = projected.time.values[projected.time.values > 1.01 * T1]
    spoiled = projected.copy(deep=True)
    seen = early(spoiled, T1)
    assert seen.until == pytest.approx(T1)
    assert set(seen.history.data_vars) == set(NEEDED)
    honest = {
        kind: predict_loss(early(projected, T1), later, kind).values for kind in ("covariant", "power law", "lazy")
    }
    for name in NEEDED:
        values = spoiled[name].values
        values[projected.time.values > 1.01 * T1] = 77
        values[0] = values[0]
    for kind, forecast in honest.items():
        assert np.array_equal(predict_loss(seen, later, kind), forecast)
        assert np.array_equal(predict_loss(early(spoiled, T1), later, kind), forecast)
    assert np.array_equal(extended_fit(seen, later), extended_fit(early(projected, T1), later))
    other = early(projected, projected.time.values[-2])
    assert not np.array_equal(predict_loss(other, [1e4]), honest["covariant"][-1:])


def test_the_forecast_starts_where_the_past_ends(projected):
    seen = early(projected, T1)
    assert predict_loss(seen, [seen.until])[0] == pytest.approx(float(seen.history.loss[-1]), rel=1e-9)


def test_profile_and_fit(projected):
    profile = velocity_profile(early(projected, T1))
    model = ProjectedTwoLayer()
    assert profile.phi == pytest.approx(T1 * model.relative_velocity(T1), rel=0.02)
    law = fitted_power_law(profile)
    assert (law.b, law.c) == (pytest.approx(1, abs=0.01), pytest.approx(1 / 3, rel=0.1))
    assert profile(np.array([-50.0]), T1)[0] == profile.phi[0] / T1


def test_any_velocity_is_taken(projected):
    seen = early(projected, T1)
    by_hand = predict_loss(seen, [3 * T1], lambda s, t: 0 * s)
    assert np.array_equal(by_hand, predict_loss(seen, [3 * T1], "lazy"))


def test_refusals(projected):
    seen = early(projected, T1)
    with pytest.raises(ValueError, match=r"expected the variables of shell_history, flux missing"):
        early(projected.drop_vars("flux"), T1)
    with pytest.raises(ValueError, match="at least 2 snapshots up to then, got 1"):
        early(projected, 100.0)
    with pytest.raises(ValueError, match="expected times from t1 = 1000 on, got 10"):
        predict_loss(seen, [10.0])
    with pytest.raises(ValueError, match="expected one of"):
        predict_loss(seen, [T1], "psychic")
    masked = projected.copy(deep=True)
    masked["boundary_mask"] = masked.boundary_mask + 1
    with pytest.raises(ValueError, match="every boundary is masked"):
        predict_loss(early(masked, T1), [2 * T1])
    turned = projected.copy(deep=True)
    turned["flux"] = turned.flux * np.sign(turned.boundary + 10)
    with pytest.raises(ValueError, match="of one sign"):
        fitted_power_law(velocity_profile(early(turned, T1)))
