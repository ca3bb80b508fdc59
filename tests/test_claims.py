import json
import math
import re
from dataclasses import replace

import pytest

from grsd.evidence import (
    Claim,
    DecisionRule,
    Finding,
    attempts,
    claims,
    claims_table,
    counted,
    findings_list,
    headline_table,
    headlines,
    judge,
    made_by,
    of_notebook,
    results,
    terminal_lines,
    verdict_lines,
    verdict_of,
    verdict_table,
    write_findings,
)
from grsd.evidence.findings import with_times
from grsd.support.folders import project

RULE = DecisionRule("s", "at most", 0.1, "because", fails_beyond=0.3, fails_reason="because", seeds=8)
CLAIM = Claim("x", "A sentence.", "ours", rule=RULE)


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


def test_tables():
    judged = {"x": judge(CLAIM, range(1000, 1008), [0.01 * number for number in range(8)], {})}
    known = {"x": CLAIM, "y": Claim("y", "Unknown.", "paper")}
    table = claims_table(known, judged)
    assert "holds: 0.035 [0.0188, 0.05" in table
    assert "| Unknown. | paper |  | not examined yet |  |" in table
    rows = verdict_table(known | {"z": replace(CLAIM, id="z", claim="Where |b - 1| < .1.")}, judged).splitlines()
    assert re.match(
        r"\| A sentence. `x` \| ours \| \*\*holds\*\* \| 0.035 \[0.0188, .*\] \| at most 0.1 \| 8 \|$", rows[2]
    )
    assert rows[3:] == [
        "| Unknown. `y` | paper | not examined yet |  |  |  |",
        r"| Where \|b - 1\| < .1. `z` | ours | a rule, and no result yet |  | at most 0.1 |  |",
    ]
    lines = verdict_lines(known, judged)
    assert lines[0].startswith("x (ours): holds: 0.035 [")
    assert lines[2:] == ["y (paper): not examined yet", "    Unknown."]
    assert verdict_lines(known, {})[0] == "x (ours): a rule, and no result yet"
    assert verdict_lines({"x": replace(CLAIM, notebook="01_x")}, {})[0] == "x (ours): a rule, and no result yet"


def test_a_sign_that_separates_cells_stays_in_its_cell():
    """|b - 1| in a sentence: every row of every table of the committed claims has as many cells as the head."""
    known, judged = claims(), results()
    assert any("|" in claim.claim for claim in known.values())
    for table in (claims_table(known, judged), verdict_table(known, judged), headline_table(known, judged)):
        rows = [line for line in table.splitlines() if line.startswith("|")]
        cells = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
        assert len(cells) == 1, cells


@pytest.mark.parametrize(
    ("rule", "interval", "seeds", "said"),
    [
        (RULE, (0.05, -0.06, 0.16), 8, "needs about 31 more seeds, if the estimate stays"),
        (RULE, (0.35, 0.24, 0.46), 8, "needs about 31 more seeds, if the estimate stays"),
        (RULE, (0.2, 0.15, 0.25), 8, "no number of seeds decides, if the estimate stays"),
        (RULE, (0.05, 0.0, 0.09), 8, ""),
        (RULE, (0.05, 0.0, 0.09), 3, "needs about 5 more seeds, if the estimate stays"),
        (RULE, (0.05, -math.inf, math.inf), 8, ""),
        (RULE, (math.nan, math.nan, math.nan), 8, ""),
        (replace(RULE, direction="at least", fails_beyond=0.05), (0.15, 0.04, 0.26), 8, "needs about 31 more seeds"),
        (replace(RULE, direction="contains", widest=0.2), (0.1, -0.12, 0.32), 8, "needs about 31 more seeds"),
        (replace(RULE, summary="max"), (0.2, 0.2, 0.2), 8, ""),
    ],
)
def test_an_inconclusive_answer_says_how_many_more_seeds(rule, interval, seeds, said):
    found = rule.needs(*interval, seeds)
    assert found.startswith(said)
    assert bool(found) == bool(said)


def test_the_terminal_says_how_many_more_seeds_an_inconclusive_claim_needs():
    values = [0.02, 0.3, 0.1, 0.02, 0.0, 0.05, 0.01, 0.02]
    judged = {"x": judge(CLAIM, range(1000, 1008), values, {})}
    assert judged["x"].verdict == "inconclusive"
    text = " ".join(" ".join(terminal_lines({"x": CLAIM}, judged)).split())
    assert re.search(r"8 seeds; needs about \d+ more seeds, if the estimate stays; made by", text)
    powerless = replace(CLAIM, no_power="It says nothing.")
    assert "more seeds" not in " ".join(terminal_lines({"x": powerless}, judged))


