from dataclasses import replace

import pytest

from grsd.evidence import claims, results, tables
from grsd.studies import confirm
from grsd.support.folders import project


def test_every_rule_has_its_measurement():
    judged = {claim.measurement for claim in claims().values() if claim.rule}
    assert judged - set(confirm.MEASUREMENTS) == set(), "no MEASUREMENTS of a file in grsd/studies has them"
    assert set(confirm.MEASUREMENTS) - judged == set(), "no claim in data/claims is judged by them"


def test_a_new_study_is_found_by_its_file(tmp_path, monkeypatch):
    """In a file or a folder of studies, without a list of them; one entry may not stand for two things."""
    for place in ("planets", "planets/outer"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "__init__.py").touch()
    (tmp_path / "planets/mars.py").write_text("TABLES = {'b': len}\n")
    (tmp_path / "planets/outer/saturn.py").write_text("from planets.mars import TABLES\nMEASUREMENTS = {'a': 1}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert confirm.gathered("TABLES", "planets") == {"b": len}
    assert confirm.gathered("MEASUREMENTS", "planets") == {"a": 1}
    (tmp_path / "planets/venus.py").write_text("TABLES = {'b': max}\n")
    line = r"^TABLES: 'b' stands in planets\.mars and, another one, in planets\.venus$"
    with pytest.raises(ValueError, match=line):
        confirm.gathered("TABLES", "planets")


def test_a_claim_that_nothing_measures_is_told_where_to_be_measured(monkeypatch):
    monkeypatch.delitem(confirm.MEASUREMENTS, "rigidity")
    line = "claim rigidity: nothing measures it; expected an entry 'rigidity' in MEASUREMENTS of a file in grsd/studies"
    for call in (confirm.confirm_claims, confirm.check_claims):
        with pytest.raises(ValueError, match=f"^{line}$"):
            call(["rigidity"])


def test_repetitions_measure_the_same():
    known = claims()
    for name, claim in known.items():
        if claim.repeats:
            before = known[claim.repeats]
            settings = [confirm.MEASUREMENTS[item.measurement].settings for item in (claim, before)]
            for block in ("runs", "first"):
                settings[0].pop(block, None), settings[1].pop(block, None)
            assert settings[0] == settings[1], name
            assert claim.judged.first_seed > before.judged.first_seed
            assert claim.judged.threshold == before.judged.threshold


def test_stored_results_were_measured_as_they_are_now(monkeypatch):
    """Every stored protocol is that of today's measurement; one other setting is refused, by whoever reads them all."""
    assert results(measurements=confirm.MEASUREMENTS).keys() == results().keys()
    measured = confirm.MEASUREMENTS["network-width-slope"]
    networks = replace(measured.protocol.networks, depth=7)
    deeper = replace(measured, protocol=replace(measured.protocol, networks=networks))
    monkeypatch.setitem(confirm.MEASUREMENTS, "network-width-slope", deeper)
    line = "network-width-slope.json: its protocol has changed since it was measured: "
    for call in (confirm.confirm_claims, lambda: confirm.check_claims(["budget-closes"])):
        with pytest.raises(ValueError, match=f"^{line}networks.depth was 4 and is 7 now; grsd claims"):
            call()


def test_every_table_is_made_by_a_study():
    stored = {path.stem for path in (project() / "data" / "tables").glob("*.csv")}
    assert stored == set(confirm.TABLES)
    with pytest.raises(
        ValueError, match=r"^write_table\(name\): expected one of 02_calibration-coverage, .* got 'guess'"
    ):
        confirm.write_table("guess")


def test_a_result_is_checked_by_one_seed():
    """The planted ensembles come out as ones and zeros, on any machine; code that nobody recorded is other code."""
    (found,) = confirm.check_claims(["second-width"])
    stored = results()["second-width"]
    assert (found.seed, found.stored) == (stored.seeds[0], stored.values[0])
    assert found.agrees
    assert not found.same_code
    for name, line in (("guess", "^no claim 'guess' in data/claims; grsd claims lists them$"), ("a\nb", r"'a\\nb'")):
        with pytest.raises(ValueError, match=line):
            confirm.check_claims([name])


def test_only_what_is_not_written_is_forecast(monkeypatch, tmp_path):
    """What is there is left alone."""
    monkeypatch.setattr(tables, "project", lambda: tmp_path)
    asked = []
    monkeypatch.setattr(confirm.forecasts, "forecast_networks", lambda seeds, of: asked.append((list(seeds), of.file)))
    monkeypatch.setattr(confirm.bottlenecks, "write_theories", lambda seeds: asked.append("theories"))
    monkeypatch.setattr(confirm.chain_exponents, "write_predictions", lambda: asked.append("chain"))
    folder = tmp_path / "data" / "predictions"
    folder.mkdir(parents=True)
    (folder / f"{confirm.forecasts.DIGITS.file}.csv").touch()
    confirm.forecast_claims()
    again = [(list(range(4000, 4024)), of.file) for of in confirm.forecasts.AGAIN.values()]
    assert asked == [(list(range(1000, 1008)), confirm.forecasts.PATCHES.file), *again, "theories", "chain"]


def test_what_is_written_is_not_forecast_again():
    """All files are committed, and so it is refused before anything is computed."""
    written = [*confirm.forecasts.DATA.values(), *confirm.forecasts.AGAIN.values()]
    files = [*(item.file for item in written), confirm.bottlenecks.FILE, confirm.chain_exponents.FILE]
    assert all(tables.path_of(file, "predictions").exists() for file in files)
    with pytest.raises(FileExistsError, match="forecasts once made are not made again"):
        confirm.forecast_claims()


def test_unknown_claims_are_refused_before_measuring():
    with pytest.raises(ValueError, match=r"^no claim 'guess' in data/claims; grsd claims lists them$"):
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
