"""The claims: one YAML file for each notebook under data/claims, read into ``Claim``."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

from grsd.evidence.rules import DecisionRule, read_rule
from grsd.support.folders import one_line, project, read
from grsd.support.records import check_record

WHOSE = ("paper", "ours")
KINDS = ("finding", "check")
OPEN = "open"  # the file of the claims that no notebook examines yet
FILE_NAME = re.compile(rf"\d\d_[a-z0-9_]+|{OPEN}")


@dataclass(frozen=True)
class Claim:
    """One entry of data/claims/NOTEBOOK.yaml. ``notebook``, ``figure`` and ``rule`` are None if it is not examined yet.

    ``headline``: the claim's short name in the table of verdicts and its figure; None if it is not shown there.
    ``repeats``: the claim that this one measures again on fresh seeds; both results stay. ``measures``: the identifier
    of the measurement that gives one value per seed; None: the claim's own id. ``kind``: "check" if only a fault of
    this project's could make it fail (an identity, or an instrument where the answer is known), otherwise "finding".
    ``no_power``: why the verdict says nothing, with the number that shows it; it is then shown as "no power".
    """

    id: str
    claim: str
    whose: str
    notebook: str | None = None
    figure: str | None = None
    rule: DecisionRule | None = None
    headline: str | None = None
    repeats: str | None = None
    measures: str | None = None
    kind: str = "finding"
    no_power: str | None = None

    @property
    def measurement(self) -> str:
        return self.measures or self.id

    @property
    def hash(self) -> str:
        """SHA-256 of the measurement and the numbers that decide the verdict.

        A result with another hash does not belong to this claim. Sentences and reasons are not part of the hash, so
        that their wording can change at any time.
        """
        rule = self.judged
        decides = {
            "claim": self.id,
            "measures": self.measurement,
            "direction": rule.direction,
            "threshold": float(rule.threshold),
            "fails_beyond": None if rule.fails_beyond is None else float(rule.fails_beyond),
            "summary": rule.summary,
            "seeds": rule.seeds,
            "first_seed": rule.first_seed,
            "widest": float(rule.widest),
            "confidence": float(rule.confidence),
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    @property
    def judged(self) -> DecisionRule:
        """Return the rule. Errors: ``ValueError`` if the claim has none."""
        if self.rule is None:
            raise ValueError(f"claim {self.id}: data/claims gives no rule, so nothing can be judged")
        return self.rule


def claims(folder: Path | None = None) -> dict[str, Claim]:
    """Return the claims of data/claims (or ``folder``) by id, in the order of the notebooks; open.yaml comes last.

    Errors: ``ValueError`` naming file and entry if a field is unknown, missing or of the wrong type, an id stands
    twice, a claim is neither the paper's nor ours, a rule lacks its reasons, or ``repeats`` names no earlier claim;
    ``ValueError`` naming the file if it has no claims or is not named after a notebook.
    """
    folder = folder or project() / "data" / "claims"
    paths = sorted(folder.glob("*.yaml"), key=lambda path: (path.stem == OPEN, path.stem))
    if not paths:
        raise ValueError(f"{one_line(folder)}: expected files of claims such as 03_gradient_propagation.yaml, got none")
    found: dict[str, Claim] = {}
    places: dict[str, str] = {}
    for path in paths:
        if not FILE_NAME.fullmatch(path.stem):
            raise ValueError(f"{one_line(path.name, 80)}: expected the name of a notebook, or {OPEN}.yaml")
        for entry in _entries(path):
            claim = _claim(path, entry)
            where = f"{path.name}: claim {claim.id}"
            if claim.id in found:
                also = "" if places[claim.id] == path.name else f": also in {places[claim.id]}"
                raise ValueError(f"{where} stands twice{also}")
            if claim.repeats is not None and claim.repeats not in found:
                raise ValueError(f"{where} repeats {claim.repeats!r}, which does not stand before it")
            found[claim.id], places[claim.id] = claim, path.name
    return found


def of_notebook(known: Mapping[str, Claim], notebook: str) -> dict[str, Claim]:
    """Return the claims of one notebook, given by number or name. Errors: ``ValueError`` if it has none."""
    wanted = notebook.zfill(2)
    found = {
        name: claim
        for name, claim in known.items()
        if claim.notebook and wanted in (claim.notebook, claim.notebook.partition("_")[0])
    }
    if not found:
        names = dict.fromkeys(claim.notebook for claim in known.values() if claim.notebook)
        shown = one_line(repr(notebook), 80)
        raise ValueError(f"--notebook: no claims of a notebook {shown}; there are {', '.join(names) or 'none'}")
    return found


def attempts(known: Mapping[str, Claim]) -> dict[str, dict[str, Claim]]:
    """Return each claim that repeats none, by id, with all claims that repeat it, directly or not, in their order."""
    first: dict[str, str] = {}
    found: dict[str, dict[str, Claim]] = {}
    for name, claim in known.items():
        first[name] = first.get(claim.repeats or name, name)
        found.setdefault(first[name], {})[name] = claim
    return found


@lru_cache(maxsize=64)
def _parsed(text: str) -> object:
    """Return the content of a file of claims, which nobody changes; a notebook reads it for every table."""
    return yaml.safe_load(text)


def _entries(path: Path) -> list[dict]:
    try:
        content = _parsed(read(path))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path.name}: cannot be read as YAML: {one_line(' '.join(str(error).split()))}") from None
    entries = content.get("claims") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path.name}: expected a list of claims under 'claims:', each with id, claim and whose")
    return entries


def _claim(path: Path, entry: dict) -> Claim:
    where = f"{path.name}: claim {one_line(entry.get('id'), 80)}"
    check_record(where, entry, Claim, {"id", "claim", "whose"})
    if "notebook" in entry:
        raise ValueError(f"{where}: notebook: the file's name says it already; leave it out")
    for name in ("id", "measures"):
        if entry.get(name) is not None and not re.fullmatch(r"[a-z0-9-]+", entry[name]):
            why = ", since its result is a file of that name" if name == "id" else ""
            raise ValueError(f"{where}: {name}: expected small letters, digits and '-'{why}")
    if entry["whose"] not in WHOSE:
        raise ValueError(f"{where}: whose is {entry['whose']!r}, expected one of {WHOSE}")
    if entry.get("kind", KINDS[0]) not in KINDS:
        raise ValueError(f"{where}: kind is {one_line(repr(entry['kind']), 80)}, expected one of {KINDS}")
    rule = read_rule(where, entry["rule"]) if entry.get("rule") else None
    if entry.get("no_power") is not None and (rule is None or not entry["no_power"].strip()):
        raise ValueError(f"{where}: no_power: expected a reason, and only beside a rule")
    if path.stem == OPEN and rule is not None:
        raise ValueError(f"{where}: rule: a claim that is judged belongs in the file of its notebook")
    notebook = None if path.stem == OPEN else path.stem
    return Claim(**entry | {"rule": rule, "notebook": notebook, "claim": " ".join(entry["claim"].split())})
