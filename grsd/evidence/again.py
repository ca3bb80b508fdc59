"""Measure one seed of a result again, to see whether today's code still gives the stored value."""

from __future__ import annotations

import math
from dataclasses import dataclass

from grsd.evidence.claim import Claim
from grsd.evidence.measurement import Measurement
from grsd.evidence.result import Result
from grsd.evidence.rules import IDENTITIES

OF_IDENTITIES, OF_STATISTICS = 1e-9, 1e-6


@dataclass(frozen=True)
class Recheck:
    """The stored value of one seed and the value that today's code gives.

    ``allowed``: the largest difference of values that agree. ``same_side``: for the claim of an identity, whether both
    values are on the same side of the rule's threshold. ``same_code``: whether the fingerprint of the code is the
    stored one.
    """

    claim: str
    seed: int
    stored: float
    today: float
    allowed: float
    same_side: bool
    same_code: bool

    @property
    def agrees(self) -> bool:
        if math.isnan(self.stored) or math.isnan(self.today):
            return math.isnan(self.stored) and math.isnan(self.today)
        return self.same_side and (self.today == self.stored or abs(self.today - self.stored) <= self.allowed)

    def __str__(self) -> str:
        verdict = "agrees" if self.agrees else "differs"
        side = "" if self.same_side else ", on the other side of the threshold"
        code = "the same code" if self.same_code else "other code than measured it"
        return (
            f"{self.claim}, seed {self.seed}: {verdict}: stored {self.stored!r}, today {self.today!r}, allowed "
            f"{self.allowed:.3g} apart{side}; {code}"
        )


def recheck(claim: Claim, result: Result, measurement: Measurement) -> Recheck:
    """Measure the first seed of ``result`` with today's code.

    Statistics agree if they differ by at most 1e-6 of the stored value. The values of a claim of an identity (its rule
    takes the maximum or minimum over seeds) are relative differences, often mere rounding: they agree if they differ
    by at most 1e-9, relative for values above one, and lie on the same side of the threshold.
    """
    same_code = measurement.code == result.provenance["code"]
    seed, stored = result.seeds[0], result.values[0]
    today = measurement.value(seed)
    rule = claim.judged
    if rule.summary in IDENTITIES:
        same_side = rule.verdict(stored) == rule.verdict(today)
        return Recheck(claim.id, seed, stored, today, OF_IDENTITIES * max(1.0, abs(stored)), same_side, same_code)
    return Recheck(claim.id, seed, stored, today, OF_STATISTICS * abs(stored), True, same_code)
