r"""The empirical tangent kernel M = J J^T / N and its exact rate M' along gradient flow, layer by layer.

For a parameter used at one position per sample the kernel is a Hadamard product of two small Gram matrices,
M_(ic)(jd) = (a_i . a_j)(delta_ic . delta_jd) / N; with several positions the per-sample gradients are formed in slices
of the layer's outputs. J itself is never formed. Blocks are accumulated class-major, upper triangle only, and permuted
once. Definitions: arXiv 2512.18209 as restated in README.md; the layerwise route is this project's.
"""

from __future__ import annotations

import re

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grsd.checks import check_inputs, check_outputs, check_targets, floating_dtype, repeatable, resolve_device
from grsd.tangents import Factor, Network, Parameters, linear_factors, linear_factors_and_rates, linear_uses

SLICE = 2**24
UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
CHECK = {torch.float64: 1e-9, torch.float32: 1e-3}

Square = Float[Tensor, "D D"]


def tangent_kernel(
    model: nn.Module,
    inputs: Tensor,
    *,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    memory_limit: str | int | None = None,
) -> Square:
    """M = J J^T / N of a network of Linear layers.

    Args:
        model: maps (N, ...) to (N, C) or (N,); every trainable parameter is the weight or bias of a Linear layer
            (reused and tied layers allowed). The module is left untouched. Frozen parameters are left out.
        inputs: the batch, shape (N, ...).
        dtype: float64 unless asked otherwise: eigenvalues under about D * eps * lambda_max mean nothing.
        device: ``None`` (the model's), ``"auto"``, ``"cpu"`` or ``"cuda"``.
        memory_limit: bytes, or text such as "4GiB"; refuse where the estimate is above it.

    Returns: (D, D) tensor, D = N * C, rows sample-major ((0, 0), (0, 1), ...); units 1 / time.

    Errors: one line before any computing. ``RuntimeError`` where M disagrees with |J^T v|^2 / N for a random v, which
    happens where samples are coupled or a parameter is also used outside its Linear layer.
    """
    call = "tangent_kernel"
    network, inputs, outputs = _prepare(call, model, inputs, dtype, device, memory_limit, matrices=2)
    factors = linear_factors(network, inputs)
    kernel = _Accumulator(outputs)
    for factor in factors:
        kernel.add(factor)
    result = kernel.finish()
    probe = _probe(outputs)
    expected = _squared_norm(network.pullback(inputs, probe)) / inputs.shape[0]
    _check(call, "M", result, probe, expected, expected)
    return result


def tangent_kernel_and_rate(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    memory_limit: str | int | None = None,
) -> tuple[Square, Square]:
    """M = J J^T / N and M' = (J' J^T + J J'^T) / N along gradient flow of |f - y|^2 / (2N).

    J' is the exact derivative of J in the direction theta' = -J^T e / N, e = f(X) - Y, by forward mode.

    Args: as ``tangent_kernel``; ``targets``: floating point, of exactly the output's shape.
    Returns: (M, M'), both (D, D), rows sample-major; units 1 / time and 1 / time^2.
    Errors: as ``tangent_kernel``.
    """
    call = "tangent_kernel_and_rate"
    network, inputs, outputs = _prepare(call, model, inputs, dtype, device, memory_limit, matrices=4)
    check_targets(call, targets, tuple(outputs.shape))
    samples = inputs.shape[0]
    error = outputs - targets.to(outputs)
    direction = {name: g / -samples for name, g in network.pullback(inputs, error).items()}
    kernel, rate = _Accumulator(outputs), _Accumulator(outputs)
    for factor, factor_rate in linear_factors_and_rates(network, inputs, direction):
        kernel.add(factor)
        rate.add_rate(factor, factor_rate)
    results = kernel.finish(), rate.finish()
    probe = _probe(outputs)
    gradient, gradient_rate = network.pullback_and_rate(inputs, probe, direction)
    size = _squared_norm(gradient) / samples
    _check(call, "M", results[0], probe, size, size)
    change = 2 * sum(float((gradient[name] * gradient_rate[name]).sum()) for name in gradient) / samples
    bound = 2 * (size * _squared_norm(gradient_rate) / samples) ** 0.5
    _check(call, "M'", results[1], probe, change, bound)
    return results


def memory_estimate(model: nn.Module, inputs: Tensor, *, dtype: torch.dtype = torch.float64, rate: bool = False) -> int:
    """Bytes that ``tangent_kernel`` (``rate=True``: ``tangent_kernel_and_rate``) is expected to hold at its peak."""
    call = "memory_estimate"
    network, inputs, outputs = _prepare(call, model, inputs, dtype, None, None, matrices=0)
    return _estimate(network, inputs, outputs, 4 if rate else 2)


def _prepare(
    call: str,
    model: nn.Module,
    inputs: Tensor,
    dtype: torch.dtype,
    device: str | torch.device | None,
    memory_limit: str | int | None,
    matrices: int,
) -> tuple[Network, Tensor, Tensor]:
    """Everything that can be refused, before anything large is made."""
    check_inputs(call, model, inputs)
    floating_dtype(call, dtype)
    device = resolve_device(call, device, model)
    limit = None if memory_limit is None else _bytes(call, memory_limit)
    network = Network(model, dtype, device)
    inputs = inputs.to(device=device, dtype=dtype if inputs.is_floating_point() else None)
    outputs = repeatable(call, lambda: network(network.parameters, inputs), network.fixed)
    check_outputs(call, outputs, inputs.shape[0])
    uses, shapes, missed = linear_uses(network, inputs)
    if missed:
        raise ValueError(
            f"{call}(model, ...): every trainable parameter must be the weight or bias of a Linear layer that the "
            f"forward pass uses; not so: {', '.join(sorted(missed))}; set requires_grad=False to leave them out"
        )
    for use, shape in zip(uses, shapes, strict=True):
        if len(shape) < 2 or shape[0] != inputs.shape[0]:
            raise ValueError(
                f"{call}(model, ...): the layer of {use.weight or use.bias} must keep the {inputs.shape[0]} samples as "
                f"its first dimension, its output has shape {tuple(shape)}"
            )
    if limit is not None and (need := _estimate(network, inputs, outputs, matrices)) > limit:
        raise MemoryError(
            f"{call}(memory_limit={memory_limit!r}): D = {outputs.numel()} needs about {need / 2**30:.2f} GiB; "
            "raise the limit, take fewer samples or dtype=torch.float32"
        )
    return network, inputs, outputs


