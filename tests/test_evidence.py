import json
import math
import re
import subprocess
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import pytest

from grsd.evidence import (
    Claim,
    DecisionRule,
    Measurement,
    claims,
    confirm,
    judge,
    recheck,
    results,
    write_result,
)
from grsd.evidence.source import commit
from grsd.runs import Spec

RULE = DecisionRule("s", "at most", 0.1, "because", fails_beyond=0.3, fails_reason="because", seeds=8)
CLAIM = Claim("x", "A sentence.", "ours", rule=RULE)
SEEDS = tuple(range(1000, 1008))


@dataclass(frozen=True)
class Slope:
    """A protocol: what it says is what ``measure`` uses."""

    slope: float = 0.01
    depths: tuple[int, ...] = (4, 8)
    law: DecisionRule | None = None

    def measure(self, seed: int) -> float:
        return self.slope * (seed - 1000)


MEASURED = Measurement(Slope(), Slope.measure)


def constant(value):
    return Measurement(Slope(), lambda protocol, seed: value)


def test_committed_results_stand():
    """Verdicts recomputed from the stored values, under the committed rules, on confirmatory seeds."""
    known = claims()
    judged = results()
    assert judged
    for name, result in judged.items():
        claim = known[name]
        assert result.rule_hash == claim.hash
        assert min(result.seeds) >= 1000
        assert len(result.seeds) >= claim.judged.seeds
        assert "torch" in result.provenance["versions"]


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.0, 0.1), "holds"),
        ((0.05, 0.2), "inconclusive"),
        ((0.2, 0.25), "inconclusive"),
        ((0.2, 0.4), "inconclusive"),
        ((0.31, 0.4), "fails"),
        ((math.nan, 0.1), "inconclusive"),
        ((-math.inf, math.inf), "inconclusive"),
    ],
)
def test_verdicts(interval, verdict):
    assert RULE.verdict(*interval) == verdict
    mirrored = replace(RULE, direction="at least", threshold=-0.1, fails_beyond=-0.3)
    assert mirrored.verdict(-interval[1], -interval[0]) == verdict
    contains = replace(RULE, direction="contains", fails_beyond=None)
    assert contains.verdict(0.05, 0.2) == "holds"
    assert contains.verdict(0.15, 0.2) == "fails"
    assert replace(contains, widest=0.1).verdict(0.05, 0.2) == "inconclusive"


def test_intervals():
    sample = np.random.default_rng(0).normal(1.0, 2.0, 40)
    estimate, low, high = RULE.interval(sample)
    assert estimate == pytest.approx(sample.mean())
    half = 1.96 * sample.std(ddof=1) / math.sqrt(40)
    assert high - low == pytest.approx(2 * half, rel=0.1)
    assert low < estimate < high
    assert RULE.interval(sample) == (estimate, low, high)
    assert replace(RULE, summary="max").interval(sample) == (sample.max(),) * 3
    proportion = replace(RULE, summary="proportion").interval([1] * 38 + [0] * 2)
    assert proportion == pytest.approx((0.95, 0.8308, 0.9939), abs=1e-4)
    assert RULE.interval([0.05]) == (0.05, -math.inf, math.inf)
    assert RULE.interval([0.05] * 8) == (0.05, 0.05, 0.05)


def test_bootstrap_covers():
    """Means of 20 normal numbers: the 95 % interval covers about 95 % of the time."""
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(60):
        _, low, high = RULE.interval(generator.normal(0.0, 1.0, 20))
        hits += low <= 0 <= high
    assert hits >= 50


@pytest.mark.parametrize(
    ("seeds", "values", "message"),
    [
        ((0, *SEEDS[1:]), [0.0] * 8, r"judge\(x\): seed 0 is not confirmatory; a verdict needs seeds from 1000 on"),
        ((999, *SEEDS[1:]), [0.0] * 8, r"seed 999 is not confirmatory"),
        (SEEDS[:7], [0.0] * 7, r"expected at least 8 different seeds"),
        ((1001, *SEEDS[1:]), [0.0] * 8, r"expected at least 8 different seeds"),
        (SEEDS, [0.0] * 7, r"expected one value per seed, got 8 seeds and 7 values"),
    ],
)
def test_seeds_refused(seeds, values, message):
    with pytest.raises(ValueError, match=message):
        judge(CLAIM, seeds, values, {})


def test_results_cannot_be_bent(tmp_path):
    known = {"x": CLAIM}
    result = confirm(CLAIM, MEASURED)
    assert result.seeds == SEEDS
    assert result.verdict == "holds"
    path = write_result(result, tmp_path)
    assert results(tmp_path, known)["x"].verdict == "holds"
    stored = json.loads(path.read_text())
    moved = {"x": replace(CLAIM, rule=replace(RULE, threshold=0.2))}
    with pytest.raises(ValueError, match=r"x.json: the rule of x has changed since this result"):
        results(tmp_path, moved)
    reworded = {"x": replace(CLAIM, claim="Another sentence.", rule=replace(RULE, statistic="t", reason="b"))}
    assert results(tmp_path, reworded)["x"] == results(tmp_path, known)["x"]
    for change, message in (
        ({"verdict": "fails"}, "stored as fails, but its values give holds"),
        ({"high": 0.01}, "but its values give"),
        ({"values": [0.5] * 8}, "but its values give fails"),
        ({"seeds": list(range(8))}, "seed 0 is not confirmatory"),
        ({"claim": "y"}, "no claim 'y' in data/claims"),
    ):
        path.write_text(json.dumps(stored | change))
        with pytest.raises(ValueError, match=message):
            results(tmp_path, known)


