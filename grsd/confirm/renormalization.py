"""Notebook 07: block spin and closure."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from grsd.conditions import closure, profile_flow
from grsd.confirm.measurement import RUNS, Measurement, described
from grsd.solvable import ShellLattice
from grsd.studies import renormalization as cases
from grsd.studies import training_cases
from grsd.studies.renormalization import CLOSED, HIDDEN, LONG_RANGE, SHORT, WIDENING

INVARIANCE = training_cases.INVARIANCE.to_dict() | {
    "log_loss": training_cases.LOG_LOSS,
    "reach": training_cases.REACH,
    "runs": training_cases.RUNS,
}


def _renormalization(read: Callable[[str, int, int], float], *architectures: str) -> Measurement:
    """A pseudo-value of the networks of condition 4 at depth 32; with two architectures the first less the second."""

    def measure(seed: int) -> float:
        first, *rest = (read(architecture, 32, seed) for architecture in architectures)
        return first - sum(rest)

    settings = {"architecture": " - ".join(architectures), "depth": 32, "factors": str(cases.FACTORS)}
    return Measurement(measure, described(INVARIANCE, **settings))


def _late_closure(architecture: str, depth: int) -> Measurement:
    stage = training_cases.LATE

    def measure(seed: int) -> float:
        return cases.closure_of_seed(architecture, depth, seed, stage, 2000)

    settings = {"log_loss": stage.log_loss, "reach": training_cases.REACH, "runs": stage.runs, "depth": depth}
    factors = str(cases.FACTORS)
    return Measurement(measure, described(stage.specs[architecture].to_dict(), **settings, factors=factors))


def _lattice(read: Callable[[int], bool], **lattices: ShellLattice) -> Measurement:
    """One or zero: whether ``read`` is true of the ensemble of that number."""
    systems = {
        name: str({field: value for field, value in vars(lattice).items() if field != "velocity"})
        for name, lattice in lattices.items()
    }
    return Measurement(lambda seed: float(read(seed)), systems | {"runs": RUNS})


def _closes(lattice: ShellLattice, verdict: str, ensemble: int) -> bool:
    return closure.judge(cases.lattice_budgets(lattice, ensemble), window=cases.EVERYTHING).verdict == verdict


def _flows(lattice: ShellLattice, verdict: str, ensemble: int) -> bool:
    budgets = cases.lattice_budgets(lattice, ensemble)
    return profile_flow.judge(budgets, window=cases.INTERIOR).verdict == verdict


def _closed_without_a_law(ensemble: int) -> float:
    closed, law = cases.closed_without_a_law(ensemble)
    return float(closed.verdict == "holds" and law.verdict == "fails")


MEASUREMENTS = {
    "renormalizable": _renormalization(cases.closure_of_seed, "residual"),
    "renormalizable-late": _late_closure("residual", 16),
    "closure-plain": _renormalization(cases.closure_of_seed, "plain"),
    "locality-residual": _renormalization(cases.locality_of_seed, "residual"),
    "locality-plain": _renormalization(cases.locality_of_seed, "plain"),
    "locality-contrast": _renormalization(cases.locality_of_seed, "plain", "residual"),
    "renormalizable-is-not-enough": Measurement(
        _closed_without_a_law,
        cases.DIAGONAL | {"time": cases.DIAGONAL_TIME, "runs": RUNS},
    ),
    "closure-constructed": _lattice(partial(_closes, CLOSED, "holds"), closed=CLOSED),
    "closure-broken": _lattice(
        lambda seed: _closes(HIDDEN, "fails", seed) and _closes(LONG_RANGE, "fails", seed),
        hidden=HIDDEN,
        long_range=LONG_RANGE,
    ),
    "closure-null": _lattice(
        lambda seed: closure.judge(cases.unrelated_budgets(SHORT, seed), window=cases.EVERYTHING).details.p <= 0.05,
        lattice=SHORT,
    ),
    "profile-flow": _lattice(
        lambda seed: _flows(CLOSED, "holds", seed) and _flows(WIDENING, "fails", seed),
        law=CLOSED,
        widening=WIDENING,
    ),
}
