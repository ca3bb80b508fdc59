"""Simulate ensembles of any size from a measured one, to see what more runs would show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from grsd.laws.ensemble import Ensemble
from grsd.laws.fit import fit_law
from grsd.shells.common import LEAST_RUNS
from grsd.support.arguments import listed
from grsd.support.values import choice, flag, seed_of, whole_number

MOST_RUNS = 10_000


def resampled(
    observable: str, observed: Sequence[Ensemble], runs: int, seed: int, *, lawful: bool = False
) -> list[Ensemble]:
    """Draw ``runs`` new runs from a normal law with the mean and covariance of the measured runs (all widths jointly).

    Args:
        observable, observed: the observable's name, and ensembles from ``grsd.laws.signflip.observe`` without a scale.
        lawful: use the mean of the fitted law in place of the measured mean.

    Copies of runs would be wrong: the defect is estimated from products of different runs, and copies do not differ.
    Denominators are those of the measured mean. Errors: ``ValueError`` for fewer than 4 runs, or a scale.
    """
    if whole_number("resampled", "runs", runs, LEAST_RUNS) > MOST_RUNS:
        raise ValueError(f"resampled(runs=...): expected at most {MOST_RUNS}, got {runs}")
    seed_of("resampled", "seed", seed)
    choice("resampled", "observable", observable, ("coupling", "velocity"))
    flag("resampled", "lawful", lawful)
    observed = listed("resampled", "observed", observed, "ensembles from observe")
    if not all(isinstance(item, Ensemble) for item in observed):
        raise TypeError(f"resampled(observed=...): expected ensembles from observe, got {type(observed[0]).__name__}")
    if any(item.scaled for item in observed):
        raise ValueError("resampled(observed): expected observables without a scale, got one with it")
    weights = np.random.default_rng(seed).standard_normal((runs, observed[0].runs)) / np.sqrt(observed[0].runs - 1)
    found = []
    for item in observed:
        mean = item.y[0]
        departures = item.departures(mean)
        centre = fit_law(observable, item, None, 0.95).fitted if lawful else mean
        drawn = centre + weights @ (departures - departures.mean(0))
        found.append(
            replace(item, numerator=drawn, denominator=np.ones_like(drawn), pumped=np.ones((runs + 1, len(mean))))
        )
    return found
