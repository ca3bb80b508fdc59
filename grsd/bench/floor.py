"""What no implementation of the same routes can save: their matrix products and one backward pass a class."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from grsd.kernel.job import Job
from grsd.tangents import GRAM, SLICES, Parts, Unit, exact_derivatives, jacobian
from grsd.tangents.tap import Tap


def floor(model: nn.Module, inputs: Tensor, targets: Tensor, memory_limit: str | None) -> Callable[[], None]:
    """The products of ``tangent_kernel``'s own routes on its own shapes, ready to run, after C backward passes.

    For each unit what its route multiplies, one half over classes: the Gram of the features and those of the backprops
    where two Grams are contracted; the rows, where they are slices, and their products. Contractions, sums, copies and
    the self-check are not counted. Everything at once, no memory limit.
    """
    with exact_derivatives():
        job = Job("bench", model, inputs, None, inputs.dtype, None, None)
        parts, _ = jacobian(job.network, inputs, job.units, route=job.route)(job.network.parameters)
    pairs = [pair for unit, own in zip(job.units, parts, strict=True) for pair in _pairs(unit, own)]
    out = inputs.new_empty(max(len(left) * right.shape[1] for left, right in pairs))
    outers = [own for unit, own in zip(job.units, parts, strict=True) if unit.route == SLICES]
    rows = inputs.new_empty(max((_rows(own).numel() for own in outers), default=0))
    zeros = {i: inputs.new_zeros(shape) for i, shape in enumerate(job.reading.shapes)}

    def run() -> None:
        with exact_derivatives():
            perturbations = {i: zero.requires_grad_() for i, zero in zeros.items()}
            with Tap(job.network.parameters, perturbations):
                outputs = job.network(job.network.parameters, inputs)
            for of_class in outputs.sum(0):
                torch.autograd.grad(of_class, list(perturbations.values()), retain_graph=True)
        for a, delta in outers:
            for of_class in delta:
                made = rows[: _one_class(a, of_class)].view(-1, of_class.shape[-1], a.shape[-1])
                torch.bmm(of_class.flatten(0, 1).transpose(1, 2), a.flatten(0, 1), out=made)
        for left, right in pairs:
            torch.mm(left, right, out=out[: len(left) * right.shape[1]].view(len(left), -1))

    return run


def _one_class(a: Tensor, delta: Tensor) -> int:
    samples, groups, _, q = delta.shape
    return samples * groups * q * a.shape[-1]


def _rows(parts: Parts) -> Tensor:
    """(C, N, columns), of any numbers: shapes alone decide the time."""
    a, delta = parts
    return delta.new_zeros(1).expand(len(delta), _one_class(a, delta[0])).unflatten(1, (a.shape[0], -1))


def _pairs(unit: Unit, parts: Parts) -> Iterator[tuple[Tensor, Tensor]]:
    """What is multiplied, left by right: (n, k) and (k, m)."""
    if unit.route == GRAM:
        a, delta = parts
        for group in range(a.shape[1]):
            features = a[:, group].flatten(0, 1)
            yield features, features.T
            yield from _half(delta[:, :, group].flatten(1, 2))
    else:
        yield from _half(_rows(parts).contiguous() if unit.route == SLICES else parts[0])


def _half(rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(C, n, k): the rows of each class with those of the same and later classes."""
    for c in range(len(rows)):
        yield rows[c], rows[c:].flatten(0, 1).T
