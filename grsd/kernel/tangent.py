r"""The empirical tangent kernel M = J J^T / N and its exact rate M' along gradient flow, for any torch module.

Each parameter takes the cheapest exact route: two small Gram matrices are contracted, M_(ic)(jd) = sum_ts (a_it . a_js)
(delta_ict . delta_jds) / N; rows of the Jacobian are formed slice by slice; or, for parameters that no recognised call
uses, rows by one backward pass per output. Products are summed into one half of the matrix, which is mirrored at the
end. Definitions: arXiv 2512.18209 as restated in README.md; the routes are this project's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from grsd.jacobian import exact_derivatives
from grsd.kernel.blocks import Block, BlockComputation
from grsd.kernel.computation import KernelComputation
from grsd.kernel.products import Square
from grsd.losses import Loss, check_loss
from grsd.support.values import flag


def tangent_kernel(
    model: nn.Module,
    inputs: Tensor,
    *,
    others: Tensor | None = None,
    parameters: Sequence[str] | None = None,
    outputs: str = "all",
    positions: str = "all",
    normalized: bool = True,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    memory_limit: str | int | None = None,
    tf32: bool = False,
) -> Block:
    """M = J J^T / N of any module that maps each sample of a batch on its own.

    Args:
        model: maps (N, ...) to (N, C), (N,) or (N, T, C). Every parameter with requires_grad counts, wherever it is
            used; frozen ones are omitted. The module is not changed.
        inputs: the batch, shape (N, ...); floating point or integers (tokens).
        others: a second batch (N2, ...): the block J(inputs) J(others)^T / N2 between the two. So the outputs on test
            inputs move by -``tangent_kernel(model, test, others=train)`` times the error on the training inputs.
        parameters: names of parameters or layers, or patterns such as ["layers.0", "head.*"]: their share of M alone.
        outputs, positions: what becomes of the axis C, and of T: "all" keeps it in rows and columns, "trace" sums
            over it, "diagonal" gives a matrix for each place. What is left out is never formed.
        normalized: False leaves the division out: J J^T.
        dtype: float64 unless asked otherwise: eigenvalues under about D * eps * lambda_max mean nothing.
        device: ``None`` (the model's), ``"auto"``, ``"cpu"`` or ``"cuda"``.
        memory_limit: bytes, or text such as "4GiB", for everything that is held on the device at once; ``None``: three
            quarters of the free memory. Under a tighter limit work is repeated; on a GPU a matrix larger than half of
            the limit is collected in the host's memory and returned there.
        tf32: allow the 10-bit products of NVIDIA GPUs in float32.

    Returns: (D, D) tensor, D = N * T * C, rows sample-major ((0, 0), (0, 1), ...), or (D, D2) with ``others``; units
    1 / time. An axis that is "trace" or "diagonal" is missing in D, and one that is "diagonal" stands in front: for
    outputs (N, C), "trace" gives (N, N) and "diagonal" (C, N, N). J is defined by backward passes: if a model detaches
    or changes gradients, M is that of the changed gradients.

    Errors: ``TypeError``, ``ValueError`` or ``MemoryError`` in one line before any large computation: samples that
    depend on each other (in outputs or in gradients), active dropout, another output's shape, NaN, mixed devices,
    complex or sparse tensors, tensors that require gradients but are no parameters, or that are kept between calls
    outside the module; a pattern that matches nothing. ``RuntimeError`` if M disagrees with |J^T v|^2 / N of one
    backward pass for a random v, or if torch has no derivative. A warning says if only one backward pass per output is
    left.
    """
    call = "tangent_kernel"
    flag(call, "tf32", tf32)
    flag(call, "normalized", normalized)
    limits = (dtype, device, memory_limit)
    with exact_derivatives(tf32):
        if others is None and outputs == positions == "all":
            computation = KernelComputation(call, model, inputs, None, *limits, parameters=parameters, positions=True)
            (kernel,) = computation.total()
        else:
            computation = BlockComputation(
                call, model, inputs, others, positions, outputs, *limits, parameters=parameters
            )
            kernel = computation.block()
    over = len(inputs if others is None else others) if normalized else 1
    return kernel if over == computation.samples else kernel.mul_(computation.samples / over)


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

    Args: as ``tangent_kernel``; one of ``targets`` and ``direction``. ``targets``: for ``loss="mse"``,
    l = |f - y|^2 / 2, of exactly the output's shape; for ``"cross-entropy"`` class labels (N,). ``loss`` may also be a
    function of (outputs, targets) that returns the losses (N,). ``direction``: theta' by the names of
    ``model.named_parameters()``, such as the step of any optimizer over its duration; parameters that it leaves out
    stand still.
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
    parameters: Sequence[str] | None = None,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    memory_limit: str | int | None = None,
    tf32: bool = False,
) -> dict[str, Square]:
    """Each parameter's share of M, by the name ``model.named_parameters()`` gives it; M is their sum.

    A tied parameter appears once, under its first name. Parameters that no output depends on are omitted. All shares,
    (D, D) each, are held at once; ``parameters`` names those that are wanted. Args and errors as ``tangent_kernel``.
    """
    flag("parameter_kernels", "tf32", tf32)
    with exact_derivatives(tf32):
        computation = KernelComputation(
            "parameter_kernels",
            model,
            inputs,
            None,
            dtype,
            device,
            memory_limit,
            per_parameter=True,
            parameters=parameters,
        )
        return computation.shares()


def memory_estimate(
    model: nn.Module,
    inputs: Tensor,
    *,
    rate: bool = False,
    others: Tensor | None = None,
    parameters: Sequence[str] | None = None,
    outputs: str = "all",
    positions: str = "all",
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    memory_limit: str | int | None = None,
) -> int:
    """Bytes that ``tangent_kernel`` (``rate=True``: ``tangent_kernel_and_rate``) holds at its peak under this limit.

    Measured on a few samples and extrapolated to all, before anything large is computed. Args as ``tangent_kernel``.
    """
    call = "memory_estimate"
    flag(call, "rate", rate)
    whole = others is None and outputs == positions == "all"
    if rate and not whole:
        raise ValueError(
            f"{call}(rate=True): others, outputs and positions are those of tangent_kernel, without a rate"
        )
    with exact_derivatives():
        limits = (dtype, device, 2**62 if memory_limit is None else memory_limit)
        if whole:
            more = {"rate": rate, "positions": not rate, "parameters": parameters, "refuse": False}
            return KernelComputation(call, model, inputs, None, *limits, **more).plan.peak
        more = {"parameters": parameters, "refuse": False}
        return BlockComputation(call, model, inputs, others, positions, outputs, *limits, **more).plan.peak
