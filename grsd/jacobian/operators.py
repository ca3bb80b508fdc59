r"""The tangent kernel and its rate as products with vectors: neither J nor M is ever formed.

.. math:: M v = J (J^T v) / N, \qquad (M v)' = M' v + M v'

Each product passes twice over the batch, a few samples at a time: memory grows with D, the number of parameters and the
activations of these few samples. ``DenseOperator`` provides the same products for given matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn

from grsd.jacobian import (
    FORWARD,
    TWICE,
    Parameters,
    exact_derivatives,
    pull_and_rate,
    push,
    push_and_rate,
    push_and_rate_back_and_forth,
    push_back_and_forth,
    random_like,
)
from grsd.jacobian.prepare import prepare
from grsd.jacobian.verify import TOLERANCE, inner, pullback, same_outputs
from grsd.losses import Loss, check_loss, checked_force, fitting_targets, force_along
from grsd.support.arguments import tensor
from grsd.support.checks import FEW, check_others
from grsd.support.values import said, whole_number

Vector = Float[Tensor, " D"]


@runtime_checkable
class Products(Protocol):
    """A symmetric D x D matrix M, known by its products."""

    dimension: int

    def product(self, v: Vector) -> Vector:
        """M v."""


@runtime_checkable
class Operator(Products, Protocol):
    """A symmetric D x D matrix M and its rate M', known by their products."""

    def product_and_rate(self, v: Vector, rate: Vector) -> tuple[Vector, Vector]:
        """M v, and M' v + M ``rate``: its derivative while v changes by ``rate``."""


@dataclass(frozen=True)
class DenseOperator:
    """The products of given matrices, (D, D) each."""

    kernel: Float[Tensor, "D D"]
    rate: Float[Tensor, "D D"]

    def __post_init__(self) -> None:
        call = "DenseOperator"
        for name, matrix in {"kernel": self.kernel, "rate": self.rate}.items():
            tensor(call, name, matrix)
        if self.kernel.ndim != 2 or self.kernel.shape[0] != self.kernel.shape[1] or not len(self.kernel):
            raise ValueError(f"{call}(kernel=...): expected a matrix (D, D), got shape {tuple(self.kernel.shape)}")
        if self.rate.shape != self.kernel.shape or self.rate.dtype != self.kernel.dtype:
            raise ValueError(f"{call}(rate=...): expected the kernel's shape and dtype, got {said(self.rate)}")

    @property
    def dimension(self) -> int:
        return self.kernel.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        return self.kernel.dtype

    def product(self, v: Vector) -> Vector:
        return self.kernel @ v

    def product_and_rate(self, v: Vector, rate: Vector) -> tuple[Vector, Vector]:
        return self.kernel @ v, self.rate @ v + self.kernel @ rate


