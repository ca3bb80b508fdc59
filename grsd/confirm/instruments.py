"""Notebooks 01 and 02: the budget, the integrator, and what is found where a law was planted."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from functools import cache

import numpy as np

from grsd.confirm.measurement import RUNS, Measurement
from grsd.datasets import digits
from grsd.decomposition import spectrum
from grsd.flow import Flow, gradient_flow
from grsd.kernel import tangent_kernel
from grsd.networks import Perceptron
from grsd.runs import measured_energy_change, shell_history
from grsd.shells import LogShells
from grsd.solvable import PlantedShells
from grsd.studies.calibration.coverage import INTERIOR, LAW, SHELLS, WIDTHS, outcomes

DIGITS = {"samples": 48, "width": 48, "depth": 8, "residual": True, "end": 30.0, "shell_width": 0.5, "smoothing": 0.1}


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
}
