r"""The empirical tangent kernel M = J J^T / N and its exact rate M' along gradient flow, for any torch module.

Each parameter takes the cheapest exact route: two small Gram matrices are contracted, M_(ic)(jd) = sum_ts (a_it . a_js)
(delta_ict . delta_jds) / N; rows of the Jacobian are formed slice by slice; or, for parameters that no recognised call
uses, rows by one backward pass per output. Products are summed into one half of the matrix, which is mirrored at the
end. Definitions: arXiv 2512.18209 as restated in README.md; the routes are this project's.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from grsd.jacobian import exact_derivatives
from grsd.kernel.computation import KernelComputation
from grsd.kernel.products import Square
from grsd.losses import Loss, check_loss
from grsd.support.values import flag


def tangent_kernel(
    model: nn.Module,
    inputs: Tensor,
    *,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    memory_limit: str | int | None = None,
    tf32: bool = False,
) -> Square:
    """M = J J^T / N of any module that maps each sample of a batch on its own.

    Args:
        model: maps (N, ...) to (N, C) or (N,). Every parameter with requires_grad counts, wherever it is used; frozen
            ones are omitted. The module is not changed.
        inputs: the batch, shape (N, ...); floating point or integers (tokens).
        dtype: float64 unless asked otherwise: eigenvalues under about D * eps * lambda_max mean nothing.
        device: ``None`` (the model's), ``"auto"``, ``"cpu"`` or ``"cuda"``.
        memory_limit: bytes, or text such as "4GiB", for everything that is held on the device at once; ``None``: three
            quarters of the free memory. Under a tighter limit work is repeated; on a GPU a matrix larger than half of
            the limit is collected in the host's memory and returned there.
        tf32: allow the 10-bit products of NVIDIA GPUs in float32.

    Returns: (D, D) tensor, D = N * C, rows sample-major ((0, 0), (0, 1), ...); units 1 / time. J is defined by backward
    passes: if a model detaches or changes gradients, M is that of the changed gradients.

    Errors: ``TypeError``, ``ValueError`` or ``MemoryError`` in one line before any large computation: samples that
    depend on each other (in outputs or in gradients), active dropout, another output's shape, NaN, mixed devices,
    complex or sparse tensors, tensors that require gradients but are no parameters, or that are kept between calls
    outside the module. ``RuntimeError`` if M disagrees with |J^T v|^2 / N of one backward pass for a random v, or if
    torch has no derivative. A warning says if only one backward pass per output is left.
    """
    flag("tangent_kernel", "tf32", tf32)
    with exact_derivatives(tf32):
        computation = KernelComputation("tangent_kernel", model, inputs, None, dtype, device, memory_limit)
        (kernel,) = computation.total()
    return kernel


def tangent_kernel_and_rate(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor | None = None,
    *,
    loss: Loss = "mse",
    direction: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    memory_limit: str | int | None = None,
    tf32: bool = False,
) -> tuple[Square, Square]:
    """M = J J^T / N and M' = (J' J^T + J J'^T) / N along gradient flow of the mean loss, or along any direction.

    J' is the exact derivative of J in the direction theta' = -J^T e / N, e = dl/df, or in the one given, by backward
    passes through forward mode, or through backward passes if torch has no forward mode.

    Args: as ``tangent_kernel``; one of ``targets`` and ``direction``.
        targets: for ``loss="mse"``, l = |f - y|^2 / 2, of exactly the output's shape; for ``"cross-entropy"`` class
            labels (N,). ``loss`` may also be a function of (outputs, targets) that returns the losses (N,).
        direction: theta' by the names of ``model.named_parameters()``, such as the step of any optimizer over its
            duration. Parameters that it leaves out stand still.
    Returns: (M, M'), both (D, D), rows sample-major; units 1 / time and 1 / time^2.
    Errors: as ``tangent_kernel``; ``RuntimeError`` if v^T M' v disagrees with a difference of J^T v along the flow:
    the model detaches something that depends on its parameters, so that M' by torch's derivatives is not dM/dt.
    """
    call = "tangent_kernel_and_rate"
    flag(call, "tf32", tf32)
    if (targets is None) == (direction is None):
        what = "neither" if direction is None else "both"
        raise TypeError(f"{call}(targets, direction=...): expected one of them, got {what}")
    check_loss(call, loss)
    with exact_derivatives(tf32):
        computation = KernelComputation(
            call, model, inputs, targets, dtype, device, memory_limit, rate=True, loss=loss, direction=direction
        )
        kernel, kernel_rate = computation.total()
    return kernel, kernel_rate


def parameter_kernels(
    model: nn.Module,
    inputs: Tensor,
    *,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    memory_limit: str | int | None = None,
    tf32: bool = False,
) -> dict[str, Square]:
    """Each parameter's share of M, by the name ``model.named_parameters()`` gives it; M is their sum.

    A tied parameter appears once, under its first name. Parameters that no output depends on are omitted. All shares,
    (D, D) each, are held at once. Args and errors as ``tangent_kernel``.
    """
    flag("parameter_kernels", "tf32", tf32)
    with exact_derivatives(tf32):
        computation = KernelComputation(
            "parameter_kernels", model, inputs, None, dtype, device, memory_limit, per_parameter=True
        )
        return computation.shares()


def memory_estimate(
    model: nn.Module,
    inputs: Tensor,
    *,
    rate: bool = False,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    memory_limit: str | int | None = None,
) -> int:
    """Bytes that ``tangent_kernel`` (``rate=True``: ``tangent_kernel_and_rate``) holds at its peak under this limit.

    Measured on a few samples and extrapolated to all, before anything large is computed. Args as ``tangent_kernel``.
    """
    flag("memory_estimate", "rate", rate)
    with exact_derivatives():
        limit = 2**62 if memory_limit is None else memory_limit
        computation = KernelComputation(
            "memory_estimate", model, inputs, None, dtype, device, limit, rate=rate, refuse=False
        )
    return computation.plan.peak
