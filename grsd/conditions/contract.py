"""What every condition is and says: one call to measure one network, one to judge an ensemble, one kind of verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import xarray as xr
from scipy.stats import norm
from torch import Tensor, nn

from grsd.flow import Flow, Snapshot


@dataclass(frozen=True)
class Verdict:
    """What an ensemble says about a condition.

    Attributes:
        condition: its name in ``grsd.conditions.CONDITIONS``.
        verdict: "holds", "fails" or "inconclusive".
        estimate, interval: of the number that decides, and its 95 % interval; ``reason`` says which it is.
        power: chance that an ensemble of this size and spread decides; ``None`` where the interval says nothing of it.
        power_against: the truth that this chance is computed for, or why there is none.
        reason: one sentence: which rule, and what came out.
        runs: how many networks were judged.
        details: the condition's own record of what else was estimated.
    """

    condition: str
    verdict: str
    estimate: float
    interval: tuple[float, float]
    power: float | None
    power_against: str
    reason: str
    runs: int
    details: object

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.verdict}: {self.estimate:.3g} [{low:.3g}, {high:.3g}], {self.runs} runs; {self.reason}"


@runtime_checkable
class Condition(Protocol):
    """A condition: a module of ``grsd.conditions``, or anything else with these attributes.

    ``name``: in the registry. ``paper``: what the paper calls it. ``reads``: what ``measure`` takes: "start" (a
    ``grsd.Flow``, of which it reads the first snapshot, or a ``grsd.Snapshot`` or a module with its batch), "flow" (a
    ``grsd.Flow`` with time 0 among its times) or "history" (such a flow, or the dataset of ``grsd.run``).
    """

    name: str
    paper: str
    reads: str

    def measure(self, history: object, *args: object, **options: object) -> xr.Dataset:
        """What one network, any torch module, shows of the condition, labelled."""

    def judge(self, ensemble: Sequence[xr.Dataset], **options: object) -> Verdict:
        """The verdict over the measurements of several networks."""


class Estimate(NamedTuple):
    """A number with its interval, and the most that it may be. ``what``: in words."""

    what: str
    value: float
    interval: tuple[float, float]
    threshold: float


def deciding(verdict: str, estimates: Sequence[Estimate]) -> Estimate:
    """Of numbers that must all stay under their thresholds the one that brought the verdict about.

    That which fails most surely where it fails, otherwise that which comes nearest to failing.
    """
    end = 0 if verdict == "fails" else 1
    known = [item for item in estimates if math.isfinite(item.value)]
    return max(known or estimates, key=lambda item: item.interval[end] / item.threshold)


def conclude(
    condition: str,
    verdict: str,
    decided: Estimate,
    runs: int,
    details: object,
    *,
    least: int,
    seeds: int | None = None,
    confidence: float = 0.95,
    also: str = "",
) -> Verdict:
    """The verdict with its power and its reason.

    Args:
        decided: what was judged. ``confidence``: of its interval.
        least: seeds under which nothing is decided. ``seeds``: how many there are; ``None``: each run has its own.
        also: what besides the interval made the verdict what it is, as half a sentence.
    """
    what, value, (low, high), threshold = decided
    seeds = runs if seeds is None else seeds
    power, against = _power(decided, seeds, least, confidence)
    if not math.isfinite(value):
        said = f"{what} could not be estimated"
    else:
        place = {"holds": "all of it at most", "fails": "all of it above", "inconclusive": "not decided beside"}
        if verdict == "inconclusive" and (high <= threshold or low > threshold):
            place[verdict] = "at most" if high <= threshold else "above"
        said = f"{what} is {value:.3g}, its interval [{low:.3g}, {high:.3g}] {place[verdict]} {threshold:g}"
    if seeds < least:
        also = f"{seeds} seeds are fewer than the {least} that a verdict needs"
    reason = f"{said}; {also}" if also else said
    return Verdict(condition, verdict, value, (low, high), power, against, reason, runs, details)


def _power(decided: Estimate, seeds: int, least: int, confidence: float) -> tuple[float | None, str]:
    """The chance that the interval clears the threshold, the truth one threshold away; normal errors of this spread."""
    if seeds < least:
        return 0.0, f"any truth: fewer than {least} seeds decide nothing"
    low, high = decided.interval
    half = max(high - decided.value, decided.value - low)
    if not (math.isfinite(half) and half > 0):
        return None, "nothing: the runs do not differ, or the interval is not finite"
    quantile = float(norm.ppf((1 + confidence) / 2))
    power = float(norm.cdf(quantile * (decided.threshold - half) / half))
    return power, f"a truth that lies {decided.threshold:g}, one threshold, above or below the threshold"


def first_snapshot(
    call: str, history: object, inputs: object, targets: object = None
) -> tuple[nn.Module | object, Tensor | object, Tensor | object]:
    """(module, inputs, targets) of a flow's first snapshot, or of a snapshot or a module with its batch.

    Errors: ``TypeError`` for a flow with a batch besides. What is no module is left for the caller's own checks.
    """
    if isinstance(history, Flow):
        if inputs is not None or targets is not None:
            raise TypeError(f"{call}(history, inputs, targets): a Flow has its own batch; leave inputs and targets out")
        return history.snapshots[0].model, history.inputs, history.targets
    return (history.model if isinstance(history, Snapshot) else history), inputs, targets


def flow_from_start(call: str, history: object) -> Flow:
    """``history`` if it is a flow with time 0 and a later one among its snapshots; refuse it otherwise."""
    if not isinstance(history, Flow):
        raise TypeError(
            f"{call}(history): expected a grsd.Flow, made by grsd.gradient_flow(model, inputs, targets, [0, *times]), "
            f"got {type(history).__name__}"
        )
    if len(history.snapshots) < 2 or history.snapshots[0].time != 0:
        raise ValueError(
            f"{call}(history): expected the start among the snapshots, as of grsd.gradient_flow(..., [0, *times]); "
            f"their times are {[round(snapshot.time, 6) for snapshot in history.snapshots]!s:.80}"
        )
    return history
