"""Do the conditions hold, is there a power law, what will the loss do: asked of what several networks gave."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy.stats import t as student

from grsd.auditing.followed import Followed
from grsd.auditing.verdicts import LEVEL, Number, more_runs, needs, number
from grsd.conditions import evolution, incoherence, interventions, invariance
from grsd.conditions.contract import Verdict
from grsd.conditions.matched import budget_at_loss, frontier_window, widths_of
from grsd.laws import beyond_growth
from grsd.theory import early, extended_fit, predict_loss, velocity_band
from grsd.theory.prediction import Early

LEVELS = (-2.5, -2.0, -1.5, -1.0, -0.75, -0.5, -0.25)
HELD_BACK = math.log(4)  # of log time at the end of a run, on which a forecast is tried
AHEAD = 8  # times of the forecast, over the next decade
REACH = 7.0  # e-folds below the frontier: farther down shells have hardly moved


@dataclass(frozen=True)
class Answer:
    """One condition, asked: its verdict ("not measured" if there is none), the sentence why, and its number."""

    condition: str
    asks: str
    verdict: str
    why: str
    number: Number


@dataclass(frozen=True)
class Forecast:
    """The loss over the next decade of time: ``loss`` with ``low`` and ``high`` for one further run, over ``times``.

    ``by``: the route, in words. ``error``: of the same route where the runs are known, mean |log(forecast / true)|;
    ``frozen``: that of a kernel that stands still, or of nothing.
    """

    by: str
    times: list[float]
    loss: list[float]
    low: list[float]
    high: list[float]
    error: Number
    frozen: Number


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
        why = " ".join(str(error).split())
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


def _of(found: Verdict, level: float = math.nan) -> Answer:
    low, high = found.interval
    estimate = found.estimate
    power = None if found.power is None else float(found.power)
    finite = all(map(math.isfinite, (estimate, low, high)))
    values = (float(estimate), float(low), float(high)) if finite else (None, None, None)
    threshold = THRESHOLDS.get(found.condition)
    more = None
    if finite and threshold is not None and found.verdict == "inconclusive":
        more = more_runs(found.runs, max(high - estimate, estimate - low), abs(estimate - threshold))
        short = LEAST[found.condition] - found.runs
        more = max(more, short) or None if more is not None else None
    asks = ASKS[found.condition]
    why = found.reason if math.isnan(level) else f"at e^{level:g} of the first loss, {found.reason}"
    if found.verdict == "inconclusive" and more is not None:
        why += f"; it {needs(more)}"
    return Answer(found.condition, asks, found.verdict, why, Number(asks, *values, found.runs, threshold, power, more))


LEAST = {
    "incoherence": incoherence.RULE.seeds,
    "invariance": invariance.LEAST_RUNS,
    "interventions": interventions.RULE.seeds,
    "evolution": evolution.LEAST_RUNS,
}
THRESHOLDS = {
    "incoherence": incoherence.RULE.threshold,
    "invariance": invariance.RULE.threshold,
    "interventions": interventions.RULE.threshold,
    "evolution": evolution.TREND,
}


def _gains(found: Sequence[xr.Dataset]) -> Answer:
    values = [float(run.growth) for run in found]
    nodes = ", ".join(str(name) for name in found[0].m_name.values)
    measured = number("largest growth of a squared gradient between two layers, half its log", values)
    why = (
        f"gradients grow by {measured} nats at most, between {found[0].sizes['m']} layers ({nodes}); whether that is "
        "bounded is a question of several depths: grsd.conditions.propagation.judge"
    )
    return Answer("propagation", ASKS["propagation"], "not judged", why, measured)


def _beyond(matched: Sequence[xr.Dataset], window: tuple[float, float], level: float) -> Answer:
    found = beyond_growth(matched, window=window)
    low, high = found.share_interval
    half, away = found.share - low, abs(found.share - 0.04)
    more = more_runs(found.runs, half, away) if found.verdict == "inconclusive" else 0
    why = f"at e^{level:g} of the first loss, {found.reason}"
    why += f"; it {needs(more)}" if found.verdict == "inconclusive" and more else ""
    asks = ASKS["beyond growth"]
    measured = Number(
        "share of the squared couplings beyond growth", found.share, low, high, found.runs, 0.04, None, more
    )
    return Answer("beyond growth", asks, found.verdict, why, measured)


def _distance(matched: Sequence[xr.Dataset], window: tuple[float, float], level: float) -> Answer:
    band = velocity_band(widths_of("audit", matched), window=window)
    found, asks = band.certificate(), ASKS["power law"]
    place = f"at e^{level:g} of the first loss, over {np.ptp(band.s):.1f} e-folds of the eigenvalue,"
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


def forecast(followed: Sequence[Followed], squared: bool) -> Forecast:
    """Forecast the loss over the next decade of time, and try the same on the end of what is known.

    By transport of the shell energies in a kernel that goes on growing as it did if the loss is the squared error, for
    which alone e' = -M e; else by the power law of its last e-fold of time.
    Errors: ``ValueError`` if no run is long enough.
    """
    runs = [_history(one, squared) for one in followed]
    errors: dict[str, list[float]] = {"growth": [], "lazy": []}
    logs = []
    last = math.exp(np.mean([math.log(run.time.values[-1]) for run in runs]))
    times = np.geomspace(last, 10 * last, AHEAD)
    for run in runs:
        known = run.time.values
        seen = early(run, known[-1] / math.exp(HELD_BACK)) if squared else _until(run, known[-1] / math.exp(HELD_BACK))
        later = known[known > seen.until * (1 + 1e-9)]
        truth = np.log(run.loss.values[-len(later) :])
        for kind, values in errors.items():
            if squared:
                guess = np.log(predict_loss(seen, later, kind).values)
            else:
                guess = np.log(extended_fit(seen, later).values) if kind == "growth" else np.full(len(later), np.nan)
            values.append(float(np.abs(guess - truth).mean()))
        shifted = times * known[-1] / last
        whole = early(run, known[-1]) if squared else _until(run, known[-1])
        ahead = predict_loss(whole, shifted, "growth") if squared else extended_fit(whole, shifted)
        logs.append(np.log(np.maximum(ahead.values, 1e-300)))
    middle, spread = np.mean(logs, axis=0), np.std(logs, axis=0, ddof=1)
    own = float(np.nanmean(errors["growth"])) * np.log(times / times[0] * math.exp(HELD_BACK)) / HELD_BACK
    half = student.ppf((1 + LEVEL) / 2, len(runs) - 1) * np.sqrt(spread**2 * (1 + 1 / len(runs)) + own**2)
    by = "a kernel that goes on growing as it did" if squared else "the power law of the last e-fold of time"
    meaning = "mean |log(forecast / true)| where the runs are known"
    ends = (np.exp(curve).tolist() for curve in (middle, middle - half, middle + half))
    return Forecast(by, times.tolist(), *ends, number(meaning, errors["growth"]), number(meaning, errors["lazy"]))


def _history(one: Followed, squared: bool) -> xr.Dataset:
    if squared and "history" in one.found:
        return one.found["history"]
    between = one.found["between"]
    if squared or "time_after" not in between:
        raise ValueError("the forecast needs the shells of every snapshot, which were left out")
    return xr.Dataset({"loss": ("time", between.loss_after.values)}, {"time": between.time_after.values})


def _until(run: xr.Dataset, until: float) -> Early:
    kept = run.isel(time=run.time.values <= until * (1 + 1e-9))
    if kept.sizes["time"] < 2:
        raise ValueError("a forecast needs at least two snapshots before the last factor of 4 of time")
    return Early(kept)
