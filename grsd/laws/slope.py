"""The slope of the loss on log-log axes, with its interval over runs and a test whether it is a slope at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from grsd.flow import Flow
from grsd.laws.scaling import LEAST_POINTS, PowerLawFit, fit_power_law
from grsd.shells.common import LEAST_RUNS
from grsd.support.arguments import dataset, listed
from grsd.support.values import positive, said, whole_number

CALL = "loss_slope"


def loss_slope(
    histories: Sequence[Flow | xr.Dataset],
    first: float,
    last: float,
    *,
    offset: float | None = 0.0,
    points: int = 12,
    level: float = 0.95,
    draws: int = 199,
) -> PowerLawFit:
    """Fit loss = a t^-b + c between two times to at least 4 runs; ``exponent`` is minus the slope of the loss.

    Args:
        histories: flows, or datasets with ``loss(time)`` such as those of ``grsd.run``; one per independent run.
        first, last: the window in time, which every run must cover. Losses are interpolated in log-log.
        offset: c; 0 is a pure power law, ``None`` fits it. points: number of times, log-spaced.
        level, draws: as in ``fit_power_law``.

    The verdict is the test: "power law", or what refuses it, by ``fit_power_law``. Intervals are jackknives over runs,
    since the points of one curve are not independent. Errors: ``TypeError`` or ``ValueError`` in one line.
    """
    first, last = positive(CALL, "first", first), positive(CALL, "last", last)
    if not last > first:
        raise ValueError(f"{CALL}(last=...): expected more than first={first:g}, got {said(last)}")
    whole_number(CALL, "points", points, LEAST_POINTS)
    at = np.geomspace(first, last, int(points))
    rows = []
    for number, run in enumerate(listed(CALL, "histories", histories, "flows or histories", LEAST_RUNS)):
        history = run.history if isinstance(run, Flow) else run
        dataset(CALL, "histories", history, {"loss": ("time",), "time": ("time",)}, "it with grsd.run(spec)")
        time, loss = history.time.values.astype(float), history.loss.values.astype(float)
        kept = time > 0
        inside = kept & (time >= first * (1 - 1e-9)) & (time <= last * (1 + 1e-9))
        reach = time[kept]
        if not len(reach) or reach[0] > first * (1 + 1e-9) or reach[-1] < last * (1 - 1e-9) or inside.sum() < 3:
            raise ValueError(
                f"{CALL}(first, last): expected at least 3 times of every run from {first:g} to {last:g}, run {number} "
                f"has {int(inside.sum())} of {len(time)}"
            )
        if not (loss[kept] > 0).all() or not np.isfinite(loss[kept]).all():
            raise ValueError(f"{CALL}(histories): expected finite losses above 0, run {number} has others")
        rows.append(np.exp(np.interp(np.log(at), np.log(reach), np.log(loss[kept]))))
    return fit_power_law(at, np.array(rows), offset=offset, level=level, draws=draws)
