"""Do the conditions hold, is there a power law, what will the loss do: asked of what several networks gave."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from grsd.auditing.cuts import CUTS, cuts
from grsd.auditing.followed import Followed
from grsd.auditing.verdicts import Number, more_runs, number
from grsd.conditions import evolution, incoherence, interventions, invariance, propagation
from grsd.conditions.contract import Verdict
from grsd.conditions.matched import budget_at_loss, frontier_window, widths_of
from grsd.laws import beyond_growth
from grsd.laws.beyond import LEAST_RUNS, NEGLIGIBLE
from grsd.theory import velocity_band

LEVELS = (-2.5, -2.0, -1.5, -1.0, -0.75, -0.5, -0.25)
CALLED = re.compile(
    r"^[a-z_.]+(\.(judge|measure)|(?=\())(\([^)]*\))?: "
)  # a call that the reader of a report has not written
REACH = 7.0  # e-folds below the frontier: farther down shells have hardly moved


@dataclass(frozen=True)
class Answer:
    """One condition, asked: its verdict ("not measured" if there is none), the sentence why, and its number."""

    condition: str
    asks: str
    verdict: str
    why: str
    number: Number


ASKS = {
    "propagation": "are gradients bounded through the layers?",
    "incoherence": "does the flux at the start add up like a random walk?",
    "evolution": "is the change of the kernel controlled along training?",
    "invariance": "do couplings between shells collapse under a shift in log eigenvalue?",
    "beyond growth": "is there more in these couplings than growth of the whole kernel?",
    "interventions": "does one clock predict the flux when energies are changed by hand?",
    "power law": "how far is the velocity of energy from a power law, at most?",
}


def conditions(followed: Sequence[Followed]) -> list[Answer]:
    """Judge what was measured; what could not be measured or judged is said with its reason."""
    matched, window, level = _matched(followed)
    asked: dict[str, Callable[[], Answer]] = {
        "propagation": lambda: _gains(_all(followed, "gains")),
        "incoherence": lambda: _of(incoherence.judge(_all(followed, "signs"))),
        "evolution": lambda: _of(evolution.judge(_all(followed, "rates"))),
        "invariance": lambda: _of(invariance.judge(_given(matched), window=window), level),
        "beyond growth": lambda: _beyond(_given(matched), window, level),
        "interventions": lambda: _of(interventions.judge(_all(followed, "responses"), window=window)),
        "power law": lambda: _distance(_given(matched), window, level),
    }
    return [_answered(name, ask) for name, ask in asked.items()]


def _answered(name: str, ask: Callable[[], Answer]) -> Answer:
    try:
        return ask()
    except (ValueError, TypeError, RuntimeError) as error:
        why = CALLED.sub("", " ".join(str(error).split()))
        return Answer(name, ASKS[name], "not measured", why, number(ASKS[name], []))


def _all(followed: Sequence[Followed], name: str) -> list[xr.Dataset]:
    there = [one.found[name] for one in followed if name in one.found]
    if len(there) < len(followed):
        reasons = [one.refused[name] for one in followed if name in one.refused]
        raise ValueError(reasons[0] if reasons else "left out: the budget has no room for it")
    return there


def _matched(followed: Sequence[Followed]) -> tuple[list[xr.Dataset], tuple[float, float], float]:
    """Return the budgets of all runs at the lowest loss that all have passed, the window, and the log of that loss."""
    for level in LEVELS:
        try:
            found = [budget_at_loss("audit", run, (), level) for run in _all(followed, "history")]
            return found, frontier_window(found, REACH), level
        except (ValueError, TypeError):
            continue
    return [], (-math.inf, math.inf), math.nan


def _given(matched: Sequence[xr.Dataset]) -> Sequence[xr.Dataset]:
    if not matched:
        raise ValueError("the runs have no common loss, e^-.25 of the start or lower, between two of their snapshots")
    return matched


def _of(found: Verdict, level: float = math.nan, runs: int | None = None) -> Answer:
    """Return a condition's verdict as an answer; ``runs``: networks, where they are fewer than what was judged."""
    low, high = found.interval
    estimate, runs = found.estimate, runs or found.runs
    power = None if found.power is None else float(found.power)
    finite = all(map(math.isfinite, (estimate, low, high)))
    values = (float(estimate), float(low), float(high)) if finite else (None, None, None)
    threshold, more = THRESHOLDS.get(found.condition), None
    if finite and threshold is not None and found.verdict == "inconclusive":
        more = more_runs(estimate, (low, high), threshold, runs, LEAST[found.condition]) or None
    asks = ASKS[found.condition]
    why = found.reason if math.isnan(level) else f"{_at(level)}, {found.reason}"
    return Answer(found.condition, asks, found.verdict, why, Number(asks, *values, runs, threshold, power, more))


