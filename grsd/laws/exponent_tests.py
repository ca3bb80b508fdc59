"""Estimate one exponent in three ways: from the velocity's profile, from the couplings, and from the change in time.

Log-shift invariance and covariance together give u = c lambda^{b-1} t^{b-2} (theorem 1), so the slope over s, the slope
of the couplings and the slope in log time, with a free origin of time, must agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy import stats

from grsd.laws.coupling import couplings
from grsd.laws.ensemble import jackknife_interval
from grsd.laws.fit import FARTHEST, exponents_and_amplitudes
from grsd.laws.velocity import velocities
from grsd.shells.common import same_runs
from grsd.support.arguments import span_of, times_of
from grsd.support.values import level_of

NAMES = ("profile", "couplings", "clock")
ORIGINS = np.concatenate([[0.0], np.geomspace(1e-2, 30, 60)])


@dataclass(frozen=True)
class Exponents:
    """b by ``NAMES``: ``values``, ``intervals`` (jackknife over runs, at ``level``), and whether they agree.

    ``origin``: t_0 >= 0 in c ~ (t + t_0)^{b-2}, a time. ``p``: p-value of Hotelling's test that the three are equal.
    ``times`` (T,); ``amplitudes`` (T,): c at ``reference``, 1 / time.
    """

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    p: float
    origin: float
    times: np.ndarray
    amplitudes: np.ndarray
    reference: float
    runs: int


def exponents(
    budgets: Sequence[Sequence[xr.Dataset]],
    times: Sequence[float],
    *,
    window: tuple[float, float],
    k_max: int = 1,
    level: float = 0.95,
) -> Exponents:
    """Fit b in three ways to R >= 5 runs at T >= 4 times: ``budgets[i][r]`` is run r at ``times[i]``, one shell width.

    "profile" and "couplings" are means over times of the fits of ``velocity_law`` and ``coupling_law`` in ``window``;
    "clock" is 2 + d log c / d log(t + t_0), where c is the amplitude at the middle of the window and t_0 >= 0 is
    fitted. A jackknife over runs tests the differences of the three. Source: this project's. Cost: negligible.
    Errors: ``ValueError`` for too few runs or times, or an amplitude that changes sign.
    """
    level = level_of("exponents", level)
    low, high = span_of("exponents", "window", window)
    if not max(-low, high) <= FARTHEST:
        raise ValueError(f"exponents(window=...): expected log eigenvalues within {FARTHEST:g}, got {window!r}")
    times, budgets = times_of("exponents", "times", times, 4), same_runs("exponents", "budgets", budgets, "time")
    if len(times) < 4 or len(budgets) != len(times):
        raise ValueError("exponents(budgets, times): expected budgets at four or more increasing times after 0")
    if len(budgets[0]) < 5:
        raise ValueError("exponents(budgets): expected at least 5 runs at every time")
    reference = sum(window) / 2
    profile, coupled, amplitude = [], [], []
    for item in budgets:
        observed = velocities("exponents", item, scale=False, window=window)
        b, c = exponents_and_amplitudes(observed, reference)
        profile.append(b)
        amplitude.append(c[:, 0])
        pairs = couplings("exponents", item, k_max=k_max, scale=False, window=window)
        coupled.append(exponents_and_amplitudes(pairs, reference)[0])
    c = np.array(amplitude)
    if len(set(np.sign(c).ravel())) > 1:
        raise ValueError("exponents(budgets): the amplitude of the velocity changes sign between times or runs")
    clock, origin = np.array([_clock(times, row) for row in np.log(np.abs(c)).T]).T
    found = np.stack([np.mean(profile, 0), np.mean(coupled, 0), clock], axis=1)
    runs = len(found) - 1
    difference = found[:, 1:] - found[:, :1]
    spread = difference[1:] - difference[1:].mean(0)
    distance = difference[0] @ np.linalg.pinv((runs - 1) / runs * spread.T @ spread) @ difference[0]
    p = float(stats.f.sf(distance * (runs - 2) / (2 * (runs - 1)), 2, runs - 2))
    intervals = {name: jackknife_interval(column, level) for name, column in zip(NAMES, found.T, strict=True)}
    values = dict(zip(NAMES, found[0].tolist(), strict=True))
    return Exponents(values, intervals, p, float(origin[0]), times, c[:, 0], reference, runs)


def _clock(times: np.ndarray, log_amplitude: np.ndarray) -> tuple[float, float]:
    """Return b and t_0 of the best line of log c on log(t + t_0)."""
    best = (math.inf, math.nan, math.nan)
    for origin in ORIGINS * times[0]:
        x = np.log(times + origin)
        slope, intercept = np.polyfit(x, log_amplitude, 1)
        cost = float(np.square(log_amplitude - slope * x - intercept).sum())
        if cost < best[0] * (1 - 1e-9):
            best = (cost, slope + 2, origin)
    return best[1], best[2]
