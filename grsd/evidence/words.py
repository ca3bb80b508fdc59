"""Claims and verdicts in words: tables for notebooks and the book, lines for a terminal."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from grsd.evidence.claim import KINDS, Claim, attempts
from grsd.evidence.result import Result
from grsd.evidence.source import UNKNOWN

COLUMNS = 80


def claims_table(chosen: Mapping[str, Claim], judged: Mapping[str, Result] | None = None) -> str:
    """Return a Markdown table: claim, whose, verdict with its interval, notebook, figure."""
    judged = judged or {}
    rows = ["| claim | whose | verdict | notebook | figure |", "|---|---|---|---|---|"]
    for claim in chosen.values():
        notebook = f"[{claim.notebook}]({claim.notebook}.ipynb)" if claim.notebook else "not examined yet"
        figure = f"[{claim.figure}](../figures/{claim.figure}.svg)" if claim.figure else ""
        rows.append(f"| {_cell(claim.claim)} | {claim.whose} | {_said(claim, judged)} | {notebook} | {figure} |")
    return "\n".join(rows)


def verdict_table(chosen: Mapping[str, Claim], judged: Mapping[str, Result]) -> str:
    """Return a Markdown table for a notebook or a page: claim, whose, verdict, measured, rule, seeds."""
    rows = ["| claim | whose | verdict | measured | rule | seeds |", "|---|---|---|---|---|---|"]
    for claim in chosen.values():
        powerless = f" No power: {claim.no_power}" if claim.no_power else ""
        if claim.rule is None or claim.id not in judged:
            said = "a rule, and no result yet" if claim.rule else "not examined yet"
            cells = [said, "", _bound(claim), ""]
        else:
            result = judged[claim.id]
            cells = [f"**{_verdict(claim, result)}**", _interval(result), _bound(claim), str(len(result.seeds))]
        sentence = f"{_cell(claim.claim + powerless)} `{claim.id}`"
        rows.append(f"| {sentence} | {claim.whose} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    """Return text that stays in one cell of a Markdown table: |b - 1| has the sign that separates cells."""
    return text.replace("|", "\\|")


def verdict_of(claim: Claim, result: Result) -> str:
    """Return the verdict as it is shown: "no power" if the claim says that its verdict says nothing."""
    return "no power" if claim.no_power else result.verdict


def headlines(chosen: Mapping[str, Claim], judged: Mapping[str, Result]) -> dict[str, tuple[Claim, Result]]:
    """Return the claims with a headline and a result, in the notebooks' order, for the table and figure of verdicts.

    Every other attempt at the same claim stands with them, so that no verdict of several is picked: the first under the
    headline, each later one as "again, on fresh seeds".
    """
    found = {}
    for family in sorted(attempts(chosen).values(), key=lambda family: next(iter(family.values())).notebook or "~"):
        shown = [claim for claim in family.values() if claim.id in judged]
        words = [claim.headline for claim in shown if claim.headline]
        for place, claim in enumerate(shown if words else ()):
            said = words[0] if place == 0 else "... again, on fresh seeds"
            found[claim.id] = replace(claim, headline=said), judged[claim.id]
    return found


def headline_table(chosen: Mapping[str, Claim], judged: Mapping[str, Result]) -> str:
    """Return the Markdown table of verdicts: headline, whose, verdict, number, interval, threshold, notebook.

    Findings come first, checks after them; a note says why a verdict has no power.
    """
    rows = ["| | whose | verdict | measured | notebook |", "|---|---|---|---|---|"]
    notes: dict[str, int] = {}
    shown = headlines(chosen, judged)
    for claim, result in sorted(shown.values(), key=lambda pair: KINDS.index(pair[0].kind)):
        number = claim.notebook.partition("_")[0]
        notebook = f"[{number}](notebooks/{claim.notebook}.ipynb)"
        measured = _said(claim, judged).partition(": ")[2]
        note = f" ({notes.setdefault(claim.no_power, len(notes) + 1)})" if claim.no_power else ""
        verdict = f"**{verdict_of(claim, result)}**{note}"
        kind = " (check)" if claim.kind == "check" else ""
        rows.append(f"| {_cell(claim.headline)}{kind} | {claim.whose} | {verdict} | {measured} | {notebook} |")
    return "\n".join([*rows, *(f"\n({number}) {note}" for note, number in notes.items())])


def verdict_lines(chosen: Mapping[str, Claim], judged: Mapping[str, Result]) -> list[str]:
    """Return two lines per claim for a terminal: id, whose and verdict, then the sentence."""
    lines = []
    for claim in chosen.values():
        lines.append(f"{claim.id} ({claim.whose}): {_said(claim, judged) or 'not examined yet'}")
        lines.append(f"    {claim.claim}" + (f" No power: {claim.no_power}" if claim.no_power else ""))
    return lines


def terminal_lines(chosen: Mapping[str, Claim], judged: Mapping[str, Result]) -> list[str]:
    """Return ``verdict_lines`` for 80 columns with notebook and commit, and a line that counts the verdicts.

    An inconclusive claim says about how many more seeds it needs.
    """
    lines = []
    for claim in chosen.values():
        said, sentence = verdict_lines({claim.id: claim}, judged)
        made = _needs(claim, judged[claim.id]) + f"; {made_by(judged[claim.id])}" if claim.id in judged else ""
        if claim.notebook:
            made = f"; notebook {claim.notebook.partition('_')[0]}{made}"
        lines += [*wrapped(said + made), *wrapped(sentence, "    ")]
    return [*lines, *wrapped(counted(chosen, judged))]


def wrapped(text: str, indent: str = "  ") -> list[str]:
    """Wrap text into lines of at most 80 columns; all but the first are indented."""
    return textwrap.wrap(text, COLUMNS, subsequent_indent=indent, break_on_hyphens=False)


def made_by(result: Result) -> str:
    """Name the commit that measured the result, or, if that is unknown, the commit in which it was stored."""
    known = result.provenance["commit"]
    if known != UNKNOWN:
        commit, mark, modified = known.partition("-")
        return f"made by commit {commit[:7]}{mark}{modified}"
    stored = result.provenance.get("stored_in")
    return f"stored in commit {stored:.7}" if isinstance(stored, str) else "made by an unknown commit"


def counted(chosen: Mapping[str, Claim], judged: Mapping[str, Result]) -> str:
    """Count the claims by verdict, findings apart from checks, in one line."""
    order = {
        "holds": "hold",
        "inconclusive": "inconclusive",
        "fails": "fail",
        "no power": "without power",
        None: "without a result",
    }
    kinds = []
    for kind in KINDS:
        mine = [claim for claim in chosen.values() if claim.kind == kind]
        found = Counter(verdict_of(claim, judged[claim.id]) if claim.id in judged else None for claim in mine)
        parts = ", ".join(f"{found[verdict]} {said}" for verdict, said in order.items() if found[verdict])
        if mine:
            kinds.append(f"{len(mine)} {kind}{'' if len(mine) == 1 else 's'}: {parts}")
    return "; ".join(kinds) or "no claims"


def _said(claim: Claim, judged: Mapping[str, Result]) -> str:
    if claim.rule is None:
        return ""
    if claim.id not in judged:
        return "a rule, and no result yet"
    result = judged[claim.id]
    return f"{_verdict(claim, result)}: {_interval(result)}, {_bound(claim)}, {len(result.seeds)} seeds"


def _needs(claim: Claim, result: Result) -> str:
    """Return "; needs about n more seeds" for an inconclusive claim that has power, or nothing."""
    needed = "" if claim.no_power else claim.judged.needs(result.estimate, result.low, result.high, len(result.seeds))
    return f"; {needed}" if needed else ""


def _verdict(claim: Claim, result: Result) -> str:
    return f"no power ({result.verdict})" if claim.no_power else result.verdict


def _interval(result: Result) -> str:
    interval = "" if result.low == result.high else f" [{result.low:.3g}, {result.high:.3g}]"
    return f"{result.estimate:.3g}{interval}"


def _bound(claim: Claim) -> str:
    return f"{claim.rule.direction} {claim.rule.threshold:g}" if claim.rule else ""
