"""Claims and verdicts that cannot be bent: the rule is written first, and every result carries the hash of its rule."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import yaml

from grsd.support.files import write_atomically
from grsd.support.folders import one_line, project, read
from grsd.support.provenance import provenance
from grsd.support.records import check_record

WHOSE = ("paper", "ours")
DIRECTIONS = ("at most", "at least", "contains")
SUMMARIES = {"mean": np.mean, "median": np.median, "max": np.max, "min": np.min, "proportion": np.mean}
PILOT_SEEDS = range(100)
FIRST_CONFIRMATORY_SEED = 1000
MARKS = ("<!-- verdicts: written by grsd claims --readme -->", "<!-- end of verdicts -->")


@dataclass(frozen=True)
class Rule:
    """How a claim is judged.

    Attributes:
        statistic: what is measured for each seed, in words.
        summary: how seeds are put together: mean or median (bootstrap interval over seeds), proportion (of zeros and
            ones; exact binomial interval), max or min (of an identity; no sampling interval).
        direction: ``"at most"``: holds where the whole interval is at most ``threshold``; ``"at least"`` likewise;
            ``"contains"``: holds where the interval contains it, and is inconclusive where it is wider than ``widest``.
        threshold, reason: the number, and why it is that number.
        fails_beyond, fails_reason: the whole interval beyond this fails (default: the threshold); between the two lies
            ``inconclusive``.
        confidence: of the interval. ``seeds``: how many confirmatory seeds a verdict needs.
        first_seed: the first of them. A claim measured again on more seeds starts where no earlier one has looked.
    """

    statistic: str
    direction: str
    threshold: float
    reason: str
    summary: str = "mean"
    fails_beyond: float | None = None
    fails_reason: str | None = None
    confidence: float = 0.95
    seeds: int = 8
    widest: float = math.inf
    first_seed: int = FIRST_CONFIRMATORY_SEED

    def interval(self, values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
        """(estimate, low, high) over seeds; the bootstrap (BCa, 9999 resamples) has a fixed seed."""
        sample = np.asarray(values, dtype=float)
        function = SUMMARIES[self.summary]
        estimate = float(function(sample))
        if self.summary in {"max", "min"} or not np.isfinite(sample).all():
            return estimate, estimate, estimate
        from scipy.stats import binomtest, bootstrap  # a second; to read claims and to refuse takes none of it

        if self.summary == "proportion":
            exact = binomtest(int(sample.sum()), sample.size).proportion_ci(self.confidence, "exact")
            return estimate, float(exact.low), float(exact.high)
        if sample.size < 2 or np.ptp(sample) == 0:
            return estimate, (estimate if sample.size > 1 else -math.inf), (estimate if sample.size > 1 else math.inf)
        generator = np.random.default_rng(0)
        options = {"confidence_level": self.confidence, "rng": generator, "vectorized": True}
        found = bootstrap((sample,), function, **options).confidence_interval
        return estimate, float(found.low), float(found.high)

    def verdict(self, low: float, high: float | None = None) -> str:
        """``"holds"``, ``"fails"`` or ``"inconclusive"`` for the interval [low, high] (one number: no interval)."""
        high = low if high is None else high
        if math.isnan(low) or math.isnan(high):
            return "inconclusive"
        if self.direction == "contains":
            if high - low > self.widest:
                return "inconclusive"
            return "holds" if low <= self.threshold <= high else "fails"
        beyond = self.threshold if self.fails_beyond is None else self.fails_beyond
        if self.direction == "at most":
            holds, fails = high <= self.threshold, low > beyond
        else:
            holds, fails = low >= self.threshold, high < beyond
        return "holds" if holds else "fails" if fails else "inconclusive"


@dataclass(frozen=True)
class Claim:
    """One entry of data/claims.yaml. ``notebook``, ``figure`` and ``rule`` are None where it is not examined yet.

    ``headline``: the few words under which it stands in the README's table and figure; None for all that stay out of
    them. ``repeats``: the claim that it measures again on fresh seeds; both results stay.
    """

    id: str
    claim: str
    whose: str
    notebook: str | None = None
    figure: str | None = None
    rule: Rule | None = None
    headline: str | None = None
    repeats: str | None = None

    @property
    def hash(self) -> str:
        """SHA-256 of the sentence and its rule: a result made under other words or numbers is not this claim's."""
        rule = asdict(self.judged)
        if rule["first_seed"] == FIRST_CONFIRMATORY_SEED:
            del rule["first_seed"]  # rules older than this field keep their hash
        content = json.dumps({"claim": self.claim, "rule": rule}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def judged(self) -> Rule:
        if self.rule is None:
            raise ValueError(f"claim {self.id}: data/claims.yaml gives no rule, so nothing can be judged")
        return self.rule


@dataclass(frozen=True)
class Result:
    """A judged claim: the values of its seeds, the interval and the verdict they give, and the hash of the rule."""

    claim: str
    rule_hash: str
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    estimate: float
    low: float
    high: float
    verdict: str
    provenance: dict[str, object]


def claims(path: Path | None = None) -> dict[str, Claim]:
    """The claims of data/claims.yaml by id, in their order.

    Errors: ``ValueError`` naming the entry for an unknown or missing field or one of the wrong type, a repeated id, a
    claim that is neither the paper's nor ours, or a rule without its reasons; naming the file where it has no claims.
    """
    path = path or project() / "data" / "claims.yaml"
    found: dict[str, Claim] = {}
    try:
        content = yaml.safe_load(read(path))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path.name}: cannot be read as YAML: {one_line(' '.join(str(error).split()))}") from None
    entries = content.get("claims") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path.name}: expected a list of claims under 'claims:', each with id, claim and whose")
    for entry in entries:
        name = entry.get("id")
        where = f"{path.name}: claim {one_line(name, 80)}"
        check_record(where, entry, Claim, {"id", "claim", "whose"})
        if not re.fullmatch(r"[a-z0-9-]+", name):
            raise ValueError(
                f"{where}: id: expected small letters, digits and '-', since its result is a file of that name"
            )
        if entry["whose"] not in WHOSE:
            raise ValueError(f"{where}: whose is {entry['whose']!r}, expected one of {WHOSE}")
        if name in found:
            raise ValueError(f"{where} stands twice")
        rule = _rule(where, entry["rule"]) if entry.get("rule") else None
        if (entry.get("repeats") or name) not in {name, *found}:
            raise ValueError(f"{where} repeats {entry['repeats']!r}, which does not stand before it")
        found[name] = Claim(**entry | {"rule": rule, "claim": " ".join(entry["claim"].split())})
    return found