def test_lines_of_a_terminal():
    """Within 80 columns, with the commit that measured and the count of verdicts."""
    known = claims()
    judged = results()
    lines = terminal_lines(known, judged)
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    for claim in known.values():
        assert claim.claim in text
        said = verdict_of(claim, judged[claim.id]) if claim.id in judged else "a rule, and no result yet"
        assert f"{claim.id} ({claim.whose}): {said}" in text
    left = len(known) - len(judged)
    powerless = [name for name in judged if known[name].no_power]
    total = {"holds": 0, "inconclusive": 0, "fails": 0}
    for name, result in judged.items():
        total[result.verdict] += name not in powerless
    findings, checks = ([claim for claim in known.values() if claim.kind == kind] for kind in ("finding", "check"))
    last = counted(known, judged)
    assert text.endswith(last)
    assert last.startswith(f"{len(findings)} findings: ")
    assert f"; {len(checks)} checks: " in last
    said = re.findall(r"(\d+) (hold|inconclusive|fail|without power|without a result)\b", last)
    counts = {word: sum(int(number) for number, own in said if own == word) for _, word in said}
    expected = {"hold": total["holds"], "inconclusive": total["inconclusive"], "fail": total["fails"]}
    expected |= {"without power": len(powerless), "without a result": left}
    assert counts == {word: number for word, number in expected.items() if number}
    assert counted({"x": CLAIM}, {}) == "1 finding: 1 without a result"
    result = judge(CLAIM, range(1000, 1008), [0.0] * 8, {})
    for commit, said in (
        ("a" * 40, "made by commit aaaaaaa"),
        ("b" * 40 + "-modified", "made by commit bbbbbbb-modified"),
    ):
        assert made_by(replace(result, provenance={"commit": commit})) == said
    assert made_by(replace(result, provenance={"commit": "unknown"})) == "made by an unknown commit"
    assert (
        made_by(replace(result, provenance={"commit": "unknown", "stored_in": "c" * 40})) == "stored in commit ccccccc"
    )


def test_a_file_for_each_notebook(tmp_path):
    """In the notebooks' order, what is open last; an id stands once in all files."""
    entry = "claims:\n- {{id: {0}, claim: sentence, whose: ours}}\n"
    for number, name in enumerate(["open", "10_b", "02_a"]):
        (tmp_path / f"{name}.yaml").write_text(entry.format(f"c{number}"))
    found = claims(tmp_path)
    assert [(claim.id, claim.notebook) for claim in found.values()] == [("c2", "02_a"), ("c1", "10_b"), ("c0", None)]
    assert list(of_notebook(found, "2")) == list(of_notebook(found, "02_a")) == ["c2"]
    with pytest.raises(ValueError, match=r"^--notebook: no claims of a notebook '03'; there are 02_a, 10_b$"):
        of_notebook(found, "03")
    (tmp_path / "10_b.yaml").write_text(entry.format("c2"))
    with pytest.raises(ValueError, match=r"^10_b.yaml: claim c2 stands twice: also in 02_a.yaml$"):
        claims(tmp_path)
    (tmp_path / "10_b.yaml").rename(tmp_path / "notes.yaml")
    with pytest.raises(ValueError, match=r"^notes.yaml: expected the name of a notebook, or open.yaml$"):
        claims(tmp_path)
    (tmp_path / "notes.yaml").unlink()
    (tmp_path / "open.yaml").write_text(f"claims:\n- {{id: a, claim: b, whose: ours, rule: {{{GOOD}, reason: r}}}}\n")
    with pytest.raises(ValueError, match=r"^open.yaml: claim a: rule: a claim that is judged belongs in the file"):
        claims(tmp_path)
    with pytest.raises(ValueError, match=r"expected files of claims such as 03_gradient_propagation.yaml, got none"):
        claims(tmp_path / "nowhere")


