"""Rules that judge claims: an interval over seeds, and the verdict that follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from grsd.support.records import check_record

DIRECTIONS = ("at most", "at least", "contains")
SUMMARIES = {"mean": np.mean, "median": np.median, "max": np.max, "min": np.min, "proportion": np.mean}
IDENTITIES = ("max", "min")
FIRST_CONFIRMATORY_SEED = 1000


@dataclass(frozen=True)
class DecisionRule:
    """A rule that judges a claim.

    Attributes:
        statistic: the quantity measured per seed, in words.
        summary: how the values are combined over seeds: mean or median (bootstrap interval), proportion (of zeros and
            ones; exact binomial interval), max or min (for an identity; no sampling interval).
        direction: ``"at most"``: the claim holds if the whole interval is at most ``threshold``; ``"at least"``
            likewise; ``"contains"``: it holds if the interval contains the threshold, and is inconclusive if the
            interval is wider than ``widest``.
        threshold, reason: the number, and the reason for it.
        fails_beyond, fails_reason: the claim fails if the whole interval is beyond this number (default: the
            threshold), and the reason for it; otherwise the verdict is ``inconclusive``.
        confidence: of the interval. ``seeds``: number of confirmatory seeds that a verdict needs.
        first_seed: the first of these seeds. A repeated claim starts beyond the seeds of all earlier ones.
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
        """Return (estimate, low, high) over seeds; the bootstrap (BCa, 9999 resamples) has a fixed seed."""
        return _interval(self.summary, self.confidence, tuple(np.asarray(values, dtype=float).tolist()))

    def verdict(self, low: float, high: float | None = None) -> str:
        """Return ``"holds"``, ``"fails"`` or ``"inconclusive"`` for [low, high]; without ``high``, for one number."""
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

    def needs(self, estimate: float, low: float, high: float, seeds: int, of: str = "seeds") -> str:
        """Return half a sentence for an inconclusive [low, high]: about how many more seeds would decide.

        The interval narrows as one over the square root of their number, the estimate stays. Empty if no seeds would
        help: for a verdict, for an interval that is not finite, and for an identity. ``of``: what is counted.
        """
        decided = self.verdict(low, high) != "inconclusive" and seeds >= self.seeds
        if decided or self.summary in IDENTITIES:
            return ""
        from grsd.laws.more_seeds import more_seeds_said  # the floor of laws is heavier than reading claims

        if self.direction == "contains":
            half = (high - low) / 2
            return more_seeds_said(0.0, (-half, half), self.widest / 2, seeds, least=self.seeds, of=of)
        beyond = self.threshold if self.fails_beyond is None else self.fails_beyond
        sign = 1 if self.direction == "at most" else -1
        holding, failing = sign * (self.threshold - estimate), sign * (estimate - beyond)
        nearest = self.threshold if holding >= 0 else beyond if failing >= 0 else estimate
        return more_seeds_said(estimate, (low, high), nearest, seeds, least=self.seeds, of=of)


@lru_cache(maxsize=4096)
def _interval(summary: str, confidence: float, values: tuple[float, ...]) -> tuple[float, float, float]:
    sample = np.array(values)
    function = SUMMARIES[summary]
    estimate = float(function(sample))
    if summary in IDENTITIES or not np.isfinite(sample).all():
        return estimate, estimate, estimate
    from scipy.stats import binomtest, bootstrap  # takes a second, and reading claims does not need it

    if summary == "proportion":
        exact = binomtest(int(sample.sum()), sample.size).proportion_ci(confidence, "exact")
        return estimate, float(exact.low), float(exact.high)
    if sample.size < 2 or np.ptp(sample) == 0:
        return estimate, (estimate if sample.size > 1 else -math.inf), (estimate if sample.size > 1 else math.inf)
    options = {"confidence_level": confidence, "rng": np.random.default_rng(0), "vectorized": True}
    found = bootstrap((sample,), function, **options).confidence_interval
    return estimate, float(found.low), float(found.high)


def read_rule(where: str, entry: Mapping[str, object]) -> DecisionRule:
    """Read the rule of a claim's entry in a file. Errors: ``ValueError`` in one line that starts with ``where``."""
    check_record(f"{where}: rule", entry, DecisionRule, {"statistic", "direction", "threshold", "reason"})
    rule = DecisionRule(**entry)
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
