"""Notebooks 03 to 06: the four conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

import numpy as np

from grsd.conditions import incoherence, propagation
from grsd.confirm.measurement import Measurement, described
from grsd.solvable import PlantedShells
from grsd.studies import initial_cases, training_cases

PROPAGATION = {"depths": str(initial_cases.DEPTHS), "width": 64, "samples": 8}
INCOHERENCE = {
    "width": 64,
    "shell_width": initial_cases.SHELLS.width,
    "smoothing": initial_cases.SHELLS.smoothing,
    "flips": 999,
}
TASKS = {"one-hot": 30, "parity": 200}
EVOLUTION = training_cases.EVOLUTION.to_dict() | {"depth": str(training_cases.DEPTHS)}


def _propagation(*kinds: str) -> Measurement:
    """The larger of the two slopes on log depth; the smaller over ``kinds``."""

    def measure(seed: int) -> float:
        return float(min(propagation.slopes(initial_cases.propagation_over_depth(kind, seed)).max() for kind in kinds))

    return Measurement(measure, PROPAGATION | {"kinds": ", ".join(kinds)})


def _incoherence(kind: str, task: str, depths: Sequence[int] = initial_cases.DEPTHS) -> Measurement:
    """The excess coherence, mean over depths."""

    def measure(seed: int) -> float:
        found = [initial_cases.incoherence_at(kind, depth, seed, task=task, samples=TASKS[task]) for depth in depths]
        return float(np.mean([item.excess for item in found]))

    settings = {"kind": kind, "task": task, "samples": TASKS[task], "depths": str(tuple(depths))}
    return Measurement(measure, INCOHERENCE | settings)


def _planted_excess(seed: int) -> float:
    return float(
        incoherence.measure_modes(*initial_cases.planted_signs(400, seed=seed), initial_cases.SHELLS, seed=seed).excess
    )


def _planted_invariance(verdict: str, *planted: PlantedShells) -> Measurement:
    """One or zero: whether condition 4 got this verdict in the ensemble of that number, for all that were planted."""
    laws = {f"planted_{number}": str(asdict(item)) for number, item in enumerate(planted)}
    return Measurement(
        lambda seed: float(all(training_cases.planted_verdict(item, seed) == verdict for item in planted)),
        laws | {"runs": training_cases.RUNS},
    )


def _evolution(architecture: str, of: str) -> Measurement:
    def measure(seed: int) -> float:
        if of == "supremum":
            return training_cases.network_supremum(architecture, seed)
        return training_cases.network_slope(architecture, of, seed)

    return Measurement(measure, described(EVOLUTION, architecture=architecture, of=of))


def _invariance(
    depth: int, architecture: str | None = None, stage: training_cases.Stage = training_cases.EARLY, first: int = 1000
) -> Measurement:
    """The defect of one architecture, or of the plain less that of the residual one."""
    spec = stage.specs[architecture or "residual"]
    settings = {"log_loss": stage.log_loss, "reach": training_cases.REACH, "runs": stage.runs, "depth": depth}
    if architecture is None:
        parameters = described(spec.to_dict(), **settings, architecture="plain - residual")
        parameters["times"] = "; ".join(dict.fromkeys(str(list(item.times)) for item in stage.specs.values()))
        return Measurement(lambda seed: training_cases.contrast_of_seed(stage, depth, seed, first), parameters)
    parameters = described(spec.to_dict(), **settings)
    return Measurement(lambda seed: training_cases.defect_of_seed(stage, architecture, depth, seed, first), parameters)


MEASUREMENTS = {
    "gradient-propagation": _propagation("residual"),
    "gradient-propagation-isometry": _propagation("orthogonal linear"),
    "gradient-propagation-off-critical": _propagation("sub-critical", "super-critical"),
    "gradient-propagation-plain": _propagation("critical"),
    "initial-incoherence": _incoherence("residual", "one-hot"),
    "initial-incoherence-plain": _incoherence("critical", "one-hot"),
    "initial-incoherence-one-output": _incoherence("residual", "parity"),
    "initial-incoherence-one-output-plain": _incoherence("critical", "parity"),
    "initial-incoherence-planted": Measurement(_planted_excess, INCOHERENCE | {"modes": 400, "aligned": 0}),
    "initial-incoherence-aligned": _incoherence("aligned linear", "one-hot", (8,)),
    "jacobian-evolution": _evolution("residual", "time"),
    "evolution-time-plain": _evolution("plain", "time"),
    "evolution-depth-residual": _evolution("residual", "depth"),
    "evolution-depth-plain": _evolution("plain", "depth"),
    "evolution-bound-residual": _evolution("residual", "supremum"),
    "evolution-bound-plain": _evolution("plain", "supremum"),
    "evolution-constructed": Measurement(partial(training_cases.exact_control, "controlled"), {"case": "controlled"}),
    "evolution-broken": Measurement(partial(training_cases.exact_control, "sudden"), {"case": "sudden"}),
    "log-shift-invariance": _invariance(32, "residual"),
    "invariance-residual-16": _invariance(16, "residual"),
    "invariance-plain-16": _invariance(16, "plain"),
    "invariance-plain-32": _invariance(32, "plain"),
    "residual-networks": _invariance(32),
    "invariance-contrast-16": _invariance(16),
    "late-invariance-residual-16": _invariance(16, "residual", training_cases.LATE, 2000),
    "late-invariance-residual-32": _invariance(32, "residual", training_cases.LATE, 2000),
    "late-invariance-plain-16": _invariance(16, "plain", training_cases.LATE, 2000),
    "late-invariance-plain-32": _invariance(32, "plain", training_cases.LATE, 2000),
    "late-contrast-16": _invariance(16, None, training_cases.LATE, 2000),
    "late-contrast-32": _invariance(32, None, training_cases.LATE, 2000),
    "late-invariance-residual-16-96": _invariance(16, "residual", training_cases.LATE_LARGE, 3000),
    "late-invariance-residual-32-96": _invariance(32, "residual", training_cases.LATE_LARGE, 3000),
    "invariance-constructed": _planted_invariance("holds", training_cases.INVARIANT),
    "invariance-broken": _planted_invariance("fails", training_cases.LOG_PERIODIC, training_cases.SCALED),
}