def test_all_attempts_are_shown_and_no_verdict_without_power():
    """Attempts stand under each other, the first first; a verdict that says nothing is called so; checks come last."""
    first, again = replace(CLAIM, notebook="01_x"), replace(CLAIM, id="z", notebook="01_x", repeats="x", headline="Z")
    third = replace(CLAIM, id="w", notebook="01_x", repeats="z", no_power="a surrogate gives .03 too")
    other = replace(CLAIM, id="a", notebook="00_a", kind="check", headline="A")
    known = {claim.id: claim for claim in (first, other, again, third)}
    assert {name: list(family) for name, family in attempts(known).items()} == {"x": ["x", "z", "w"], "a": ["a"]}
    values = {"x": 0.2, "z": 0.05, "w": 0.01, "a": 0.4}
    judged = {
        name: judge(known[name], range(1000, 1008), [value + 0.001 * k for k in range(8)], {})
        for name, value in values.items()
    }
    again_said = "... again, on fresh seeds"
    assert [claim.headline for claim, _ in headlines(known, judged).values()] == ["A", "Z", again_said, again_said]
    rows = headline_table(known, judged).splitlines()
    assert [row.split(" | ")[0] for row in rows[2:6]] == ["| Z", f"| {again_said}", f"| {again_said}", "| A (check)"]
    assert [row.split(" | ")[2] for row in rows[2:6]] == [
        "**inconclusive**",
        "**holds**",
        "**no power** (1)",
        "**fails**",
    ]
    assert rows[6:] == ["", "(1) a surrogate gives .03 too"]
    assert counted(known, judged) == "3 findings: 1 hold, 1 inconclusive, 1 without power; 1 check: 1 fail"
    lines = verdict_lines({"w": third}, judged)
    assert lines[0].startswith("w (ours): no power (holds): 0.0135 [")
    assert lines[1] == "    A sentence. No power: a surrogate gives .03 too"


def test_findings_in_the_readme(tmp_path):
    """The committed findings are what the committed results give; edited ones are put right; no marks, no findings."""
    known, stored = claims(), results()
    committed = project() / "README.md"
    copy = tmp_path / "README.md"
    copy.write_text(committed.read_text(encoding="utf-8").replace("95% interval", "95% interval 9"), encoding="utf-8")
    assert copy.read_text(encoding="utf-8") != committed.read_text(encoding="utf-8")
    write_findings(copy, known, stored)
    assert copy.read_text(encoding="utf-8") == committed.read_text(encoding="utf-8")
    shown = headlines(known, stored)
    table = headline_table(known, stored)
    assert sum(line.startswith("| ") for line in table.splitlines()) == 1 + len(shown) > 4
    copy.write_text("nothing here")
    with pytest.raises(ValueError, match="expected the marks"):
        write_findings(copy, known, stored)


def test_times_in_the_readme(tmp_path):
    """The committed times are those that the notebooks record; a row whose notebook records none stays as it is."""
    committed = (project() / "README.md").read_text(encoding="utf-8")
    assert with_times(committed, project()) == committed
    assert committed.count(" s |\n") == len(list((project() / "notebooks").glob("*.ipynb")))
    (tmp_path / "notebooks").mkdir()
    for number, took in enumerate(({"seconds": 9, "cpu_seconds": 34}, {"seconds": 46}, {"seconds": "46"}, {})):
        path = tmp_path / "notebooks" / f"0{number}_one.ipynb"
        path.write_text(json.dumps({"metadata": {"grsd": took}}), encoding="utf-8")
    rows = "".join(f"| [0{number}_one](notebooks/0{number}_one.ipynb) | Does it? | 1 s |\n" for number in range(5))
    found = re.findall(r"(\d+) s", with_times(rows, tmp_path))
    assert found == ["30", "50", "1", "1", "1"]


def test_a_finding_stands_only_as_long_as_its_verdicts(tmp_path):
    """It is refused once a verdict that it relies on has changed or is missing; its numbers are the result's."""
    text = "{chain-exponent.estimate:.4f} {chain-exponent.low:.4f} {forecast-plain-clock.size:.4f}"
    known, judged = claims(), results()
    finding = Finding("Head.", text, "10_the_whole_chain", {"chain-exponent": "holds"})
    found = [judged["chain-exponent"].estimate, judged["chain-exponent"].low, -judged["forecast-plain-clock"].estimate]
    where = "([notebook 10](notebooks/10_the_whole_chain.ipynb))"
    numbers = " ".join(f"{value:.4f}" for value in found)
    assert findings_list(known, judged, [finding]) == f"1. **Head.** {numbers} {where}"
    for name, expected, got in (
        ("chain-exponent", "fails", "holds"),
        ("renormalizable-late", "fails", "no power"),
        ("rigidity", "holds", "no result"),
    ):
        fewer = {key: result for key, result in judged.items() if key != "rigidity"}
        with pytest.raises(ValueError, match=f"relies on claim {name}: expected {expected}, got {got}; reword it in"):
            findings_list(known, fewer, [replace(finding, verdicts={name: expected})])