def judge(claim: Claim, seeds: Sequence[int], values: Sequence[float], parameters: Mapping[str, object]) -> Result:
    """Judge a claim on confirmatory seeds.

    Errors: ``ValueError`` for seeds under the rule's first (under 1000 are pilots), repeated seeds, fewer seeds than
    the rule asks for, or as many values as there are not seeds.
    """
    rule = claim.judged
    if len(seeds) != len(values):
        raise ValueError(
            f"judge({claim.id}): expected one value a seed, got {len(seeds)} seeds and {len(values)} values"
        )
    wrong = [seed for seed in seeds if seed < rule.first_seed]
    if wrong:
        raise ValueError(
            f"judge({claim.id}): seed {wrong[0]} is not confirmatory; a verdict needs seeds from "
            f"{rule.first_seed} on, {PILOT_SEEDS[0]} to {PILOT_SEEDS[-1]} are for looking"
        )
    if len(set(seeds)) < len(seeds) or len(seeds) < rule.seeds:
        raise ValueError(
            f"judge({claim.id}): expected at least {rule.seeds} different seeds, got {sorted(seeds)!r:.80}"
        )
    estimate, low, high = rule.interval(values)
    return Result(
        claim.id,
        claim.hash,
        tuple(int(seed) for seed in seeds),
        tuple(float(value) for value in values),
        estimate,
        low,
        high,
        rule.verdict(low, high),
        provenance(parameters),
    )


def confirm(claim: Claim, measure: Callable[[int], float], parameters: Mapping[str, object]) -> Result:
    """``judge`` on the confirmatory seeds that the rule asks for, measured one after the other."""
    first = claim.judged.first_seed
    seeds = range(first, first + claim.judged.seeds)
    return judge(claim, seeds, [measure(seed) for seed in seeds], parameters)


def write_result(result: Result, folder: Path | None = None) -> Path:
    """Store a result as data/results/CLAIM.json, atomically; where that fails it is printed, and not lost."""
    folder = folder or project() / "data" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.claim}.json"
    text = json.dumps(asdict(result), indent=1) + "\n"
    try:
        return write_atomically(path, text.encode())
    except OSError:
        print(text, end="", flush=True)
        raise


def results(folder: Path | None = None, known: Mapping[str, Claim] | None = None) -> dict[str, Result]:
    """The stored results by claim, each judged again from its values.

    Errors: ``ValueError`` naming the file where the claim is unknown, its rule has changed since, a seed is a pilot
    seed, or the stored interval or verdict is not what the values give.
    """
    folder = folder or project() / "data" / "results"
    known = claims() if known is None else known
    found = {}
    for path in sorted(folder.glob("*.json")):
        stored = _stored(path)
        if stored.claim not in known or path.stem != stored.claim:
            raise ValueError(f"{path.name}: no claim {one_line(stored.claim, 80)!r} in data/claims.yaml")
        claim = known[stored.claim]
        if stored.rule_hash != claim.hash:
            raise ValueError(
                f"{path.name}: the rule of {claim.id} has changed since this result; grsd claims --confirm {claim.id}"
            )
        again = judge(claim, stored.seeds, stored.values, {})
        same = np.allclose(
            [stored.estimate, stored.low, stored.high],
            [again.estimate, again.low, again.high],
            rtol=1e-9,
            equal_nan=True,
        )
        if not same or stored.verdict != again.verdict:
            raise ValueError(f"{path.name}: stored as {stored.verdict}, but its values give {again.verdict}")
        found[claim.id] = stored
    return found


