"""Lazy, a running clock, or transport: numbers over runs with their intervals, and the rules that decide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm

from grsd.auditing.shares import Shares
from grsd.evidence import DecisionRule
from grsd.laws.ensemble import mean_interval
from grsd.laws.more_seeds import more_seeds

LEVEL = 0.95
APART = 0.1  # power is against truths this far from a threshold
LEAST_RUNS = 3
FALLEN = 0.2  # e-folds of loss below which nothing was learned that could be judged
MOST_MORE = 1000
LAZY = DecisionRule(
    statistic="what the kernel's motion did to the shells' energies, over how they changed",
    direction="at most",
    threshold=0.1,
    reason="the motion of the kernel is then a tenth of what learning does, and a frozen kernel tells the course",
)
CLOCK = DecisionRule(
    statistic="share of the squared flux between shells that the best growth of the whole kernel gives",
    direction="at least",
    threshold=0.75,
    reason="a flux whose rate is tilted by one power of the eigenvalue, up or down, stays below it",
)
WORDS = ("lazy", "running clock", "transport", "inconclusive")
UNITS = {"runs": ("seed", "seeds"), "groups": ("sample group", "sample groups")}


@dataclass(frozen=True)
class Number:
    """A number over runs: its mean, its 95 % interval by Student's quantile, and what that can decide.

    Attributes:
        meaning: in words. ``threshold``: it is judged against, or ``None``.
        power: probability that so many runs of this spread decide if the truth lies .1 from the threshold.
        more: about how many more runs would decide; 0 if they have; ``None`` if no number would, or nothing is judged.
    """

    meaning: str
    value: float | None
    low: float | None
    high: float | None
    runs: int
    threshold: float | None = None
    power: float | None = None
    more: int | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "not measured"
        value, low, high = (round(one, 2) + 0.0 for one in (self.value, self.low, self.high))  # -0.0 + 0.0 is 0.0
        return f"{value:.2f} [{low:.2f}, {high:.2f}]"


@dataclass(frozen=True)
class Decision:
    """The verdict, one of ``WORDS``, in one sentence why, and the numbers by name."""

    verdict: str
    why: str
    more: int | None
    numbers: dict[str, Number]


def number(meaning: str, values: Sequence[float], rule: DecisionRule | None = None) -> Number:
    """Return the number over the finite values, judged by ``rule``."""
    kept = np.array([value for value in values if math.isfinite(value)])
    if not len(kept):
        return Number(meaning, None, None, None, 0, rule and rule.threshold)
    if len(kept) < 2:
        return Number(meaning, float(kept[0]), None, None, 1, rule and rule.threshold)
    value, (low, high) = mean_interval(kept, LEVEL)
    if rule is None:
        return Number(meaning, value, low, high, len(kept))
    half, runs = high - value, len(kept)
    power = None if half == 0 else float(norm.cdf(norm.ppf((1 + LEVEL) / 2) * (APART / half - 1)))
    return Number(
        meaning, value, low, high, runs, rule.threshold, power, more_runs(value, (low, high), rule.threshold, runs)
    )


def more_runs(value: float, interval: tuple[float, float], threshold: float, runs: int, least: int = 0) -> int | None:
    """Return about how many more runs would decide, as ``more_seeds``; ``None`` for more than ``MOST_MORE``."""
    more = more_seeds(value, interval, threshold, runs, least=least)
    return int(more) if more <= MOST_MORE else None


def decide(found: Sequence[Shares], unit: str, timed: bool) -> Decision:
    """Judge the shares of several runs, or of groups of samples of one; ``timed``: whether they have a clock."""
    numbers = {
        "moved": number(LAZY.statistic, [one.moved for one in found], LAZY),
        "growth_share": number(CLOCK.statistic, [one.growth for one in found], CLOCK),
        "clock": number(
            "the exponent c if the kernel grows as t^c over the last e-fold of the loss", [one.clock for one in found]
        ),
        "log_growth": number("e-folds by which the whole kernel grew", [one.log_growth for one in found]),
        **{
            name: number(f"share of the change of the shells' energies that {text}", [one.parts[name] for one in found])
            for name, text in SHARE_WORDS.items()
        },
        "fallen": number("e-folds by which the loss fell", [one.fallen for one in found]),
        "position_start": number("spectral position at the start", [one.position[0] for one in found]),
        "position_end": number("spectral position at the end", [one.position[1] for one in found]),
    }
    if timed:
        numbers["clock"] = _drifting(numbers["clock"], [one.drift for one in found])
    else:
        del numbers["clock"]
    verdict, why, more = _judged(numbers, len(found), unit)
    return Decision(verdict, why, more, numbers)


def _drifting(clock: Number, drifts: Sequence[float]) -> Number:
    """Return c with the half of its own drift within the e-fold added, in quadrature, to the half of its interval."""
    if clock.low is None:
        return clock
    half = math.hypot(clock.high - clock.value, float(np.mean(np.abs(drifts))) / 2)
    meaning = f"{clock.meaning}; its interval holds half of its drift there too"
    return replace(clock, meaning=meaning, low=clock.value - half, high=clock.value + half)


SHARE_WORDS = {
    "frozen": "a kernel that stands still gives",
    "growth": "a kernel that grows as a whole adds",
    "rest": "eigenvalues that cross and eigenvectors that rotate add",
}


def _judged(numbers: dict[str, Number], runs: int, unit: str) -> tuple[str, str, int | None]:
    moved, share, fallen = numbers["moved"], numbers["growth_share"], numbers["fallen"]
    if fallen.value is None or fallen.value < FALLEN:
        return "inconclusive", _unlearned(fallen.value), None
    if runs < LEAST_RUNS or moved.low is None:
        return (
            "inconclusive",
            f"{runs} {UNITS[unit][runs > 1]} are too few: a verdict needs {LEAST_RUNS}",
            max(LEAST_RUNS - runs, 1),
        )
    lazy = LAZY.verdict(moved.low, moved.high)
    if lazy == "holds":
        return "lazy", f"the kernel's motion did {moved} of what learning did; at most {LAZY.threshold:g} is lazy", 0
    if lazy == "inconclusive":
        return _open("the kernel's motion over what learning did", moved, unit)
    if share.low is None:
        return "inconclusive", "no flux between shells could be read", None
    clock = CLOCK.verdict(share.low, share.high)
    if clock == "inconclusive":
        return _open(f"the kernel moves ({moved}); growth's share of the squared flux", share, unit)
    if clock == "holds":
        timed = numbers.get("clock")
        said = "" if timed is None or timed.value is None else f"; the kernel grows as t^c, c = {timed}"
        return (
            "running clock",
            f"growth of the whole kernel gives {share} of the squared flux, at least {CLOCK.threshold:g}{said}",
            0,
        )
    return (
        "transport",
        f"growth of the whole kernel gives only {share} of the squared flux, less than {CLOCK.threshold:g}",
        0,
    )


def _unlearned(fallen: float | None) -> str:
    """Say that nothing was learned, and what may be wrong."""
    why = "train for longer, or on other targets"
    if fallen is None:
        return f"the loss cannot be read, so nothing was learned that could be judged; {why}"
    how, change = "hardly changed", f"it {'rose' if fallen < 0 else 'fell'} by {abs(fallen):.2f} e-folds"
    if fallen <= -FALLEN:
        how = "rose"
        why = "are the states in the order of training, or was a learning rate past the edge of stability?"
    return f"the loss {how} ({change}), so nothing was learned that could be judged; {why}"


def _open(text: str, decided: Number, unit: str) -> tuple[str, str, int | None]:
    return (
        "inconclusive",
        f"{text}, {decided}, may lie on either side of {decided.threshold:g}; it {needs(decided.more, unit)}",
        decided.more,
    )


def needs(more: int | None, unit: str = "runs") -> str:
    """Return "needs about n more seeds"."""
    if more is None:
        return f"lies so near to the threshold that {MOST_MORE} more {UNITS[unit][1]} would not tell"
    return f"needs about {more} more {UNITS[unit][more != 1]}"
