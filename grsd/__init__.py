"""Companion to 'When Does Learning Renormalize?' (arXiv 2512.18209): shells, tangent kernels and their flow."""

from typing import TYPE_CHECKING

from grsd.support.lazy import face

if TYPE_CHECKING:
    from grsd.auditing import Audit, audit
    from grsd.datasets import digits
    from grsd.decomposition import Spectrum, spectrum
    from grsd.evidence import claims
    from grsd.flow import Flow, FlowError, Snapshot, gradient_flow, linear_outputs, linearized_flow, log_times
    from grsd.kernel import memory_estimate, parameter_kernels, tangent_kernel, tangent_kernel_and_rate
    from grsd.krylov import KrylovSpectrum, krylov_spectrum
    from grsd.laws import fit_power_law
    from grsd.networks import Perceptron, output, packed
    from grsd.runs import EnsembleError, Spec, at_width, ensemble, measured_energy_change, run, shell_history
    from grsd.shells import (
        LogShells,
        energy_budget,
        energy_budgets,
        flux_from_differences,
        locality,
        merge_shells,
        remove_scale,
        velocity_over_runs,
    )
    from grsd.support.folders import project
    from grsd.training import Monitor, checkpoint_budget, checkpoint_history, checkpoints, force_and_rate

__all__ = [
    "Audit",
    "EnsembleError",
    "Flow",
    "FlowError",
    "KrylovSpectrum",
    "LogShells",
    "Monitor",
    "Perceptron",
    "Snapshot",
    "Spec",
    "Spectrum",
    "at_width",
    "audit",
    "checkpoint_budget",
    "checkpoint_history",
    "checkpoints",
    "claims",
    "digits",
    "energy_budget",
    "energy_budgets",
    "ensemble",
    "fit_power_law",
    "flux_from_differences",
    "force_and_rate",
    "gradient_flow",
    "krylov_spectrum",
    "linear_outputs",
    "linearized_flow",
    "locality",
    "log_times",
    "measured_energy_change",
    "memory_estimate",
    "merge_shells",
    "output",
    "packed",
    "parameter_kernels",
    "project",
    "remove_scale",
    "run",
    "shell_history",
    "spectrum",
    "tangent_kernel",
    "tangent_kernel_and_rate",
    "velocity_over_runs",
]

__getattr__, __dir__ = face(
    __name__,
    "conditions",
    "datasets",
    "krylov",
    "laws",
    "networks",
    "plotting",
    "solvable",
    "theory",
    "training",
    "__version__",
)
