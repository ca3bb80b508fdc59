"""What no implementation of the same routes can save: their matrix products and one backward pass a class."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from grsd.kernel.job import Job
from grsd.kernel.strips import visits
from grsd.tangents import GRAM, SLICES, Parts, Unit, exact_derivatives, jacobian
from grsd.tangents.tap import Tap


def floor(model: nn.Module, inputs: Tensor, targets: Tensor, memory_limit: str | None) -> Callable[[], None]:
    """The products of ``tangent_kernel``'s own routes on its own shapes, ready to run, after C backward passes.

    For each unit what its route multiplies, strip by strip: the Gram of the features and that of the backprops, where
    two Grams are contracted; the rows, where they are slices, and their products. Contractions, sums, copies and
    the self-check are not counted. Everything at once, no memory limit.
    """
    with exact_derivatives():
        job = Job("bench", model, inputs, None, inputs.dtype, None, None)
        parts, _ = jacobian(job.network, inputs, job.units, route=job.route)(job.network.parameters)
    pairs = [pair for unit, own in zip(job.units, parts, strict=True) for pair in _pairs(unit, own, job.plan.workspace)]
    out = inputs.new_empty(max(len(left) * right.shape[1] for left, right in pairs))
    outers = [own for unit, own in zip(job.units, parts, strict=True) if unit.route == SLICES]
    rows = inputs.new_empty(max((_one_class(*own) for own in outers), default=0))
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
                made = rows[: _one_class(a, delta)].view(-1, of_class.shape[-1], a.shape[-1])
                torch.bmm(of_class.flatten(0, 1).transpose(1, 2), a.flatten(0, 1), out=made)
        for left, right in pairs:
            torch.mm(left, right, out=out[: len(left) * right.shape[1]].view(len(left), -1))

    return run


def _one_class(a: Tensor, delta: Tensor) -> int:
    _, samples, groups, _, q = delta.shape
    return samples * groups * q * a.shape[-1]


def _pairs(unit: Unit, parts: Parts, workspace: int) -> Iterator[tuple[Tensor, Tensor]]:
    """What is multiplied, left by right: rows of some samples with those of others, each pair of samples once."""
    classes, samples = parts[-1].shape[0], parts[-1].shape[1]
    positions = None
    if unit.route == GRAM:
        (a, delta), positions = parts, parts[0].shape[2] ** 2
        by_sample = [part for g in range(a.shape[1]) for part in (a[:, g], delta[:, :, g].transpose(0, 1))]
    elif unit.route == SLICES:
        by_sample = [parts[0].new_zeros(samples, classes, _one_class(*parts) // samples)]
    else:
        by_sample = [parts[0].transpose(0, 1)]
    chosen = visits(parts[0].device, classes, samples, None, positions, workspace)
    for part in by_sample:
        rows = part.flatten(1, -2).contiguous()
        for mine, others in chosen:
            yield rows[mine].flatten(0, 1), rows[others].flatten(0, 1).T