def test_a_seed_without_a_value_leaves_no_verdict(tmp_path):
    """And is read back as it was stored."""
    path = write_result(
        confirm(CLAIM, Measurement(Slope(), lambda _, seed: math.nan if seed == 1003 else 0.0)), tmp_path
    )
    assert results(tmp_path, {"x": CLAIM})["x"].verdict == "inconclusive"
    path.write_text(path.read_text().replace("inconclusive", "holds"))
    with pytest.raises(ValueError, match="but its values give inconclusive"):
        results(tmp_path, {"x": CLAIM})


def test_a_repetition_looks_at_seeds_of_its_own():
    again = replace(CLAIM, rule=replace(RULE, first_seed=2000))
    result = confirm(again, constant(0.01))
    assert result.seeds == tuple(range(2000, 2008))
    assert again.hash != CLAIM.hash
    with pytest.raises(ValueError, match="seed 1000 is not confirmatory; a verdict needs seeds from 2000 on"):
        judge(again, SEEDS, [0.0] * 8, {})


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda stored: {},
            "x.json: expected carried_over_from, claim, estimate, high, low, protocol, provenance, rule_hash, seeds, v",
        ),
        (lambda stored: stored | {"more": 1}, "x.json: expected carried_over_from, claim, e"),
        (lambda stored: [stored], "x.json: expected a mapping, got [{"),
        (lambda stored: stored | {"seeds": "1000"}, "x.json: seeds: expected a list, got '1000'"),
        (lambda stored: stored | {"values": [None] * 8}, "x.json: values: expected a number, got None"),
        (lambda stored: stored | {"values": []}, "x.json: values: expected one per seed, got none"),
        (lambda stored: stored | {"low": "0"}, "x.json: low: expected a number, got '0'"),
        (lambda stored: stored | {"claim": "a\nb"}, r"x.json: no claim 'a\\nb' in data/claims"),
        (
            lambda stored: stored | {"provenance": {"versions": "torch"}},
            "x.json: provenance: expected texts versions, ",
        ),
    ],
)
def test_a_result_that_is_none_is_one_line(tmp_path, change, line):
    path = write_result(confirm(CLAIM, constant(0.01)), tmp_path)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=f"^{re.escape(line)}") as caught:
        results(tmp_path, {"x": CLAIM})
    assert "\n" not in str(caught.value)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"^x\.json: cannot be read as JSON: Expecting property name"):
        results(tmp_path, {"x": CLAIM})


@pytest.mark.parametrize(
    ("changed", "other"),
    [
        ({"id": "y"}, True),
        ({"measures": "z"}, True),
        ({"direction": "at least"}, True),
        ({"threshold": 0.2}, True),
        ({"fails_beyond": 0.4}, True),
        ({"summary": "median"}, True),
        ({"seeds": 9}, True),
        ({"first_seed": 1001}, True),
        ({"widest": 1.0}, True),
        ({"confidence": 0.9}, True),
        ({"claim": "Better words."}, False),
        ({"whose": "paper"}, False),
        ({"notebook": "02_b", "figure": "02_b-c", "headline": "h", "repeats": "w"}, False),
        ({"kind": "check", "no_power": "a surrogate passes"}, False),
        ({"statistic": "t", "reason": "r", "fails_reason": "r"}, False),
        ({"measures": "x"}, False),
    ],
)
def test_the_hash_covers_what_decides_and_no_words(changed, other):
    of_claim = {name: value for name, value in changed.items() if name in Claim.__dataclass_fields__}
    of_rule = {name: value for name, value in changed.items() if name not in of_claim}
    assert (replace(CLAIM, **of_claim, rule=replace(RULE, **of_rule)).hash != CLAIM.hash) is other
    assert of_claim.keys() | of_rule.keys() == changed.keys()


def test_every_field_of_a_rule_is_decided_on():
    """A field added to ``Claim`` or ``DecisionRule`` must be put on one side of the test above."""
    fields = Claim.__dataclass_fields__.keys() | DecisionRule.__dataclass_fields__.keys()
    (mark,) = test_the_hash_covers_what_decides_and_no_words.pytestmark
    assert {name for changed, _ in mark.args[1] for name in changed} | {"rule"} == fields


