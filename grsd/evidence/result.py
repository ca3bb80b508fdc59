"""Results: the values of a claim over seeds. Its rule judges them when they are measured and when they are read."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from grsd.evidence.claim import Claim, claims
from grsd.evidence.measurement import Measurement
from grsd.evidence.source import UNKNOWN, commit
from grsd.support.files import write_atomically
from grsd.support.folders import one_line, project, read
from grsd.support.provenance import provenance
from grsd.support.records import check_record

PILOT_SEEDS = range(100)
PROVENANCE = ("versions", "code", "commit", "command")


@dataclass(frozen=True, kw_only=True)
class Result:
    """A judged claim.

    Attributes:
        claim: its id. ``rule_hash``: ``Claim.hash`` when it was measured.
        carried_over_from: the hash that an earlier definition of ``Claim.hash`` gave; see data/claims/MIGRATION.md.
        seeds, values: one value per seed. ``estimate``, ``low``, ``high``, ``verdict``: the outcome of the rule.
        protocol: all settings of the measurement as plain values.
        provenance: ``versions`` of the libraries, ``code`` (fingerprint of the code that measured), ``commit`` of the
            repository, ``command``; "unknown" if it was not recorded. ``seconds``: that the measurement took, with the
            runs that were kept by then; absent if they were not recorded. ``stored_in``, only for results of an
            unknown commit: the commit that first contains the values.
    """

    claim: str
    rule_hash: str
    carried_over_from: str | None = None
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    estimate: float
    low: float
    high: float
    verdict: str
    protocol: dict[str, object]
    provenance: dict[str, object]


def judge(
    claim: Claim,
    seeds: Sequence[int],
    values: Sequence[float],
    protocol: Mapping[str, object],
    code: str = UNKNOWN,
    seconds: float | None = None,
) -> Result:
    """Judge a claim on confirmatory seeds that were measured just now, under ``protocol``, by ``code``, in ``seconds``.

    Errors: ``ValueError`` for seeds below the rule's first (seeds below 1000 are pilots), repeated seeds, fewer seeds
    than the rule asks for, or a number of values that differs from the number of seeds.
    """
    made = {"code": code, "commit": commit(), "command": f"grsd claims --confirm {claim.id}"}
    took = {} if seconds is None else {"seconds": round(seconds, 1)}
    return Result(
        claim=claim.id,
        rule_hash=claim.hash,
        seeds=tuple(int(seed) for seed in seeds),
        values=tuple(float(value) for value in values),
        **_judged(claim, seeds, values),
        protocol=_as_stored(protocol),
        provenance=provenance() | made | took,
    )


def confirm(claim: Claim, measurement: Measurement) -> Result:
    """Measure the confirmatory seeds that the rule asks for, one after the other, and ``judge`` them."""
    protocol, code = measurement.settings, measurement.code  # refusals come before the run
    first = claim.judged.first_seed
    seeds = range(first, first + claim.judged.seeds)
    begun = time.perf_counter()
    values = [measurement.value(seed) for seed in seeds]
    return judge(claim, seeds, values, protocol, code, time.perf_counter() - begun)


def write_result(result: Result, folder: Path | None = None) -> Path:
    """Store a result as data/results/CLAIM.json, atomically; if that fails, print it so that it is not lost."""
    folder = folder or project() / "data" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.claim}.json"
    text = json.dumps(asdict(result), indent=1) + "\n"
    try:
        return write_atomically(path, text.encode())
    except OSError:
        print(text, end="", flush=True)
        raise


def results(
    folder: Path | None = None,
    known: Mapping[str, Claim] | None = None,
    measurements: Mapping[str, Measurement] | None = None,
) -> dict[str, Result]:
    """Return the stored results by claim, each judged again from its values.

    ``measurements``: today's measurements by identifier; the results that belong to one of them must have the same
    protocol. A result of older code stays valid; ``grsd.evidence.recheck`` tells whether today's code agrees.

    Errors: ``ValueError`` naming the file if the claim is unknown, its rule or its protocol has changed since, a seed
    is a pilot seed, or the stored interval or verdict is not what the values give.
    """
    folder = folder or project() / "data" / "results"
    known = claims() if known is None else known
    found = {}
    for path in sorted(folder.glob("*.json")):
        stored = _stored(path)
        if stored.claim not in known or path.stem != stored.claim:
            raise ValueError(f"{path.name}: no claim {one_line(stored.claim, 80)!r} in data/claims")
        claim = known[stored.claim]
        if stored.rule_hash != claim.hash:
            raise ValueError(
                f"{path.name}: the rule of {claim.id} has changed since this result; grsd claims --confirm {claim.id}"
            )
        again = _judged(claim, stored.seeds, stored.values)
        numbers = [name for name in again if name != "verdict"]
        same = np.allclose(
            [getattr(stored, name) for name in numbers], [again[name] for name in numbers], rtol=1e-9, equal_nan=True
        )
        if not same or stored.verdict != again["verdict"]:
            raise ValueError(f"{path.name}: stored as {stored.verdict}, but its values give {again['verdict']}")
        if measurements is not None and claim.measurement in measurements:
            _refuse_other_protocol(path, stored, measurements[claim.measurement])
        found[claim.id] = stored
    return found


def _judged(claim: Claim, seeds: Sequence[int], values: Sequence[float]) -> dict[str, float | str]:
    rule = claim.judged
    if len(seeds) != len(values):
        raise ValueError(
            f"judge({claim.id}): expected one value per seed, got {len(seeds)} seeds and {len(values)} values"
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
    return {"estimate": estimate, "low": low, "high": high, "verdict": rule.verdict(low, high)}


def _as_stored(protocol: Mapping[str, object]) -> dict[str, object]:
    return json.loads(json.dumps(dict(protocol)))


def _refuse_other_protocol(path: Path, stored: Result, measurement: Measurement) -> None:
    before, today = (_by_path(values) for values in (stored.protocol, _as_stored(measurement.settings)))
    for name in sorted(before.keys() | today.keys()):
        was, now = (f"{values[name]!r:.60}" if name in values else "absent" for values in (before, today))
        if before.get(name, ...) != today.get(name, ...):
            raise ValueError(
                f"{path.name}: its protocol has changed since it was measured: {one_line(name, 80)} was "
                f"{one_line(was, 80)} and is {one_line(now, 80)} now; grsd claims --confirm {stored.claim}"
            )


def _by_path(protocol: object, path: str = "") -> dict[str, object]:
    """Return each setting by its path, such as networks.depth."""
    if not isinstance(protocol, dict):
        return {path: protocol}
    inside = (_by_path(value, f"{path}.{name}".lstrip(".")) for name, value in protocol.items())
    return {name: value for part in inside for name, value in part.items()}


def _stored(path: Path) -> Result:
    """Errors: ``ValueError`` naming the file, and the field that is missing, too many or not what it must be."""
    try:
        content = json.loads(read(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path.name}: cannot be read as JSON: {one_line(error)}") from None
    check_record(path.name, content, Result, {field.name for field in fields(Result)})
    if not content["values"]:
        raise ValueError(f"{path.name}: values: expected one per seed, got none")
    for name in PROVENANCE:
        if not isinstance(content["provenance"].get(name), str):
            raise ValueError(f"{path.name}: provenance: expected texts {', '.join(PROVENANCE)}; {name} is none")
    return Result(**content | {name: tuple(content[name]) for name in ("seeds", "values")})
