"""Notebook 08: rigidity and covariance."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

from grsd.confirm.measurement import Measurement, described
from grsd.studies import rigidity as rigidity_cases
from grsd.studies import training_cases
from grsd.studies.calibration.coverage import INTERIOR


def _planted_three(outcome: str, runs: int) -> Measurement:
    laws = {name: str(asdict(item)) for name, item in rigidity_cases.PLANTED.items()}
    return Measurement(
        lambda seed: float(rigidity_cases.planted_outcomes(seed)[outcome]),
        laws | {"outcome": outcome, "runs": runs, "window": str(INTERIOR)},
    )


MEASUREMENTS = {
    "rigidity": Measurement(rigidity_cases.theorem_ratio, {"draws": 20}),
    "covariance-between-problems": Measurement(rigidity_cases.problems_gap, rigidity_cases.PROBLEM),
    "covariance-exact-models": Measurement(rigidity_cases.separation, {"modes": 300}),
    "covariance-along-a-run": Measurement(
        partial(rigidity_cases.collapse_of_seed, "residual", 16),
        described(training_cases.INVARIANCE.to_dict(), architecture="residual", depth=16, runs=training_cases.RUNS),
    ),
    "alternatives-rank": _planted_three("ranked", rigidity_cases.RANKED_RUNS),
    "certified-distance": _planted_three("certified", training_cases.RUNS),
}
