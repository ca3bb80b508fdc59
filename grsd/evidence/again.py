"""Does today's code still give a stored value? One seed of a result, measured again."""

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
    """The stored value of one seed beside the one that today's code gives.

    ``tolerance``: relative to the stored value; 1e-9 for claims of identities (their rule takes the maximum or the
    minimum over seeds), 1e-6 for statistics. ``same_code``: whether the fingerprint of the code is the stored one.
    """

    claim: str
    seed: int
    stored: float
    today: float
    tolerance: float
    same_code: bool

    @property
    def agrees(self) -> bool:
        if math.isnan(self.stored) or math.isnan(self.today):
            return math.isnan(self.stored) and math.isnan(self.today)
        return self.today == self.stored or abs(self.today - self.stored) <= self.tolerance * abs(self.stored)

    def __str__(self) -> str:
        verdict = "agrees within" if self.agrees else "differs by more than"
        code = "the same code" if self.same_code else "other code"
        return (
            f"{self.claim}, seed {self.seed}: stored {self.stored!r}, today {self.today!r}: {verdict} "
            f"{self.tolerance:g} of it, {code}"
        )


def recheck(claim: Claim, result: Result, measurement: Measurement) -> Recheck:
    """Measure the first seed of ``result`` with today's code."""
    same = measurement.code == result.provenance["code"]
    tolerance = OF_IDENTITIES if claim.judged.summary in IDENTITIES else OF_STATISTICS
    seed = result.seeds[0]
    return Recheck(claim.id, seed, result.values[0], measurement.value(seed), tolerance, same)