class KernelProducts:
    """M = J J^T / N as products alone; vectors have length D = N * C, sample-major.

    Args: as ``tangent_kernel``; ``batch``: how many samples are differentiated at once; ``parameters``: patterns of
    those that count.
    Attributes: ``outputs``: f(X); ``dimension``: D.
    Cost: ``product`` takes one forward and two backward passes over the batch.
    Errors: as ``tangent_kernel``; ``RuntimeError`` if torch has no correct derivative of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        *,
        dtype: torch.dtype = torch.float64,
        device: str | torch.device | None = None,
        batch: int = 1000,
        parameters: Sequence[str] | None = None,
        call: str = "KernelProducts",
    ) -> None:
        whole_number(call, "batch", batch, 1)
        with exact_derivatives():
            prepared = prepare(call, model, inputs, dtype, device, parameters=parameters)
            self.network, self.inputs, self.outputs = prepared.network, prepared.inputs, prepared.outputs.detach()
            self.batch, self.dimension, self.dtype = min(int(batch), len(self.inputs)), self.outputs.numel(), dtype
            self._check_batches(call)
            self._prepare(call)

    def _prepare(self, call: str) -> None:
        """Choose how J v is formed: forward mode if it agrees with the backward pass, else the latter's transpose."""
        network, few = self.network, self.inputs[: min(self.batch, FEW)]
        v = random_like(self.outputs[: len(few)])
        x = {name: random_like(p) for name, p in network.parameters.items()}
        problem = "its forward derivatives disagree with its backward passes"
        for chosen in (push, push_back_and_forth):
            try:
                gradient, output = pullback(network, few, v, len(few)), chosen(network, few, x)
            except (RuntimeError, NotImplementedError) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                problem = str(error).splitlines()[0]
                continue
            scale = v.norm() * output.norm()
            if bool(((v * output).sum() - inner(gradient, x)).abs() <= TOLERANCE[v.dtype] * scale):
                self._push = chosen
                return
        raise RuntimeError(f"{call}(model, ...): torch cannot differentiate it here: {problem}")

    def product(self, v: Vector) -> Vector:
        """M v, (D,)."""
        return self.push(self.pull(v)) / len(self.inputs)

    def pull(self, v: Vector) -> Parameters:
        """J^T v, by the network's names of parameters."""
        with exact_derivatives():
            return pullback(self.network, self.inputs, v.view_as(self.outputs), self.batch)

    def push(self, vector: Parameters) -> Vector:
        """J vector, (D,)."""
        with exact_derivatives():
            parts = [self._push(self.network, few, vector) for few in self.inputs.split(self.batch)]
        return torch.cat(parts).reshape(-1)

    def as_linear_operator(self) -> LinearOperator:
        """M for ``scipy.sparse.linalg``."""

        def product(v: np.ndarray) -> np.ndarray:
            return self.product(torch.from_numpy(v.reshape(-1)).to(self.outputs)).cpu().numpy()

        dtype = self.outputs.cpu().numpy().dtype
        return LinearOperator((self.dimension, self.dimension), matvec=product, rmatvec=product, dtype=dtype)

    def _check_batches(self, call: str) -> None:
        with torch.no_grad():
            parts = [self.network(self.network.parameters, few) for few in self.inputs.split(self.batch)]
        same_outputs(call, (torch.cat(parts) - self.outputs).abs().max(), self.outputs)


class CrossProducts:
    """K = J(inputs) J(others)^T / N2 between two batches as products: D = N C rows, D2 = N2 C columns, sample-major.

    Args: as ``KernelProducts``; ``others``: the second batch, (N2, ...), of the training samples if K is to move
    predictions. Attributes: ``shape``: (D, D2); ``outputs``, ``other_outputs``: f on both batches.
    Cost: a product takes a forward pass over one batch, and a forward and a backward pass over the other.
    Errors: as ``KernelProducts``.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        others: Tensor,
        *,
        dtype: torch.dtype = torch.float64,
        device: str | torch.device | None = None,
        batch: int = 1000,
        parameters: Sequence[str] | None = None,
    ) -> None:
        call = "CrossProducts"
        check_others(call, model, inputs, others)
        self._left, self._right = (
            KernelProducts(model, x, dtype=dtype, device=device, batch=batch, parameters=parameters, call=call)
            for x in (inputs, others)
        )
        self.shape = self._left.dimension, self._right.dimension
        self.outputs, self.other_outputs = self._left.outputs, self._right.outputs

    def product(self, v: Float[Tensor, " D2"]) -> Vector:
        """K v, (D,)."""
        return self._left.push(self._right.pull(v)) / len(self._right.inputs)

    def transposed(self, u: Vector) -> Float[Tensor, " D2"]:
        """K^T u, (D2,)."""
        return self._right.push(self._left.pull(u)) / len(self._right.inputs)

    def as_linear_operator(self) -> LinearOperator:
        """K for ``scipy.sparse.linalg``."""

        def by(product: Callable[[Tensor], Tensor]) -> Callable[[np.ndarray], np.ndarray]:
            return lambda v: product(torch.from_numpy(v.reshape(-1)).to(self.outputs)).cpu().numpy()

        dtype = self.outputs.cpu().numpy().dtype
        return LinearOperator(self.shape, matvec=by(self.product), rmatvec=by(self.transposed), dtype=dtype)


class ForcedProducts(KernelProducts):
    """``KernelProducts`` with the force of a loss.

    Args: as ``tangent_kernel_and_rate``; ``batch``: how many samples are differentiated at once.
    Attributes: ``error``: e = dl/df, for "mse" f(X) - Y, (D,), sample-major; ``dimension``: D.
    Errors: as ``KernelProducts``, and those of ``tangent_kernel_and_rate`` for targets and losses.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        *,
        loss: Loss = "mse",
        dtype: torch.dtype = torch.float64,
        device: str | torch.device | None = None,
        batch: int = 1000,
        call: str | None = None,
    ) -> None:
        call = call or type(self).__name__
        check_loss(call, loss)
        self.loss, self._targets = loss, targets
        super().__init__(model, inputs, dtype=dtype, device=device, batch=batch, call=call)

    def _prepare(self, call: str) -> None:
        self._targets = fitting_targets(call, self.loss, self.outputs, self._targets)
        _, error = checked_force(call, self.loss, self.outputs, self._targets)
        self.error = error.reshape(-1)
        self._prepare_products(call)

    def _prepare_products(self, call: str) -> None:
        super()._prepare(call)

    def error_rate(self, call: str | None = None) -> Vector:
        """e' = -H M e along gradient flow, (D,), H the second derivative of each loss; it costs one ``product``."""
        call = call or type(self).__name__
        moved = -self.product(self.error).view_as(self.outputs)
        return force_along(call, self.loss, self.outputs, self._targets, moved).reshape(-1)


