"""The contract of every condition: a call that measures one network, a call that judges an ensemble, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import xarray as xr
from scipy.stats import norm
from torch import Tensor, nn

from grsd.flow import Flow, Snapshot
from grsd.laws import more_seeds_said
from grsd.losses import check_loss


@dataclass(frozen=True)
class Verdict:
    """The verdict of an ensemble on a condition.

    Attributes:
        condition: its name in ``grsd.conditions.CONDITIONS``.
        verdict: "holds", "fails" or "inconclusive".
        estimate, interval: the number that decides, and its 95 % interval; ``reason`` names the number.
        power: probability that an ensemble of this size and spread decides; ``None`` if the interval does not tell.
        power_against: the truth for which this probability is computed, or the reason why there is none.
        reason: one sentence with the rule and its outcome.
        runs: number of networks judged.
        details: the condition's own record of its other estimates.
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

    ``name``: in the registry. ``paper``: its name in the paper. ``reads``: the kind of argument that ``measure`` takes:
    "start" (a ``grsd.Flow``, of which it reads the first snapshot, or a ``grsd.Snapshot`` or a module with its batch),
    "flow" (a ``grsd.Flow`` with time 0 among its times) or "history" (such a flow, or the dataset of ``grsd.run``).
    """

    name: str
    paper: str
    reads: str

    def measure(self, history: object, *args: object, **options: object) -> xr.Dataset:
        """Measure the condition on one network, any torch module, and return a labelled dataset."""

    def judge(self, ensemble: Sequence[xr.Dataset], **options: object) -> Verdict:
        """Judge the measurements of several networks."""


class Estimate(NamedTuple):
    """A number with its interval, and the largest allowed value. ``what``: the number in words."""

    what: str
    value: float
    interval: tuple[float, float]
    threshold: float


def deciding(verdict: str, estimates: Sequence[Estimate]) -> Estimate:
    """Return the number that decides the verdict, among numbers that must all stay below their thresholds.

    If the verdict is "fails", this is the number that fails most clearly; otherwise the one that is nearest to failing.
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
    """Build the verdict with its power and its reason.

    Args:
        decided: the number that was judged. ``confidence``: of its interval.
        least: smallest number of seeds that decides. ``seeds``: number of seeds; ``None``: each run has its own.
        also: a further reason for the verdict besides the interval, as half a sentence.
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
    needed = ""
    if verdict == "inconclusive" and math.isfinite(value):
        needed = more_seeds_said(value, (low, high), threshold, seeds, least=least)
    reason = "; ".join(part for part in (said, also, needed) if part)
    return Verdict(condition, verdict, value, (low, high), power, against, reason, runs, details)


def _power(decided: Estimate, seeds: int, least: int, confidence: float) -> tuple[float | None, str]:
    """Return the probability that the interval excludes the threshold if the truth is one threshold away from it.

    Errors are normal, with the spread of the measured interval.
    """
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
    """Return (module, inputs, targets) of a flow's first snapshot, or of a snapshot or a module with its batch.

    Errors: ``TypeError`` for a flow with an additional batch. The caller must check that the module is one.
    """
    if isinstance(history, Flow):
        if inputs is not None or targets is not None:
            raise TypeError(f"{call}(history, inputs, targets): a Flow has its own batch; leave inputs and targets out")
        return history.snapshots[0].model, history.inputs, history.targets
    return (history.model if isinstance(history, Snapshot) else history), inputs, targets


def of_squared_error(call: str, history: object) -> None:
    """Refuse a flow of another loss than the squared error, which the conditions are about."""
    if isinstance(history, Flow) and history.loss != "mse":
        raise ValueError(
            f"{call}(history): expected a flow of the squared error, which the paper's condition is about, got one of "
            f"loss={check_loss(call, history.loss)!r}; grsd.shell_history takes any"
        )


def flow_from_start(call: str, history: object) -> Flow:
    """Return ``history`` if it is a flow of the squared error with a snapshot at time 0 and a later one."""
    if not isinstance(history, Flow):
        raise TypeError(
            f"{call}(history): expected a grsd.Flow, made by grsd.gradient_flow(model, inputs, targets, [0, *times]), "
            f"got {type(history).__name__}"
        )
    of_squared_error(call, history)
    if len(history.snapshots) < 2 or history.snapshots[0].time != 0:
        raise ValueError(
            f"{call}(history): expected the start among the snapshots, as of grsd.gradient_flow(..., [0, *times]); "
            f"their times are {[round(snapshot.time, 6) for snapshot in history.snapshots]!s:.80}"
        )
    return history