def _at(level: float) -> str:
    return f"when the loss has fallen to {math.exp(level):.2g} of its start"


LEAST = {
    "propagation": propagation.RULE.seeds,
    "incoherence": incoherence.RULE.seeds,
    "invariance": invariance.LEAST_RUNS,
    "interventions": interventions.RULE.seeds,
    "evolution": evolution.LEAST_RUNS,
}
THRESHOLDS = {
    "propagation": propagation.RULE.threshold,
    "incoherence": incoherence.RULE.threshold,
    "invariance": invariance.RULE.threshold,
    "interventions": interventions.RULE.threshold,
    "evolution": evolution.TREND,
}


def _gains(found: Sequence[xr.Dataset]) -> Answer:
    """Judge gradients by cutting each network after 2, 3, ... of its nodes: what is left is that network at a depth.

    With fewer than four nodes, or seeds, nothing is judged; the answer says what to call instead.
    """
    names = [str(name) for name in found[0].m_name.values]
    nodes = f"{', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"
    if len(names) >= CUTS + 1 and len(found) >= propagation.RULE.seeds:
        judged = propagation.judge([part for run in found for part in cuts(run)])
        answer = _of(judged, runs=len(found))
        return replace(answer, why=f"cut after 2 to {len(names)} of its nodes ({nodes}): {answer.why}")
    measured = number("largest growth of a squared gradient between two nodes, half its log", _all_growths(found))
    few = (
        f"{len(found)} seeds, and a verdict needs {propagation.RULE.seeds}"
        if len(names) >= CUTS + 1
        else f"{len(names)} nodes ({nodes}), and cutting the network at {CUTS} depths takes {CUTS + 1}"
    )
    why = (
        f"the log of a gradient's size grows by {measured} at most between two layers; whether that is bounded is a "
        "question of several depths: there are "
        f"{few}. Give them with make(depth, seed): grsd.conditions.judge_models('propagation', make, inputs, targets, "
        "depths=[4, 8, 16])"
    )
    return Answer("propagation", ASKS["propagation"], "not judged", why, measured)


def _all_growths(found: Sequence[xr.Dataset]) -> list[float]:
    return [float(run.growth) for run in found]


def _beyond(matched: Sequence[xr.Dataset], window: tuple[float, float], level: float) -> Answer:
    found = beyond_growth(matched, window=window)
    low, high = found.share_interval
    more = 0
    if found.verdict == "inconclusive":
        more = more_runs((low + high) / 2, (low, high), NEGLIGIBLE, found.runs, LEAST_RUNS)
    why = f"{_at(level)}, {found.reason}"
    what = "share of the squared couplings beyond growth"
    measured = Number(what, found.share, low, high, found.runs, NEGLIGIBLE, None, more)
    return Answer("beyond growth", ASKS["beyond growth"], found.verdict, why, measured)


def _distance(matched: Sequence[xr.Dataset], window: tuple[float, float], level: float) -> Answer:
    band = velocity_band(widths_of("audit", matched), window=window)
    found, asks = band.certificate(), ASKS["power law"]
    place = f"{_at(level)}, over {np.ptp(band.s):.1f} e-folds of the eigenvalue,"
    if math.isinf(found.least):
        why = f"{place} the velocity certainly changes its sign, which no power law does"
        return Answer("power law", asks, "fails", why, number(asks, []))
    if math.isinf(found.most):
        why = f"{place} the velocity's sign is not certain everywhere: no largest distance can be certified"
        return Answer("power law", asks, "inconclusive", f"{why}; it needs more seeds", number(asks, []))
    low, high = found.slopes
    why = (
        f"{place} a power law is {found.least:.2f} to {found.most:.2f} away in the log of the velocity, at 95 %; "
        f"u ~ lambda^(b - 1), b from {1 + low:.2f} to {1 + high:.2f}"
    )
    verdict = "holds" if found.most <= math.log(2) else "fails" if found.least > math.log(2) else "inconclusive"
    why += ", within a factor of 2" if verdict == "holds" else ""
    middle, what = (found.least + found.most) / 2, "distance to the nearest power law, in logs"
    measured = Number(what, middle, found.least, found.most, band.runs, math.log(2))
    return Answer("power law", asks, verdict, why, measured)
