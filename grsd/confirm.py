"""What each judged claim measures for one seed, and the command that turns it into a stored result."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial

import numpy as np

from grsd.conditions import cases
from grsd.datasets import digits
from grsd.evidence import Result, claims, confirm, results, write_result
from grsd.flow import Flow, gradient_flow
from grsd.kernel import tangent_kernel
from grsd.networks import Perceptron
from grsd.progress import bar
from grsd.runs import measured_energy_change, shell_history
from grsd.shells import LogShells
from grsd.solvable import PlantedShells
from grsd.solvable.coverage import INTERIOR, LAW, SHELLS, WIDTHS, outcomes
from grsd.spectrum import spectrum

DIGITS = {"samples": 48, "width": 48, "depth": 8, "residual": True, "end": 30.0, "shell_width": 0.5, "smoothing": 0.1}
RUNS = 8


@dataclass(frozen=True)
class Measurement:
    """``measure(seed)`` gives the claim's statistic; ``parameters`` go into the result's provenance."""

    measure: Callable[[int], float]
    parameters: dict[str, object]


@cache
def _trained(seed: int, tolerance: float = 1e-4) -> Flow:
    data = digits(DIGITS["samples"], seed=seed)
    network = Perceptron(64, 10, width=DIGITS["width"], depth=DIGITS["depth"], residual=DIGITS["residual"], seed=seed)
    top = float(spectrum(tangent_kernel(network, data.inputs)).eigenvalues[-1])
    return gradient_flow(network, data.inputs, data.targets, [DIGITS["end"] / top], tolerance=tolerance)


def _shells() -> LogShells:
    return LogShells(DIGITS["shell_width"], DIGITS["smoothing"])


def _budget_gap(seed: int) -> float:
    check = measured_energy_change(_trained(seed), -1, _shells())
    return float(check.discrepancy[check.mask.values == 0].max(skipna=False))


def _asymmetry(seed: int) -> float:
    coupling = shell_history(_trained(seed), _shells()).coupling.values
    return float(np.abs(coupling + coupling.swapaxes(-1, -2)).max() / np.abs(coupling).max())


def _end_error(seed: int) -> float:
    end, reference = (_trained(seed, tolerance).snapshots[-1].error for tolerance in (1e-4, 1e-6))
    return float((end - reference).norm() / reference.norm())


@cache
def _outcomes(planted: PlantedShells, shells: tuple[LogShells, ...], seed: int) -> dict[str, bool]:
    return outcomes(planted, shells, INTERIOR, seed, runs=RUNS)


def _planted(outcome: str, planted: PlantedShells, shells: tuple[LogShells, ...] = WIDTHS) -> Measurement:
    """One or zero: whether ``outcome`` happened in the ensemble of that number."""
    read = {"shell_widths": str([item.width for item in shells]), "smoothing": shells[0].smoothing}
    return Measurement(
        lambda seed: float(_outcomes(planted, shells, seed)[outcome]),
        asdict(planted) | read | {"outcome": outcome, "runs": RUNS, "window": str(INTERIOR)},
    )


EVOLUTION = cases.EVOLUTION.to_dict() | {"depth": str(cases.DEPTHS)}
INVARIANCE = cases.INVARIANCE.to_dict() | {"log_loss": cases.LOG_LOSS, "reach": cases.REACH, "runs": cases.RUNS}


def _described(spec: dict[str, object], **changed: object) -> dict[str, object]:
    listed = {name: str(value) if isinstance(value, list) else value for name, value in spec.items() if name != "seed"}
    return listed | changed


def _planted_invariance(verdict: str, *planted: PlantedShells) -> Measurement:
    """One or zero: whether condition 4 got this verdict in the ensemble of that number, for all that were planted."""
    described = {f"planted_{number}": str(asdict(item)) for number, item in enumerate(planted)}
    return Measurement(
        lambda seed: float(all(cases.planted_verdict(item, seed) == verdict for item in planted)),
        described | {"runs": cases.RUNS},
    )


def _evolution(architecture: str, of: str) -> Measurement:
    def measure(seed: int) -> float:
        if of == "supremum":
            return cases.network_supremum(architecture, seed)
        return cases.network_slope(architecture, of, seed)

    return Measurement(measure, _described(EVOLUTION, architecture=architecture, of=of))


def _invariance(depth: int, architecture: str | None = None) -> Measurement:
    """The defect of one architecture, or of the plain less that of the residual one."""
    if architecture is None:
        parameters = _described(INVARIANCE, architecture="plain - residual", depth=depth)
        return Measurement(lambda seed: cases.contrast_of_seed(depth, seed), parameters)
    parameters = _described(INVARIANCE, architecture=architecture, depth=depth)
    return Measurement(lambda seed: cases.defect_of_seed(architecture, depth, seed), parameters)


MEASUREMENTS = {
    "budget-closes": Measurement(_budget_gap, DIGITS),
    "coupling-antisymmetric": Measurement(_asymmetry, DIGITS),
    "flow-is-accurate": Measurement(_end_error, DIGITS | {"tolerance": 1e-4, "reference_tolerance": 1e-6}),
    "coverage-b": _planted("b_velocity", LAW),
    "coverage-c": _planted("c", LAW),
    "coverage-kappa": _planted("kappa", SHELLS, WIDTHS[:1]),
    "false-rejection": _planted("velocity_test", LAW),
    "wiggle-detected": _planted("velocity_test", replace(LAW, wiggle=0.2, period=1.7)),
    "scale-detected": _planted("velocity_test", replace(LAW, scale=0.03)),
    "second-width": _planted("velocity_test_1", replace(LAW, wiggle=0.4, period=math.log(2))),
    "jacobian-evolution": _evolution("residual", "time"),
    "evolution-time-plain": _evolution("plain", "time"),
    "evolution-depth-residual": _evolution("residual", "depth"),
    "evolution-depth-plain": _evolution("plain", "depth"),
    "evolution-bound-residual": _evolution("residual", "supremum"),
    "evolution-bound-plain": _evolution("plain", "supremum"),
    "evolution-constructed": Measurement(partial(cases.exact_control, "controlled"), {"case": "controlled"}),
    "evolution-broken": Measurement(partial(cases.exact_control, "sudden"), {"case": "sudden"}),
    "log-shift-invariance": _invariance(32, "residual"),
    "invariance-residual-16": _invariance(16, "residual"),
    "invariance-plain-16": _invariance(16, "plain"),
    "invariance-plain-32": _invariance(32, "plain"),
    "residual-networks": _invariance(32),
    "invariance-contrast-16": _invariance(16),
    "invariance-constructed": _planted_invariance("holds", cases.INVARIANT),
    "invariance-broken": _planted_invariance("fails", cases.LOG_PERIODIC, cases.SCALED),
}


def confirm_claims(names: Sequence[str] = ()) -> list[Result]:
    """Measure the claims that have a rule and no result yet (or ``names``) on confirmatory seeds; store the results.

    Errors: ``ValueError`` for a claim that has no measurement; before anything is measured.
    """
    known = claims()
    for name in names:
        if name not in known or name not in MEASUREMENTS:
            raise ValueError(f"no measurement for claim {name!r}; there are {', '.join(MEASUREMENTS)}")
    wanted = names or sorted(MEASUREMENTS.keys() - results().keys())
    found = []
    for name in bar(wanted, desc="claims", unit="claim"):
        measurement = MEASUREMENTS[name]
        found.append(confirm(known[name], measurement.measure, measurement.parameters))
        write_result(found[-1])
    return found
