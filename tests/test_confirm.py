import pytest

from grsd import tables
from grsd.evidence import claims, results
from grsd.studies import confirm


def test_every_rule_has_its_measurement():
    ruled = {name for name, claim in claims().items() if claim.rule}
    assert set(confirm.MEASUREMENTS) == ruled


def test_repetitions_measure_the_same():
    for name, claim in claims().items():
        if claim.repeats:
            again, before = (confirm.MEASUREMENTS[item].settings for item in (name, claim.repeats))
            assert again | {"runs": before.get("runs")} == before | {"runs": before.get("runs")}, name
            assert claim.judged.first_seed > claims()[claim.repeats].judged.first_seed
            assert claim.judged.threshold == claims()[claim.repeats].judged.threshold


def test_stored_results_were_measured_as_they_are_now():
    for name, result in results().items():
        for parameter, value in confirm.MEASUREMENTS[name].parameters.items():
            stored = result.provenance[parameter]
            assert stored == value or stored == str(value), f"{name}: {parameter} has changed since the result"


def test_only_what_is_not_written_is_forecast(monkeypatch, tmp_path):
    """What is there is left alone."""
    monkeypatch.setattr(tables, "project", lambda: tmp_path)
    asked = []
    monkeypatch.setattr(confirm.forecasts, "forecast_networks", lambda seeds, of: asked.append((list(seeds), of.file)))
    monkeypatch.setattr(confirm.bottlenecks, "write_theories", lambda seeds: asked.append("theories"))
    folder = tmp_path / "data" / "predictions"
    folder.mkdir(parents=True)
    (folder / f"{confirm.forecasts.DIGITS.file}.csv").touch()
    confirm.forecast_claims()
    assert asked == [(list(range(1000, 1008)), confirm.forecasts.PATCHES.file), "theories"]


def test_what_is_written_is_not_forecast_again():
    """All three files are committed, and so it is refused before anything is computed."""
    files = [*(item.file for item in confirm.forecasts.DATA.values()), confirm.bottlenecks.FILE]
    assert all(tables.path_of(file, "predictions").exists() for file in files)
    with pytest.raises(FileExistsError, match="forecasts once made are not made again"):
        confirm.forecast_claims()


def test_unknown_claims_are_refused_before_measuring():
    with pytest.raises(ValueError, match="no measurement for claim 'guess'; there are budget-closes"):
        confirm.confirm_claims(["guess"])


def test_one_stored_value_comes_out_again():
    """The first confirmatory seed, measured anew: the same size, rounding being what it measures."""
    stored = results()["coupling-antisymmetric"]
    again = confirm.MEASUREMENTS["coupling-antisymmetric"](stored.seeds[0])
    assert stored.values[0] / 10 < again < stored.values[0] * 10


def test_planted_ensembles_give_ones_and_zeros():
    for name in ("coverage-b", "second-width"):
        measurement = confirm.MEASUREMENTS[name]
        assert measurement.measure(0) in {0.0, 1.0}
        assert measurement.parameters["runs"] == 8
        assert claims()[name].judged.summary == "proportion"
