import math

import pytest

from grsd.evidence import Claim, claims, claims_table
from grsd.project import project


def test_committed_claims():
    found = claims()
    assert {claim.whose for claim in found.values()} == {"paper", "ours"}
    for claim in found.values():
        if claim.notebook:
            assert (project() / "notebooks" / f"{claim.notebook}.ipynb").is_file()
            assert claim.threshold is not None
            assert len(claim.reason.split()) > 8
        if claim.figure:
            assert claim.figure.startswith(f"{claim.notebook}-")
            assert (project() / "figures" / f"{claim.figure}.svg").is_file()


def test_verdicts():
    claim = Claim("x", "y", "ours", statistic="s", threshold=1.0, reason="r")
    assert [claim.verdict(value) for value in (0.5, 1.0, 1.1, math.nan, math.inf)] == [
        "holds",
        "holds",
        "fails",
        "fails",
        "fails",
    ]
    with pytest.raises(ValueError, match="gives no threshold"):
        Claim("x", "y", "paper").verdict(0.0)


def test_table_names_what_is_not_examined():
    table = claims_table(claims())
    assert table.count("\n") == len(claims()) + 1
    assert "| not examined yet |" in table
    assert "[01_shell_dynamics](01_shell_dynamics.ipynb)" in table


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{id: a, claim: b}", "claim a: expected id, claim, whose"),
        ("{id: a, claim: b, whose: ours, verdict: holds}", "claim a: expected id, claim, whose and fields of"),
        ("{id: a, claim: b, whose: theirs}", "claim a: whose is 'theirs'"),
        ("{id: a, claim: b, whose: ours, threshold: 1.0}", "claim a: a threshold needs its statistic and its reason"),
        ("{id: a, claim: b, whose: ours}\n- {id: a, claim: b, whose: ours}", "claim a stands twice"),
    ],
)
def test_malformed_claims_are_named(tmp_path, entry, message):
    path = tmp_path / "claims.yaml"
    path.write_text(f"claims:\n- {entry}\n")
    with pytest.raises(ValueError, match=message):
        claims(path)