def _bytes(call: str, limit: str | int) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]i?B|B)?\s*", str(limit))
    if isinstance(limit, bool) or match is None:
        raise ValueError(f"{call}(memory_limit=...): expected bytes or text such as '4GiB', got {limit!r}")
    return int(float(match[1]) * UNITS[match[2] or "B"])


def _estimate(network: Network, inputs: Tensor, outputs: Tensor, matrices: int) -> int:
    """The matrices and their permuted copies, one row of blocks, and the features and backprops of every layer."""
    _, shapes, _ = linear_uses(network, inputs)
    dimension, samples = outputs.numel(), inputs.shape[0]
    classes = dimension // samples
    held = sum((classes + 1) * shape.numel() for shape in shapes) * (2 if matrices > 2 else 1)
    numbers = matrices * dimension**2 + 2 * samples * dimension + 2 * held
    return numbers * outputs.element_size()


class _Accumulator:
    """Sums per-layer contributions into the upper block triangle of a class-major matrix."""

    def __init__(self, outputs: Tensor) -> None:
        self.samples = outputs.shape[0]
        self.classes = outputs.numel() // self.samples
        shape = (self.classes, self.samples, self.classes, self.samples)
        self.blocks = torch.zeros(shape, dtype=outputs.dtype, device=outputs.device)

    def add(self, factor: Factor) -> None:
        """J J^T of one factor."""
        if factor.features.shape[1] == 1:
            a = factor.features[:, 0]
            self._add_grams((a @ a.T, factor.backprops, factor.backprops))
        else:
            for (gradients,) in _slices(factor):
                self._add_product(gradients, gradients)

    def add_rate(self, factor: Factor, rate: Factor) -> None:
        """J' J^T + J J'^T of one factor and its rate."""
        if factor.features.shape[1] == 1:
            a, da = factor.features[:, 0], rate.features[:, 0]
            half = da @ a.T
            here = torch.cat([factor.backprops, rate.backprops], -1)
            there = torch.cat([rate.backprops, factor.backprops], -1)
            self._add_grams((half + half.T, factor.backprops, factor.backprops), (a @ a.T, here, there))
        else:
            for gradients, rates in _slices(factor, rate):
                self._add_product(torch.cat([gradients, rates], -1), torch.cat([rates, gradients], -1))

    def finish(self) -> Square:
        """Fill the lower triangle, divide by N and permute to sample-major rows."""
        for c in range(self.classes):
            self.blocks[c, :, c] = (self.blocks[c, :, c] + self.blocks[c, :, c].T) / 2
            for d in range(c):
                self.blocks[c, :, d] = self.blocks[d, :, c].T
        size = self.samples * self.classes
        return self.blocks.div_(self.samples).permute(1, 0, 3, 2).reshape(size, size)

    def _add_grams(self, *terms: tuple[Tensor, Tensor, Tensor]) -> None:
        for gram, left, right in terms:
            for c in range(self.classes):
                there = right[c:, :, 0].reshape(-1, right.shape[-1])
                block = (left[c, :, 0] @ there.T).view(self.samples, -1, self.samples)
                self.blocks[c, :, c:].add_(block.mul_(gram[:, None, :]))

    def _add_product(self, left: Tensor, right: Tensor) -> None:
        for c in range(self.classes):
            there = right[c:].reshape(-1, right.shape[-1])
            self.blocks[c, :, c:] += (left[c] @ there.T).view(self.samples, -1, self.samples)


def _slices(factor: Factor, rate: Factor | None = None):
    """Per-sample per-class gradients (C, N, q' p) in slices over the layer's outputs, with their rates where asked."""
    classes, samples, _, width = factor.backprops.shape
    p = factor.features.shape[-1]
    chunk = max(1, SLICE // (classes * samples * p))
    for start in range(0, width, chunk):
        delta = factor.backprops[..., start : start + chunk]
        gradients = [torch.einsum("cnto,ntp->cnop", delta, factor.features)]
        if rate is not None:
            delta_rate = rate.backprops[..., start : start + chunk]
            gradients.append(
                torch.einsum("cnto,ntp->cnop", delta_rate, factor.features)
                + torch.einsum("cnto,ntp->cnop", delta, rate.features)
            )
        yield [g.reshape(classes, samples, -1) for g in gradients]


def _probe(outputs: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(outputs.numel())
    return torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs)


def _squared_norm(parameters: Parameters) -> float:
    return sum(float(p.square().sum()) for p in parameters.values())


def _check(call: str, what: str, matrix: Tensor, probe: Tensor, expected: float, scale: float) -> None:
    v = probe.reshape(-1)
    found = float(v @ (matrix @ v))
    if not abs(found - expected) <= CHECK[matrix.dtype] * max(scale, 1e-300):
        raise RuntimeError(
            f"{call}(model, ...): self-check failed, v^T {what} v = {found:.9g} but one backward pass gives "
            f"{expected:.9g}; the model couples samples, is random, or uses a parameter outside its Linear layer"
        )
