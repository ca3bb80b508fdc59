"""What the loss will do, as far as such a forecast holds where the runs are known; else one line: why not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy.stats import t as student

from grsd.auditing.followed import Followed
from grsd.auditing.verdicts import LEVEL, Number, number
from grsd.theory import early, extended_fit, predict_loss
from grsd.theory.prediction import Early

HELD_BACK = math.log(4)  # of log time at the end of a run, on which a forecast is tried
AHEAD = 8  # times of the forecast
FARTHEST, NEAREST = math.log(10), math.log(1.5)  # of log time: how far it goes at most, and at least
WIDEST = math.log(3)  # half of an interval in log loss; a wider one says nothing that a look at the curve does not
MEANING = "mean |log(forecast / true)| where the runs are known"


@dataclass(frozen=True)
class Forecast:
    """The loss over the next stretch of time: ``loss`` with ``low`` and ``high`` for one further run, over ``times``.

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


def forecast(followed: Sequence[Followed], squared: bool) -> Forecast:
    """Forecast the loss, over the next decade of time at most, and try the same on the end of what is known.

    By transport of the shell energies in a kernel that goes on growing as it did if the loss is the squared error, for
    which alone e' = -M e; else by the power law of its last e-fold of time. The error of a forecast is taken to grow in
    proportion to log time ahead, as fast as it did on the last factor of four of each run. The forecast ends where its
    interval, for one further run, becomes wider than a factor of three to either side.

    Errors: ``ValueError`` if no run is long enough, or if this end comes before 1.5 times the time.
    """
    runs = [_history(one, squared) for one in followed]
    tried = [_tried(run, squared) for run in runs]
    by = "a kernel that goes on growing as it did" if squared else "the power law of the last e-fold of time"
    error = number(MEANING, [wrong for wrong, _, _ in tried])
    pace = float(np.mean([wrong / far for wrong, far, _ in tried]))
    last = math.exp(np.mean([math.log(run.time.values[-1]) for run in runs]))

    def ahead(reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(distance in log time, middle, half of the interval) of the log of the loss."""
        distance = np.linspace(0.0, reach, AHEAD)
        logs = [_onwards(run, distance, squared) for run in runs]
        spread, count = np.std(logs, axis=0, ddof=1), len(runs)
        quantile = student.ppf((1 + LEVEL) / 2, count - 1)
        half = quantile * np.sqrt(spread**2 * (1 + 1 / count) + np.square(pace * distance))
        return distance, np.mean(logs, axis=0), half

    distance, middle, half = ahead(FARTHEST)
    if half[-1] > WIDEST:
        reach = float(np.interp(WIDEST, np.maximum.accumulate(half), distance)) if half[0] < WIDEST else 0.0
        if reach < NEAREST:
            raise ValueError(
                f"the loss does not follow {by} in the seen part: tried on the last factor of four of time, such a "
                f"forecast is wrong by {error} in the log, and one from the end on would soon be off by a factor of "
                f"{math.exp(WIDEST):.0f}"
            )
        distance, middle, half = ahead(reach)
    ends = (np.exp(curve).tolist() for curve in (middle, middle - half, middle + half))
    times = (last * np.exp(distance)).tolist()
    return Forecast(by, times, *ends, error, number(MEANING, [frozen for _, _, frozen in tried]))


def _tried(run: xr.Dataset, squared: bool) -> tuple[float, float, float]:
    """Return mean |log(forecast / true)| over the held-back end, its mean log time ahead, and a frozen kernel's."""
    known = run.time.values
    seen = _until(run, known[-1] / math.exp(HELD_BACK), squared)
    later = known[known > seen.until * (1 + 1e-9)]
    truth = np.log(run.loss.values[-len(later) :])

    def wrong(guess: xr.DataArray) -> float:
        return float(np.abs(np.log(np.maximum(guess.values, 1e-300)) - truth).mean())

    far = float(np.log(later / seen.until).mean())
    if not squared:
        return wrong(extended_fit(seen, later)), far, math.nan
    return wrong(predict_loss(seen, later, "growth")), far, wrong(predict_loss(seen, later, "lazy"))


def _onwards(run: xr.Dataset, distance: np.ndarray, squared: bool) -> np.ndarray:
    """Return the log of the forecast loss at times e^distance beyond the end of the run."""
    whole, times = _until(run, run.time.values[-1], squared), run.time.values[-1] * np.exp(distance)
    found = predict_loss(whole, times, "growth") if squared else extended_fit(whole, times)
    return np.log(np.maximum(found.values, 1e-300))


def _history(one: Followed, squared: bool) -> xr.Dataset:
    if squared and "history" in one.found:
        return one.found["history"]
    between = one.found["between"]
    if squared or "time_after" not in between:
        raise ValueError("the forecast needs the shells of every snapshot, which were left out")
    return xr.Dataset({"loss": ("time", between.loss_after.values)}, {"time": between.time_after.values})


def _until(run: xr.Dataset, until: float, squared: bool) -> Early:
    if squared:
        return early(run, until)
    kept = run.isel(time=run.time.values <= until * (1 + 1e-9))
    if kept.sizes["time"] < 2:
        raise ValueError("a forecast needs at least two snapshots before the last factor of 4 of time")
    return Early(kept)
