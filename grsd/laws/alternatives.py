"""Compare a power law of the velocity with rival laws, by cross-validation over runs and shells.

A richer law always fits better, so laws are compared by their predictions. Each law is fitted to log|u| with one run
and every ``FOLDS``-th boundary (or one time) left out, and judged by the squared deviations of that run there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from grsd.laws.velocity import pooled_velocities, velocities_over_times
from grsd.support.arguments import times_of

ALTERNATIVES = ("power law", "log-parabola", "broken power law", "log-periodic")
FOLDS = 4
SHORTEST_PERIOD = 1.0
STANDARD_ERRORS = 1.5
NEGLIGIBLE = 0.25


@dataclass(frozen=True)
class Comparison:
    """How well each law predicts.

    Attributes:
        scores: mean squared prediction error, in squared relative units of u, by law.
        excess, excess_error: score minus that of the best law, and its standard error over left-out runs.
        best: the law with the smallest score.
        chosen: the simplest law whose excess is at most 1.5 of its standard errors, or a quarter of the best score; so
            a richer law must predict significantly and substantially better.
        runs, places: R and the number of boundaries.
    """

    scores: dict[str, float]
    excess: dict[str, float]
    excess_error: dict[str, float]
    best: str
    chosen: str
    runs: int
    places: int


def compare_laws(
    budgets: Sequence[Sequence[xr.Dataset]],
    *,
    window: tuple[float, float] | None = None,
    times: Sequence[float] | None = None,
) -> Comparison:
    """Compare a power law of the velocity with a log-parabola, a broken power law and a log-periodic law.

    In these laws log|u| is, from simplest to richest: affine in s = log eigenvalue (2 parameters); quadratic (3);
    affine with one change of slope, anywhere (4); affine plus a wave (5). The wave's period is between 1 and the
    window's length, and at least twice the mean spacing.

    Args:
        budgets: for each of one or several shell widths over the same R >= 4 runs, as in ``law_test``.
        window: (low, high) in s.
        times: if given, ``budgets[i][r]`` is run r at ``times[i]``, at one shell width; the laws then describe t u over
            x = log(lambda t), as covariance requires, ``window`` is in x, and one time after another is left out.

    Source: this project's; cross-validation and the rule of standard errors are standard practice. Cost: under .1 s.
    Errors: ``ValueError`` for fewer than 10 boundaries or fewer than 3 times, or a mean velocity that changes sign.
    """
    if times is None:
        observed = pooled_velocities("compare_laws", budgets, window=window)
        fold = np.arange(len(observed.x)) % FOLDS
    else:
        at = times_of("compare_laws", "times", times, 3)
        observed, fold = velocities_over_times("compare_laws", budgets, at, window=window)
    s, places = observed.x, len(observed.x)
    if places < 10:
        raise ValueError(f"compare_laws(budgets): expected at least 10 boundaries in the window, got {places}")
    if len(set(np.sign(observed.y).ravel())) > 1:
        raise ValueError("compare_laws(budgets): the mean velocity changes sign; no law here does")
    sign, log_u = np.sign(observed.y[0, 0]), np.log(np.abs(observed.y[1:]))
    weights = observed.y[0] ** 2 / observed.variances()
    losses = {}
    for name in ALTERNATIVES:
        predicted = np.empty_like(log_u)
        shapes = np.stack(list(designs(name, s)))
        for number in np.unique(fold):
            out = fold == number
            predicted[:, out] = predict(shapes, weights * ~out, log_u)[:, out]
        departures = (observed.numerator - sign * np.exp(predicted) * observed.denominator) / observed.denominator.mean(
            0
        )
        losses[name] = (np.square(departures / observed.y[0]) * weights).sum(1) / weights.sum()
    scores = {name: float(loss.mean()) for name, loss in losses.items()}
    best = min(scores, key=scores.get)
    excess = {name: losses[name] - losses[best] for name in ALTERNATIVES}
    errors = {name: float(item.std(ddof=1) / math.sqrt(observed.runs)) for name, item in excess.items()}
    chosen = next(
        name
        for name in ALTERNATIVES
        if excess[name].mean() <= max(STANDARD_ERRORS * errors[name], NEGLIGIBLE * scores[best])
    )
    means = {name: float(item.mean()) for name, item in excess.items()}
    return Comparison(scores, means, errors, best, chosen, observed.runs, places)


def designs(name: str, s: np.ndarray) -> Iterator[np.ndarray]:
    """Yield (m, p) design matrices, one for each value of the law's nonlinear parameter."""
    x = s - s.mean()
    ones, length = np.ones_like(x), x[-1] - x[0]
    if name == "power law":
        yield np.stack([ones, x], axis=1)
    elif name == "log-parabola":
        yield np.stack([ones, x, x**2], axis=1)
    elif name == "broken power law":
        for at in np.linspace(x[2], x[-3], 31):
            yield np.stack([ones, x, np.maximum(x - at, 0)], axis=1)
    else:
        shortest = max(SHORTEST_PERIOD, 2 * length / (len(x) - 1))
        for frequency in np.linspace(1 / length, 1 / shortest, 61):
            angle = 2 * math.pi * frequency * x
            yield np.stack([ones, x, np.cos(angle), np.sin(angle)], axis=1)


def predict(shapes: np.ndarray, weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Fit each row of values (R, m) with K designs (K, m, p) by weighted least squares; return the best fits (R, m)."""
    root = np.sqrt(weights)
    solve = np.linalg.pinv(shapes * root[:, None]) * root
    fitted = shapes @ (solve @ values.T)
    cost = (weights[:, None] * np.square(values.T - fitted)).sum(1)
    return fitted[cost.argmin(0), :, np.arange(len(values))]
