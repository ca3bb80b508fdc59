"""Claims and their verdicts: what is claimed, by whom, and the rule that judges it, written before the run."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from grsd.project import project

WHOSE = ("paper", "ours")


@dataclass(frozen=True)
class Claim:
    """One entry of data/claims.yaml.

    ``notebook`` and ``figure`` are None where the claim has not been examined yet; ``threshold`` is the largest
    statistic for which the claim holds and ``reason`` why it is that number.
    """

    id: str
    claim: str
    whose: str
    notebook: str | None = None
    figure: str | None = None
    statistic: str | None = None
    threshold: float | None = None
    reason: str | None = None

    def verdict(self, statistic: float) -> str:
        """``"holds"`` where the statistic is at most the threshold, ``"fails"`` otherwise (NaN fails)."""
        if self.threshold is None:
            raise ValueError(f"claim {self.id}: data/claims.yaml gives no threshold, so nothing can be judged")
        return "holds" if not math.isnan(statistic) and statistic <= self.threshold else "fails"


def claims(path: Path | None = None) -> dict[str, Claim]:
    """The claims of data/claims.yaml by id, in their order.

    Errors: ``ValueError`` naming the entry for an unknown or missing field, a repeated id, a claim that is neither the
    paper's nor ours, or a threshold without a statistic and a reason.
    """
    path = path or project() / "data" / "claims.yaml"
    known = {field.name for field in fields(Claim)}
    found: dict[str, Claim] = {}
    for entry in yaml.safe_load(path.read_text(encoding="utf-8"))["claims"]:
        name = entry.get("id", entry)
        if not {"id", "claim", "whose"} <= set(entry) <= known:
            raise ValueError(f"{path.name}: claim {name}: expected id, claim, whose and fields of {sorted(known)}")
        if entry["whose"] not in WHOSE:
            raise ValueError(f"{path.name}: claim {name}: whose is {entry['whose']!r}, expected one of {WHOSE}")
        if entry.get("threshold") is not None and not (entry.get("statistic") and entry.get("reason")):
            raise ValueError(f"{path.name}: claim {name}: a threshold needs its statistic and its reason")
        if name in found:
            raise ValueError(f"{path.name}: claim {name} stands twice")
        found[name] = Claim(**entry)
    return found


def claims_table(chosen: dict[str, Claim]) -> str:
    """A Markdown table: claim, whose, notebook, figure."""
    rows = ["| claim | whose | notebook | figure |", "|---|---|---|---|"]
    for claim in chosen.values():
        notebook = f"[{claim.notebook}]({claim.notebook}.ipynb)" if claim.notebook else "not examined yet"
        figure = f"[{claim.figure}](../figures/{claim.figure}.svg)" if claim.figure else ""
        rows.append(f"| {' '.join(claim.claim.split())} | {claim.whose} | {notebook} | {figure} |")
    return "\n".join(rows)