GOOD = "statistic: s, direction: at most, threshold: 1.0"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{id: a, claim: b}", "claim a: expected claim, id, whose"),
        ("{id: a, claim: b, whose: ours, verdict: holds}", "claim a: expected claim, id, whose and fields of"),
        (
            "{id: a, claim: b, whose: ours, kind: guess}",
            "claim a: kind is 'guess', expected one of",
        ),
        ("{id: a, claim: b, whose: ours, no_power: c}", "claim a: no_power: expected a reason, and only beside a rule"),
        ("{id: a, claim: b, whose: ours, notebook: 01_a}", "claim a: notebook: the file's name says it already"),
        ("{id: a, claim: b, whose: ours, measures: A}", "claim a: measures: expected small letters"),
        ("{id: a, claim: b, whose: ours, repeats: c}", "claim a repeats 'c', which does not stand before it"),
        ("{id: a, claim: b, whose: theirs}", "claim a: whose is 'theirs'"),
        (f"{{id: a, claim: b, whose: ours, rule: {{{GOOD}}}}}", "claim a: rule: expected direction, reason"),
        (f"{{id: a, claim: b, whose: ours, rule: {{{GOOD}, reason: ''}}}}", "every threshold needs its reason"),
        (f"{{id: a, claim: b, whose: ours, rule: {{{GOOD}, reason: r, fails_beyond: 2}}}}", "every threshold needs"),
        (f"{{id: a, claim: b, whose: ours, rule: {{{GOOD}, reason: r, summary: mode}}}}", "summary one of"),
        ("{id: a, claim: b, whose: ours}\n- {id: a, claim: b, whose: ours}", "claim a stands twice"),
    ],
)
def test_malformed_claims_are_named(tmp_path, entry, message):
    (tmp_path / "01_a.yaml").write_text(f"claims:\n- {entry}\n")
    with pytest.raises(ValueError, match=message):
        claims(tmp_path)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", "01_a.yaml: expected a list of claims under 'claims:', each with id, claim and whose"),
        ("claims: {a: b}", "01_a.yaml: expected a list of claims under 'claims:', each with id, claim and whose"),
        ("claims: [3]", "01_a.yaml: expected a list of claims under 'claims:', each with id, claim and whose"),
        ("claims:\n- {id: 3, claim: b, whose: ours}", "01_a.yaml: claim 3: id: expected text, got 3"),
        ("claims:\n- {id: ../a, claim: b, whose: ours}", "01_a.yaml: claim ../a: id: expected small letters"),
        ("claims:\n- {id: a, claim: [b], whose: ours}", "01_a.yaml: claim a: claim: expected text, got ['b']"),
        ("claims:\n- {id: a, claim: b, whose: ours, rule: 3}", "01_a.yaml: claim a: rule: expected a mapping or"),
        (
            f"claims:\n- {{id: a, claim: b, whose: ours, rule: {{{GOOD}, reason: r, seeds: few}}}}",
            "01_a.yaml: claim a: rule: seeds: expected a whole number, got 'few'",
        ),
        (
            f"claims:\n- {{id: a, claim: b, whose: ours, rule: {{{GOOD}, reason: r, confidence: 95}}}}",
            "01_a.yaml: claim a: rule: expected a finite threshold, a confidence between 0 and 1, and seeds",
        ),
        ("claims: [", "01_a.yaml: cannot be read as YAML: while parsing a flow node"),
        ("claims: !!python/object:os.system {}", "01_a.yaml: cannot be read as YAML: could not determine a constr"),
    ],
)
def test_a_file_that_holds_no_claims_is_one_line(tmp_path, content, line):
    (tmp_path / "01_a.yaml").write_text(content)
    with pytest.raises(ValueError, match=f"^{re.escape(line)}") as caught:
        claims(tmp_path)
    assert "\n" not in str(caught.value)
