import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from grsd.evidence import (
    Claim,
    Rule,
    claims,
    claims_table,
    confirm,
    headline_table,
    headlines,
    judge,
    results,
    verdict_lines,
    write_headlines,
    write_result,
)
from grsd.support.folders import project

RULE = Rule("s", "at most", 0.1, "because", fails_beyond=0.3, fails_reason="because", seeds=8)
CLAIM = Claim("x", "A sentence.", "ours", rule=RULE)
SEEDS = tuple(range(1000, 1008))


def test_committed_claims():
    found = claims()
    assert {claim.whose for claim in found.values()} == {"paper", "ours"}
    for claim in found.values():
        if claim.notebook:
            assert (project() / "notebooks" / f"{claim.notebook}.ipynb").is_file()
            assert len(claim.judged.reason.split()) > 8
        if claim.figure:
            assert claim.figure.startswith(f"{claim.notebook}-")
            assert (project() / "figures" / f"{claim.figure}.svg").is_file()


def test_committed_results_stand():
    """Verdicts recomputed from the stored values, under the committed rules, on confirmatory seeds."""
    judged = results()
    assert judged
    for name, result in judged.items():
        claim = claims()[name]
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
        (SEEDS, [0.0] * 7, r"expected one value a seed, got 8 seeds and 7 values"),
    ],
)
def test_seeds_refused(seeds, values, message):
    with pytest.raises(ValueError, match=message):
        judge(CLAIM, seeds, values, {})


def test_results_cannot_be_bent(tmp_path):
    known = {"x": CLAIM}
    result = confirm(CLAIM, lambda seed: 0.01 * (seed - 1000), {"depth": 8})
    assert result.seeds == SEEDS
    assert result.verdict == "holds"
    path = write_result(result, tmp_path)
    assert results(tmp_path, known)["x"].verdict == "holds"
    stored = json.loads(path.read_text())
    moved = {"x": replace(CLAIM, rule=replace(RULE, threshold=0.2))}
    with pytest.raises(ValueError, match=r"x.json: the rule of x has changed since this result"):
        results(tmp_path, moved)
    reworded = {"x": replace(CLAIM, claim="Another sentence.")}
    with pytest.raises(ValueError, match="has changed since"):
        results(tmp_path, reworded)
    for change, message in (
        ({"verdict": "fails"}, "stored as fails, but its values give holds"),
        ({"high": 0.01}, "but its values give"),
        ({"values": [0.5] * 8}, "but its values give fails"),
        ({"seeds": list(range(8))}, "seed 0 is not confirmatory"),
        ({"claim": "y"}, "no claim 'y' in data/claims.yaml"),
    ):
        path.write_text(json.dumps(stored | change))
        with pytest.raises(ValueError, match=message):
            results(tmp_path, known)


def test_a_seed_without_a_value_leaves_no_verdict(tmp_path):
    """And is read back as it was stored."""
    path = write_result(confirm(CLAIM, lambda seed: math.nan if seed == 1003 else 0.0, {}), tmp_path)
    assert results(tmp_path, {"x": CLAIM})["x"].verdict == "inconclusive"
    path.write_text(path.read_text().replace("inconclusive", "holds"))
    with pytest.raises(ValueError, match="but its values give inconclusive"):
        results(tmp_path, {"x": CLAIM})


def test_tables():
    judged = {"x": confirm(CLAIM, lambda seed: 0.01 * (seed - 1000), {})}
    known = {"x": CLAIM, "y": Claim("y", "Unknown.", "paper")}
    table = claims_table(known, judged)
    assert "holds: 0.035 [0.0188, 0.05" in table
    assert "| Unknown. | paper |  | not examined yet |  |" in table
    lines = verdict_lines(known, judged)
    assert lines[0].startswith("x (ours): holds: 0.035 [")
    assert lines[2:] == ["y (paper): not examined yet", "    Unknown."]
    assert verdict_lines(known, {})[0] == "x (ours): a rule, and no result yet"
    assert verdict_lines({"x": replace(CLAIM, notebook="01_x")}, {})[0] == "x (ours): a rule, and no result yet"


def test_a_repetition_looks_at_seeds_of_its_own():
    again = replace(CLAIM, rule=replace(RULE, first_seed=2000))
    result = confirm(again, lambda seed: 1e-5 * seed, {})
    assert result.seeds == tuple(range(2000, 2008))
    assert again.hash != CLAIM.hash
    with pytest.raises(ValueError, match="seed 1000 is not confirmatory; a verdict needs seeds from 2000 on"):
        judge(again, SEEDS, [0.0] * 8, {})