class KernelOperator(ForcedProducts):
    """M = J J^T / N and M' along gradient flow of the mean loss, as products; vectors have length D = N * C.

    Args and attributes: as ``ForcedProducts``.
    Cost: ``product`` takes one forward and two backward passes over the batch, ``product_and_rate`` about four times as
    much.
    Errors: as ``tangent_kernel_and_rate``; ``RuntimeError`` if torch has no correct second derivative of the model.
    """

    def _prepare_products(self, call: str) -> None:
        gradient = pullback(self.network, self.inputs, self.error.view_as(self.outputs), self.batch)
        self.direction = {name: -g / len(self.inputs) for name, g in gradient.items()}
        self._by, self._push, self._push_and_rate = self._choose(call)

    def product_and_rate(self, v: Vector, rate: Vector) -> tuple[Vector, Vector]:
        """M v, and M' v + M ``rate``, (D,) each."""
        with exact_derivatives():
            gradient, change = self._pull(v.view_as(self.outputs), rate.view_as(self.outputs))
            parts = [
                self._push_and_rate(self.network, few, gradient, self.direction, change)
                for few in self.inputs.split(self.batch)
            ]
        return tuple(torch.cat(part).reshape(-1) / len(self.inputs) for part in zip(*parts, strict=True))

    def _pull(self, v: Tensor, rate: Tensor) -> tuple[Parameters, Parameters]:
        """J^T v and its derivative."""
        totals: tuple[Parameters, ...] = ()
        for few, u, change in zip(*(part.split(self.batch) for part in (self.inputs, v, rate)), strict=True):
            found = pull_and_rate(self.network, few, u, self.direction, change, self._by)
            totals = tuple(_sum(*pair) for pair in zip(totals, found, strict=True)) if totals else found
        return totals

    def _choose(self, call: str) -> tuple[str, Callable, Callable]:
        """Forward mode if it agrees with the backward pass on some samples, else the transpose of backward passes."""
        network, few = self.network, self.inputs[: min(self.batch, FEW)]
        v = random_like(self.outputs[: len(few)])
        change = network.parameters
        x = {name: random_like(p) for name, p in change.items()}
        problem = "its second derivatives disagree with its first ones"
        for by, once, chosen in (
            (FORWARD, push, push_and_rate),
            (FORWARD, push_back_and_forth, push_and_rate_back_and_forth),
            (TWICE, push_back_and_forth, partial(push_and_rate_back_and_forth, by=TWICE)),
        ):
            try:
                gradient, gradient_rate = pull_and_rate(network, few, v, self.direction, torch.zeros_like(v), by)
                output, output_rate = chosen(network, few, x, self.direction, change)
            except (RuntimeError, NotImplementedError) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                problem = str(error).splitlines()[0]
                continue
            pairs = [
                ((v * output).sum(), inner(gradient, x), v.norm() * output.norm()),
                (
                    (v * output_rate).sum(),
                    inner(gradient_rate, x) + inner(gradient, change),
                    v.norm() * output_rate.norm(),
                ),
            ]
            if all(bool((one - other).abs() <= TOLERANCE[v.dtype] * scale) for one, other, scale in pairs):
                return by, once, chosen
        raise RuntimeError(f"{call}(model, ...): torch cannot differentiate it here: {problem}")


def _sum(one: Parameters, other: Parameters) -> Parameters:
    return {name: part + other[name] for name, part in one.items()}
