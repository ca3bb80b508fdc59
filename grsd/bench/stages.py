"""The steps after the kernel, as functions that are ready to run: their inputs are computed before and not timed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from grsd.decomposition import spectrum
from grsd.flow import gradient_flow
from grsd.kernel import tangent_kernel, tangent_kernel_and_rate
from grsd.krylov import krylov_spectrum
from grsd.shells import LogShells, energy_budget

SHELLS = LogShells(width=0.5, smoothing=0.1)
Ready = Callable[[], object]


def decomposition(model: nn.Module, inputs: Tensor, targets: Tensor, memory_limit: str | None) -> Ready:
    """``grsd.spectrum`` of M, and of M' in its eigenbasis."""
    kernel, rate = tangent_kernel_and_rate(model, inputs, targets, dtype=inputs.dtype)
    return lambda: spectrum(kernel, rate)


def eigh(model: nn.Module, inputs: Tensor, targets: Tensor, memory_limit: str | None) -> Ready:
    """``torch.linalg.eigh`` of M alone: the floor of the decomposition."""
    kernel = tangent_kernel(model, inputs, dtype=inputs.dtype)
    return lambda: torch.linalg.eigh(kernel)


def budget(model: nn.Module, inputs: Tensor, targets: Tensor, memory_limit: str | None) -> Ready:
    kernel, rate = tangent_kernel_and_rate(model, inputs, targets, dtype=inputs.dtype)
    modes, error = spectrum(kernel, rate), (model(inputs) - targets).detach()
    return lambda: energy_budget(modes, error, SHELLS)


def step(model: nn.Module, inputs: Tensor, targets: Tensor, memory_limit: str | None) -> Ready:
    """The integrator from 0 to 1 / lambda_max: its initialization and a few steps."""
    time = 1 / float(torch.linalg.eigvalsh(tangent_kernel(model, inputs, dtype=inputs.dtype))[-1])
    return lambda: gradient_flow(model, inputs, targets, [0.0, time], dtype=inputs.dtype, progress=False)


def gradient(model: nn.Module, inputs: Tensor, targets: Tensor, memory_limit: str | None) -> Ready:
    """One gradient of the loss by plain autograd, the unit of cost of the integrator."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return lambda: torch.autograd.grad((model(inputs) - targets).square().sum() / (2 * len(inputs)), parameters)


def krylov(model: nn.Module, inputs: Tensor, targets: Tensor, memory_limit: str | None) -> Ready:
    """80 products with M and M', and the budget from them; M is never formed."""

    def run() -> object:
        modes = krylov_spectrum(model, inputs, targets)
        return energy_budget(modes, modes.error, SHELLS)

    return run


STAGES: dict[str, Callable[[nn.Module, Tensor, Tensor, str | None], Ready]] = {
    "spectrum": decomposition,
    "eigh alone": eigh,
    "energy budget": budget,
    "gradient flow to 1/lambda": step,
    "one gradient": gradient,
    "krylov budget": krylov,
}
