"""Notebook 01: the budget of shells closes along gradient flow of a network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from grsd.decomposition import spectrum
from grsd.evidence import Measurement
from grsd.flow import Flow, gradient_flow
from grsd.kernel import tangent_kernel
from grsd.runs import Spec, measured_energy_change, shell_history
from grsd.shells import LogShells

NETWORK = Spec(width=48, depth=8, samples=48)
SHELLS = LogShells(0.5, 0.1)


@dataclass(frozen=True)
class Protocol:
    """A network on digits, drawn by the same seed, followed to ``end`` / lambda_max(0) and read by ``shells``."""

    network: Spec = NETWORK
    end: float = 30.0
    tolerance: float = 1e-4
    reference_tolerance: float = 1e-6
    shells: LogShells = SHELLS


@cache
def trained(protocol: Protocol, seed: int) -> Flow:
    """The flow of one seed."""
    spec = replace(protocol.network, seed=seed, data_seed=seed)
    data = spec.batch()
    network = spec.network(data)
    top = float(spectrum(tangent_kernel(network, data.inputs)).eigenvalues[-1])
    return gradient_flow(network, data.inputs, data.targets, [protocol.end / top], tolerance=protocol.tolerance)


def budget_gap(protocol: Protocol, seed: int) -> float:
    """Largest |budget - measured change of a shell's energy| over its largest term."""
    check = measured_energy_change(trained(protocol, seed), -1, protocol.shells)
    return float(check.discrepancy[check.mask.values == 0].max(skipna=False))


def asymmetry(protocol: Protocol, seed: int) -> float:
    """Largest |T_ab + T_ba| over the largest |T_ab|."""
    coupling = shell_history(trained(protocol, seed), protocol.shells).coupling.values
    return float(np.abs(coupling + coupling.swapaxes(-1, -2)).max() / np.abs(coupling).max())


def end_error(protocol: Protocol, seed: int) -> float:
    """|e - reference| / |reference| at the end, the reference integrated at ``reference_tolerance``."""
    finer = replace(protocol, tolerance=protocol.reference_tolerance)
    end, reference = (trained(item, seed).snapshots[-1].error for item in (protocol, finer))
    return float((end - reference).norm() / reference.norm())


MEASUREMENTS = {
    "budget-closes": Measurement(Protocol(), budget_gap),
    "coupling-antisymmetric": Measurement(Protocol(), asymmetry),
    "flow-is-accurate": Measurement(Protocol(), end_error),
}