def test_what_ran_is_what_is_stored(tmp_path):
    measured = replace(MEASURED, protocol=Slope(0.02, law=RULE))
    result = results(write_result(confirm(CLAIM, measured), tmp_path).parent, {"x": CLAIM}, {"x": measured})["x"]
    assert result.values == tuple(0.02 * number for number in range(8))
    assert result.protocol["slope"] == 0.02
    assert result.protocol["depths"] == [4, 8]
    assert result.protocol["law"]["threshold"] == 0.1
    assert result.carried_over_from is None
    assert Measurement(Spec(depth=3), Slope.measure).settings == Spec(depth=3).to_dict()
    made = result.provenance
    assert "torch" in made["versions"]
    assert made["command"] == "grsd claims --confirm x"
    assert made["code"] == measured.code
    assert re.fullmatch("[0-9a-f]{64}", made["code"])
    assert re.fullmatch("unknown|[0-9a-f]{40}(-modified)?", made["commit"])
    for protocol, line in (
        (Slope(0.03, law=RULE), "slope was 0.02 and is 0.03 now"),
        (Slope(0.02, (4,), RULE), "depths was [4, 8] and is [4] now"),
        (MappingProxyType({"slope": 0.02}), "depths was [4, 8] and is absent now"),
    ):
        other = {"x": replace(measured, protocol=protocol)}
        with pytest.raises(
            ValueError, match=re.escape(f"x.json: its protocol has changed since it was measured: {line}")
        ):
            results(tmp_path, {"x": CLAIM}, other)
        assert results(tmp_path, {"x": CLAIM}, {"another": other["x"]})


@dataclass
class Thawed:
    slope: float = 0.01


@pytest.mark.parametrize(
    ("protocol", "line"),
    [
        ({"slope": 1}, "expected a frozen dataclass or a types.MappingProxyType of plain values, got dict"),
        (Slope, "expected a frozen dataclass or a types.MappingProxyType of plain values, got type"),
        (Thawed(), "protocol: Thawed is not a frozen dataclass"),
        (Slope(law=Thawed()), "protocol.law: Thawed is not a frozen dataclass"),
        (Slope(depths=[4, 8]), "protocol.depths=[4, 8]: expected None, a boolean"),
        (MappingProxyType({3: 4}), "protocol: expected names that are text, got 3"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_a_protocol_that_could_change_is_refused(protocol, line):
    with pytest.raises(TypeError, match=re.escape(f"Measurement(protocol=...): {line}")):
        Measurement(protocol, Slope.measure)


@pytest.mark.parametrize(
    ("summary", "stored", "today", "agrees"),
    [
        ("mean", 0.5, 0.5 * (1 + 0.9e-6), True),
        ("mean", 0.5, 0.5 * (1 + 1.1e-6), False),
        ("mean", 1e-12, 1.1e-12, False),
        ("max", 0.05, 0.05 + 0.9e-9, True),
        ("max", 0.05, 0.05 + 1.1e-9, False),
        ("max", 5.0, 5.0 + 4e-9, True),
        ("max", 1e-12, 3e-12, True),
        ("max", 0.1, 0.1 + 1e-12, False),
        ("min", math.nan, math.nan, True),
        ("mean", math.nan, 0.0, False),
        ("mean", math.inf, math.inf, True),
    ],
)
def test_one_seed_once_more(summary, stored, today, agrees):
    """Statistics to 1e-6 of the stored value; identities, which may be rounding alone, to 1e-9 on the same side."""
    claim = replace(CLAIM, rule=replace(RULE, summary=summary, threshold=0.1, fails_beyond=None))
    found = recheck(claim, judge(claim, SEEDS, [stored] * 8, {}, MEASURED.code), constant(today))
    assert found.agrees is agrees
    assert str(found).startswith(
        f"x, seed 1000: {'agrees' if agrees else 'differs'}: stored {stored!r}, today {today!r}, "
    )
    assert str(found).endswith("; other code than measured it")
    assert ("on the other side of the threshold" in str(found)) is (stored == 0.1)
    assert recheck(claim, judge(claim, SEEDS, [stored] * 8, {}, MEASURED.code), MEASURED).same_code


def test_which_commit_measures(tmp_path):
    """The package's own repository, and no other one around it."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@e"]
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("x = 1\n")
    assert commit(package) == "unknown"
    commit.cache_clear()
    subprocess.run([*git, "init", "-q"], check=True)
    assert commit(package) == "unknown", "not tracked"
    for words in (["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    commit.cache_clear()
    assert commit(package) == head
    (package / "__init__.py").write_text("x = 2\n")
    commit.cache_clear()
    assert commit(package) == f"{head}-modified"
    commit.cache_clear()


def test_results_of_before_say_where_they_come_from():
    """Carried over once: every stored result has the old hash, or the commit and the code that measured it."""
    for name, result in results().items():
        if result.carried_over_from is None:
            assert result.provenance["code"] != "unknown", name
        else:
            assert re.fullmatch("[0-9a-f]{64}", result.carried_over_from)
            assert re.fullmatch("[0-9a-f]{40}", result.provenance["stored_in"])
