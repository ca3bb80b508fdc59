"""Forecasts of networks: written from the early part alone, once, and scored as they should be."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from grsd import Spec
from grsd.evidence import results, tables
from grsd.studies.power_law_scaling import forecasts
from grsd.theory import early, running_clock, velocity_profile
from grsd.theory.prediction import NEEDED

SMALL = Spec(architecture="plain", width=8, depth=2, samples=12, seed=3, data_seed=3)


@pytest.fixture(scope="module")
def seen_run():
    return forecasts.early_run(SMALL)


@pytest.fixture
def here(monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "project", lambda: tmp_path)
    return tmp_path / "data" / "predictions" / f"{forecasts.DATA['digits'].file}.csv"


def test_the_early_run_ends_where_the_loss_has_halved(seen_run):
    descent, _ = forecasts._begun(SMALL)
    half = descent.row()["loss"] / 2
    assert float(seen_run.loss[-1]) <= half < float(seen_run.loss[-2])
    assert np.log(float(seen_run.time[-1] / seen_run.time[0])) + np.log(forecasts.STEP) >= 1


def test_the_later_run_goes_on(seen_run):
    until = float(seen_run.time[-1])
    later = forecasts.later_run(SMALL.to_dict() | {"until": until})
    assert later.time.values == pytest.approx(until * forecasts.AHEAD)
    assert float(later.loss[0]) < float(seen_run.loss[-1])


def test_what_is_written_cannot_depend_on_later_losses(seen_run, here):
    """A history with nonsense after t1, before or after the early part is taken: the same bytes. An honest change of
    what was seen changes them."""
    t1 = float(seen_run.time[-2])
    spoiled = seen_run.copy(deep=True)
    before = early(spoiled, t1)
    for name in NEEDED:
        spoiled[name].values[-1] = 77
    changed = seen_run.copy(deep=True)
    changed["flux"] = changed.flux * 3
    written = []
    for seen in (early(seen_run, t1), before, early(spoiled, t1), early(changed, t1)):
        forecasts.write_forecasts({("plain", "one-hot", 3): seen})
        written.append(here.read_bytes())
        here.unlink()
    assert written[0] == written[1] == written[2] != written[3]
    assert b"versions" in written[0]


def test_a_whole_history_is_refused_and_nothing_is_written_twice(seen_run, here):
    with pytest.raises(TypeError, match="Early"):
        forecasts.write_forecasts({("plain", "one-hot", 3): seen_run})
    assert not here.exists()
    forecasts.write_forecasts({("plain", "one-hot", 3): forecasts.everything(seen_run)})
    with pytest.raises(FileExistsError, match="forecasts once made are not made again"):
        forecasts.write_forecasts({("plain", "one-hot", 3): forecasts.everything(seen_run)})
    with pytest.raises(FileExistsError):
        forecasts.forecast_networks(range(1000, 1001))


def test_scores_tell_the_methods_apart():
    """xarray's sel has a keyword called method; the dimension must be meant."""
    truth = xr.DataArray([1.0, 0.5], {"ahead": [2.0, 4.0]}, ["ahead"])
    factors = xr.DataArray([1.0, 2.0, np.nan], {"method": ["covariant", "lazy", "power law"]}, ["method"])
    found = forecasts.score(factors * truth, truth)
    assert forecasts._of(found, "covariant") == 0
    assert forecasts._of(found, "lazy") == pytest.approx(np.log(2))
    assert np.isnan(forecasts._of(found, "power law"))


def test_growth_alone_forecasts_a_kernel_that_only_grows(seen_run):
    """Where t u is one number, growth is the covariant forecast; where it is not, the two differ."""
    grown = seen_run.copy(deep=True)
    grown["flux"] = (0.4 / grown.time) * grown.density
    seen = forecasts.everything(grown)
    found = forecasts.forecast(seen).loss
    growth, covariant, lazy = (found.sel({"method": name}).values for name in ("growth", "covariant", "lazy"))
    assert running_clock(velocity_profile(seen)).c == pytest.approx(0.4, rel=1e-6)
    assert growth == pytest.approx(covariant, rel=1e-6)
    assert (growth < lazy).all()
    grown["flux"] = grown.flux * np.exp(0.3 * grown.boundary)
    found = forecasts.forecast(forecasts.everything(grown)).loss
    assert abs(found.sel({"method": "growth"}) / found.sel({"method": "covariant"}) - 1).max() > 1e-3


@pytest.mark.parametrize(
    ("claim", "table", "task", "rival"),
    [
        ("forecast-plain-parity", "09_power_law_scaling-forecasts", "parity", "lazy"),
        ("forecast-patches-plain-photograph", "09_power_law_scaling-forecasts-patches", "photograph", "lazy"),
        ("forecast-patches-plain-profile", "09_power_law_scaling-forecasts-patches", "photograph", "power law"),
    ],
)
def test_a_stored_result_follows_from_the_stored_table(claim, table, task, rival):
    part = tables.read_table(table).score.sel(architecture="plain", task=task)
    gap = (part.sel({"method": "covariant"}) - part.sel({"method": rival})).values
    assert gap == pytest.approx(results()[claim].values)


@pytest.mark.parametrize("data", forecasts.DATA)
@pytest.mark.parametrize("again", [False, True])
def test_the_written_forecasts_are_complete(data, again):
    of = (forecasts.AGAIN if again else forecasts.DATA)[data]
    written = tables.read_table(of.file, forecasts.FOLDER)
    assert written.seed.values.tolist() == list(range(4000, 4024) if again else range(1000, 1008))
    assert set(written.task.values) == set(of.names)
    assert set(written.method.values) == set(forecasts.METHODS) - (set() if again else {"growth"})
    for method in ("covariant", "lazy", "straight line"):
        assert (written.loss.sel({"method": method}) > 0).all()


def test_another_data_set_is_another_row():
    tiny = replace(forecasts.PATCHES.spec("residual", "pixel", 0), width=4, depth=2, samples=6)
    descent, _ = forecasts._begun(tiny)
    assert tuple(descent.inputs.shape) == (6, 63)