def claims_table(chosen: Mapping[str, Claim], judged: Mapping[str, Result] | None = None) -> str:
    """A Markdown table: claim, whose, verdict with its interval, notebook, figure."""
    judged = judged or {}
    rows = ["| claim | whose | verdict | notebook | figure |", "|---|---|---|---|---|"]
    for claim in chosen.values():
        notebook = f"[{claim.notebook}]({claim.notebook}.ipynb)" if claim.notebook else "not examined yet"
        figure = f"[{claim.figure}](../figures/{claim.figure}.svg)" if claim.figure else ""
        rows.append(f"| {claim.claim} | {claim.whose} | {_said(claim, judged)} | {notebook} | {figure} |")
    return "\n".join(rows)


def headlines(chosen: Mapping[str, Claim], judged: Mapping[str, Result]) -> dict[str, tuple[Claim, Result]]:
    """The claims that carry a headline and have a result, in the notebooks' order: the README's table and figure."""
    shown = [claim for claim in chosen.values() if claim.headline and claim.id in judged]
    return {claim.id: (claim, judged[claim.id]) for claim in sorted(shown, key=lambda claim: claim.notebook)}


def headline_table(chosen: Mapping[str, Claim], judged: Mapping[str, Result]) -> str:
    """A Markdown table for the README: headline, whose, verdict, number with interval and threshold, notebook."""
    rows = ["| | whose | verdict | measured | notebook |", "|---|---|---|---|---|"]
    for claim, result in headlines(chosen, judged).values():
        number = claim.notebook.partition("_")[0]
        notebook = f"[{number}](notebooks/{claim.notebook}.ipynb)"
        measured = _said(claim, judged).removeprefix(f"{result.verdict}: ")
        rows.append(f"| {claim.headline} | {claim.whose} | **{result.verdict}** | {measured} | {notebook} |")
    return "\n".join(rows)


def write_headlines(readme: Path, chosen: Mapping[str, Claim], judged: Mapping[str, Result]) -> None:
    """Put ``headline_table`` between the two marks of a README. Errors: ``ValueError`` where the marks are missing."""
    text = read(readme)
    before, begin, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not begin or not end:
        raise ValueError(f"{readme.name}: expected the marks {MARKS[0]} and {MARKS[1]} around the table of verdicts")
    write_atomically(readme, f"{before}{begin}\n{headline_table(chosen, judged)}\n{end}{after}".encode())


def verdict_lines(chosen: Mapping[str, Claim], judged: Mapping[str, Result]) -> list[str]:
    """The same for a terminal: verdict, whose, id and sentence, two lines a claim."""
    lines = []
    for claim in chosen.values():
        lines.append(f"{claim.id} ({claim.whose}): {_said(claim, judged) or 'not examined yet'}")
        lines.append(f"    {claim.claim}")
    return lines


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


def _stored(path: Path) -> Result:
    """Errors: ``ValueError`` naming the file, and the field that is missing, too many or not what it must be."""
    try:
        content = json.loads(read(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path.name}: cannot be read as JSON: {one_line(error)}") from None
    check_record(path.name, content, Result, {field.name for field in fields(Result)})
    if not content["values"]:
        raise ValueError(f"{path.name}: values: expected one a seed, got none")
    return Result(**content | {name: tuple(content[name]) for name in ("seeds", "values")})


def _rule(where: str, entry: Mapping[str, object]) -> Rule:
    check_record(f"{where}: rule", entry, Rule, {"statistic", "direction", "threshold", "reason"})
    rule = Rule(**entry)
    if rule.direction not in DIRECTIONS or rule.summary not in SUMMARIES:
        raise ValueError(f"{where}: rule: direction is one of {DIRECTIONS}, summary one of {tuple(SUMMARIES)}")
    if rule.direction == "contains" and not math.isfinite(rule.widest):
        raise ValueError(f"{where}: rule: 'contains' needs the widest interval that still says something")
    if not math.isfinite(rule.threshold) or not 0 < rule.confidence < 1 or rule.seeds < 1:
        raise ValueError(f"{where}: rule: expected a finite threshold, a confidence between 0 and 1, and seeds")
    if rule.first_seed < FIRST_CONFIRMATORY_SEED:
        raise ValueError(f"{where}: rule: first_seed is {rule.first_seed}, expected {FIRST_CONFIRMATORY_SEED} or more")
    if not rule.reason or (rule.fails_beyond is not None and not rule.fails_reason):
        raise ValueError(f"{where}: rule: every threshold needs its reason")
    return rule
