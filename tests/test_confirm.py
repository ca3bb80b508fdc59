import pytest

from grsd import confirm
from grsd.confirm import command
from grsd.evidence import claims, results, tables


def test_every_rule_has_its_measurement():
    assert set(confirm.MEASUREMENTS) == {claim.measurement for claim in claims().values() if claim.rule}


def test_repetitions_measure_the_same():
    known = claims()
    for name, claim in known.items():
        if claim.repeats:
            before = known[claim.repeats]
            settings = [confirm.MEASUREMENTS[item.measurement].settings for item in (claim, before)]
            runs = {"runs": settings[1].get("runs")}
            assert settings[0] | runs == settings[1] | runs, name
            assert claim.judged.first_seed > before.judged.first_seed
            assert claim.judged.threshold == before.judged.threshold


def test_stored_results_were_measured_as_they_are_now(monkeypatch):
    """Every stored protocol is that of today's measurement; one other setting is refused, by whoever reads them all."""
    assert results(measurements=confirm.MEASUREMENTS).keys() == results().keys()
    measured = confirm.MEASUREMENTS["network-width-slope"]
    deeper = confirm.Measurement(measured.measure, measured.parameters | {"depth": 7})
    monkeypatch.setitem(command.MEASUREMENTS, "network-width-slope", deeper)
    line = "network-width-slope.json: its protocol has changed since it was measured: depth was "
    for call in (confirm.confirm_claims, lambda: confirm.check_claims(["budget-closes"])):
        with pytest.raises(ValueError, match=f"^{line}.* and is 7 now; grsd claims --confirm network-width-slope$"):
            call()


def test_the_older_way_to_write_a_measurement():
    """Settings as provenance holds them, and a function of the seed alone."""
    measured = confirm.Measurement(lambda seed: seed / 2, {"depth": 8, "residual": True, "limit": None, "rate": 0.5})
    assert measured.value(3) == measured.measure(3) == 1.5
    assert measured.settings == measured.parameters
    assert measured.settings == {"depth": 8, "residual": "True", "limit": "None", "rate": 0.5}


def test_a_result_is_checked_by_one_seed():
    """The planted ensembles come out as ones and zeros, on any machine; code that nobody recorded is other code."""
    (found,) = confirm.check_claims(["second-width"])
    stored = results()["second-width"]
    assert (found.seed, found.stored) == (stored.seeds[0], stored.values[0])
    assert found.agrees
    assert not found.same_code
    for name, line in (("guess", "no measurement for claim 'guess'; there are budget-closes"), ("a\nb", r"'a\\nb'")):
        with pytest.raises(ValueError, match=line):
            confirm.check_claims([name])


def test_only_what_is_not_written_is_forecast(monkeypatch, tmp_path):
    """What is there is left alone."""
    monkeypatch.setattr(tables, "project", lambda: tmp_path)
    asked = []
    monkeypatch.setattr(command.networks, "forecast_networks", lambda seeds, data: asked.append((list(seeds), data)))
    monkeypatch.setattr(command.bottlenecks, "write_theories", lambda seeds: asked.append("theories"))
    folder = tmp_path / "data" / "predictions"
    folder.mkdir(parents=True)
    (folder / f"{command.networks.DATA['digits'].file}.csv").touch()
    confirm.forecast_claims()
    assert asked == [(list(range(1000, 1008)), "patches"), "theories"]


def test_what_is_written_is_not_forecast_again():
    """All three files are committed, and so it is refused before anything is computed."""
    files = [*(item.file for item in command.networks.DATA.values()), command.bottlenecks.FILE]
    assert all(tables.path_of(file, "predictions").exists() for file in files)
    with pytest.raises(FileExistsError, match="forecasts once made are not made again"):
        confirm.forecast_claims()


def test_unknown_claims_are_refused_before_measuring():
    with pytest.raises(ValueError, match="no measurement for claim 'guess'; there are budget-closes"):
        confirm.confirm_claims(["guess"])


def test_one_stored_value_comes_out_again():
    """The first confirmatory seed, measured anew: the same size, rounding being what it measures."""
    stored = results()["coupling-antisymmetric"]
    again = confirm.MEASUREMENTS["coupling-antisymmetric"].value(stored.seeds[0])
    assert stored.values[0] / 10 < again < stored.values[0] * 10


def test_planted_ensembles_give_ones_and_zeros():
    for name in ("coverage-b", "second-width"):
        measurement = confirm.MEASUREMENTS[name]
        assert measurement.value(0) in {0.0, 1.0}
        assert measurement.settings["runs"] == 8
        assert claims()[name].judged.summary == "proportion"
