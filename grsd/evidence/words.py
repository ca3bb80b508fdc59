"""Claims and verdicts in words: tables for notebooks and the README, lines for a terminal."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from grsd.evidence.claim import Claim
from grsd.evidence.result import Result
from grsd.evidence.source import UNKNOWN
from grsd.support.files import write_atomically
from grsd.support.folders import read

MARKS = ("<!-- verdicts: written by grsd claims --readme -->", "<!-- end of verdicts -->")
COLUMNS = 80


def claims_table(chosen: Mapping[str, Claim], judged: Mapping[str, Result] | None = None) -> str:
    """Return a Markdown table: claim, whose, verdict with its interval, notebook, figure."""
    judged = judged or {}
    rows = ["| claim | whose | verdict | notebook | figure |", "|---|---|---|---|---|"]
    for claim in chosen.values():
        notebook = f"[{claim.notebook}]({claim.notebook}.ipynb)" if claim.notebook else "not examined yet"
        figure = f"[{claim.figure}](../figures/{claim.figure}.svg)" if claim.figure else ""
        rows.append(f"| {claim.claim} | {claim.whose} | {_said(claim, judged)} | {notebook} | {figure} |")
    return "\n".join(rows)


def headlines(chosen: Mapping[str, Claim], judged: Mapping[str, Result]) -> dict[str, tuple[Claim, Result]]:
    """Return the claims with a headline and a result, in the notebooks' order, for the README's table and figure."""
    shown = [claim for claim in chosen.values() if claim.headline and claim.id in judged]
    return {claim.id: (claim, judged[claim.id]) for claim in sorted(shown, key=lambda claim: claim.notebook)}


def headline_table(chosen: Mapping[str, Claim], judged: Mapping[str, Result]) -> str:
    """Return a Markdown table for the README: headline, whose, verdict, number, interval, threshold, notebook."""
    rows = ["| | whose | verdict | measured | notebook |", "|---|---|---|---|---|"]
    for claim, result in headlines(chosen, judged).values():
        number = claim.notebook.partition("_")[0]
        notebook = f"[{number}](notebooks/{claim.notebook}.ipynb)"
        measured = _said(claim, judged).removeprefix(f"{result.verdict}: ")
        rows.append(f"| {claim.headline} | {claim.whose} | **{result.verdict}** | {measured} | {notebook} |")
    return "\n".join(rows)


def write_headlines(readme: Path, chosen: Mapping[str, Claim], judged: Mapping[str, Result]) -> None:
    """Put ``headline_table`` between the two marks of a README. Errors: ``ValueError`` if a mark is missing."""
    text = read(readme)
    before, begin, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not begin or not end:
        raise ValueError(f"{readme.name}: expected the marks {MARKS[0]} and {MARKS[1]} around the table of verdicts")
    write_atomically(readme, f"{before}{begin}\n{headline_table(chosen, judged)}\n{end}{after}".encode())


def verdict_lines(chosen: Mapping[str, Claim], judged: Mapping[str, Result]) -> list[str]:
    """Return two lines per claim for a terminal: id, whose and verdict, then the sentence."""
    lines = []
    for claim in chosen.values():
        lines.append(f"{claim.id} ({claim.whose}): {_said(claim, judged) or 'not examined yet'}")
        lines.append(f"    {claim.claim}")
    return lines


def terminal_lines(chosen: Mapping[str, Claim], judged: Mapping[str, Result]) -> list[str]:
    """Return ``verdict_lines`` for 80 columns, with the commit of each result, and a line that counts the verdicts."""
    lines = []
    for claim in chosen.values():
        said, sentence = verdict_lines({claim.id: claim}, judged)
        made = f"; {made_by(judged[claim.id])}" if claim.id in judged else ""
        lines += [*wrapped(said + made), *wrapped(sentence, "    ")]
    return [*lines, counted(chosen, judged)]


def wrapped(text: str, indent: str = "  ") -> list[str]:
    """Wrap text into lines of at most 80 columns; all but the first are indented."""
    return textwrap.wrap(text, COLUMNS, subsequent_indent=indent, break_on_hyphens=False)


def made_by(result: Result) -> str:
    """Name the commit that measured the result, or, if that is unknown, the commit in which it was stored."""
    known = result.provenance["commit"]
    if known != UNKNOWN:
        commit, mark, modified = known.partition("-")
        return f"made by {commit[:7]}{mark}{modified}"
    stored = result.provenance.get("stored_in")
    return f"stored in {stored:.7}" if isinstance(stored, str) else "made by an unknown commit"


def counted(chosen: Mapping[str, Claim], judged: Mapping[str, Result]) -> str:
    """Count the claims by verdict, in one line."""
    found = Counter(judged[name].verdict if name in judged else "without a result" for name in chosen)
    order = ("holds", "inconclusive", "fails", "without a result")
    said = {"holds": "hold", "fails": "fail"}
    parts = [f"{found[verdict]} {said.get(verdict, verdict)}" for verdict in order if found[verdict]]
    return f"{len(chosen)} claim{'' if len(chosen) == 1 else 's'}: {', '.join(parts) or 'none'}"


def _said(claim: Claim, judged: Mapping[str, Result]) -> str:
    if claim.rule is None:
        return ""
    if claim.id not in judged:
        return "a rule, and no result yet"
    result = judged[claim.id]
    interval = f"{result.estimate:.3g}"
    if result.low != result.high:
        interval += f" [{result.low:.3g}, {result.high:.3g}]"
    return f"{result.verdict}: {interval}, {claim.rule.direction} {claim.rule.threshold:g}, {len(result.seeds)} seeds"