def test_headlines_in_the_readme(tmp_path):
    """The committed table is what the committed results give; an edited one is put right; no marks, no table."""
    committed = project() / "README.md"
    copy = tmp_path / "README.md"
    copy.write_text(committed.read_text(encoding="utf-8").replace("**holds**", "**certain**"), encoding="utf-8")
    write_headlines(copy, claims(), results())
    assert copy.read_text(encoding="utf-8") == committed.read_text(encoding="utf-8")
    shown = headlines(claims(), results())
    assert len(headline_table(claims(), results()).splitlines()) == 2 + len(shown) > 4
    copy.write_text("nothing here")
    with pytest.raises(ValueError, match="expected the marks"):
        write_headlines(copy, claims(), results())


GOOD = "statistic: s, direction: at most, threshold: 1.0"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{id: a, claim: b}", "claim a: expected claim, id, whose"),
        ("{id: a, claim: b, whose: ours, verdict: holds}", "claim a: expected claim, id, whose and fields of"),
        ("{id: a, claim: b, whose: theirs}", "claim a: whose is 'theirs'"),
        (f"{{id: a, claim: b, whose: ours, rule: {{{GOOD}}}}}", "claim a: rule: expected direction, reason"),
        (f"{{id: a, claim: b, whose: ours, rule: {{{GOOD}, reason: ''}}}}", "every threshold needs its reason"),
        (f"{{id: a, claim: b, whose: ours, rule: {{{GOOD}, reason: r, fails_beyond: 2}}}}", "every threshold needs"),
        (f"{{id: a, claim: b, whose: ours, rule: {{{GOOD}, reason: r, summary: mode}}}}", "summary one of"),
        ("{id: a, claim: b, whose: ours}\n- {id: a, claim: b, whose: ours}", "claim a stands twice"),
    ],
)
def test_malformed_claims_are_named(tmp_path, entry, message):
    path = tmp_path / "claims.yaml"
    path.write_text(f"claims:\n- {entry}\n")
    with pytest.raises(ValueError, match=message):
        claims(path)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", "claims.yaml: expected a list of claims under 'claims:', each with id, claim and whose"),
        ("claims: {a: b}", "claims.yaml: expected a list of claims under 'claims:', each with id, claim and whose"),
        ("claims: [3]", "claims.yaml: expected a list of claims under 'claims:', each with id, claim and whose"),
        ("claims:\n- {id: 3, claim: b, whose: ours}", "claims.yaml: claim 3: id: expected text, got 3"),
        ("claims:\n- {id: ../a, claim: b, whose: ours}", "claims.yaml: claim ../a: id: expected small letters"),
        ("claims:\n- {id: a, claim: [b], whose: ours}", "claims.yaml: claim a: claim: expected text, got ['b']"),
        ("claims:\n- {id: a, claim: b, whose: ours, rule: 3}", "claims.yaml: claim a: rule: expected a mapping or"),
        (
            f"claims:\n- {{id: a, claim: b, whose: ours, rule: {{{GOOD}, reason: r, seeds: few}}}}",
            "claims.yaml: claim a: rule: seeds: expected a whole number, got 'few'",
        ),
        (
            f"claims:\n- {{id: a, claim: b, whose: ours, rule: {{{GOOD}, reason: r, confidence: 95}}}}",
            "claims.yaml: claim a: rule: expected a finite threshold, a confidence between 0 and 1, and seeds",
        ),
        ("claims: [", "claims.yaml: cannot be read as YAML: while parsing a flow node"),
        ("claims: !!python/object:os.system {}", "claims.yaml: cannot be read as YAML: could not determine a constr"),
    ],
)
def test_a_file_that_holds_no_claims_is_one_line(tmp_path, content, line):
    (tmp_path / "claims.yaml").write_text(content)
    with pytest.raises(ValueError, match=f"^{re.escape(line)}") as caught:
        claims(tmp_path / "claims.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda stored: {},
            "x.json: expected claim, estimate, high, low, provenance, rule_hash, seeds, v",
        ),
        (lambda stored: stored | {"more": 1}, "x.json: expected claim, estimate"),
        (lambda stored: [stored], "x.json: expected a mapping, got [{"),
        (lambda stored: stored | {"seeds": "1000"}, "x.json: seeds: expected a list, got '1000'"),
        (lambda stored: stored | {"values": [None] * 8}, "x.json: values: expected a number, got None"),
        (lambda stored: stored | {"values": []}, "x.json: values: expected one a seed, got none"),
        (lambda stored: stored | {"low": "0"}, "x.json: low: expected a number, got '0'"),
        (lambda stored: stored | {"claim": "a\nb"}, r"x.json: no claim 'a\\nb' in data/claims.yaml"),
    ],
)
def test_a_result_that_is_none_is_one_line(tmp_path, change, line):
    path = write_result(confirm(CLAIM, lambda seed: 0.01, {}), tmp_path)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=f"^{re.escape(line)}") as caught:
        results(tmp_path, {"x": CLAIM})
    assert "\n" not in str(caught.value)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"^x\.json: cannot be read as JSON: Expecting property name"):
        results(tmp_path, {"x": CLAIM})
