import pytest

from grsd import confirm
from grsd.evidence import claims, results


def test_every_rule_has_its_measurement():
    ruled = {name for name, claim in claims().items() if claim.rule}
    assert set(confirm.MEASUREMENTS) == ruled


def test_repetitions_measure_the_same():
    for name, claim in claims().items():
        if claim.repeats:
            again, before = (dict(confirm.MEASUREMENTS[item].parameters) for item in (name, claim.repeats))
            assert again | {"runs": before.get("runs")} == before | {"runs": before.get("runs")}, name
            assert claim.judged.first_seed > claims()[claim.repeats].judged.first_seed
            assert claim.judged.threshold == claims()[claim.repeats].judged.threshold


def test_stored_results_were_measured_as_they_are_now():
    for name, result in results().items():
        for parameter, value in confirm.MEASUREMENTS[name].parameters.items():
            stored = result.provenance[parameter]
            assert stored == value or stored == str(value), f"{name}: {parameter} has changed since the result"


def test_unknown_claims_are_refused_before_measuring():
    with pytest.raises(ValueError, match="no measurement for claim 'guess'; there are budget-closes"):
        confirm.confirm_claims(["guess"])


def test_one_stored_value_comes_out_again():
    """The first confirmatory seed, measured anew: the same size, rounding being what it measures."""
    stored = results()["coupling-antisymmetric"]
    again = confirm.MEASUREMENTS["coupling-antisymmetric"].measure(stored.seeds[0])
    assert stored.values[0] / 10 < again < stored.values[0] * 10


def test_planted_ensembles_give_ones_and_zeros():
    for name in ("coverage-b", "second-width"):
        measurement = confirm.MEASUREMENTS[name]
        assert measurement.measure(0) in {0.0, 1.0}
        assert measurement.parameters["runs"] == 8
        assert claims()[name].judged.summary == "proportion"
