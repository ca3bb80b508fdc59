"""The least work of any implementation of the same routes: matrix products and one backward pass per class."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from grsd.jacobian import ParameterGroup, Parts, Route, exact_derivatives, jacobian, trace_with_graph
from grsd.kernel.computation import KernelComputation
from grsd.kernel.tiles import tile_pairs


def floor(model: nn.Module, inputs: Tensor, targets: Tensor, memory_limit: str | None) -> Callable[[], None]:
    """A function that runs C backward passes and the products of ``tangent_kernel``'s routes on its own shapes.

    The products of each group are those of pairs of tiles: on the route GRAM the Gram matrices of features and of
    backprops, on the route SLICES the rows and their products. Contractions, sums, copies and the self-check are not
    counted. There is no memory limit.
    """
    with exact_derivatives():
        computation = KernelComputation("bench", model, inputs, None, inputs.dtype, None, None)
        both, _ = jacobian(computation.network, inputs, computation.groups, row_method=computation.strategy.row_method)
    parts = [own for own, _ in both]
    pairs = [
        pair
        for group, own in zip(computation.groups, parts, strict=True)
        for pair in _pairs(group, own, computation.plan.workspace)
    ]
    out = inputs.new_empty(max(len(left) * right.shape[1] for left, right in pairs))
    sliced = [own for group, own in zip(computation.groups, parts, strict=True) if group.route == Route.SLICES]
    outers = [(delta.flatten(0, 1).flatten(1, 2), a.flatten(0, 1)) for a, delta in sliced]
    rows = inputs.new_empty(max((delta[..., 0].numel() * a.shape[-1] for delta, a in outers), default=0))

    def run() -> None:
        with exact_derivatives():
            graph = trace_with_graph(computation.network, inputs)
            for of_class in graph.outputs.sum(0):
                torch.autograd.grad(of_class, [edge for edge, _ in graph.edges], retain_graph=True)
        for delta, a in outers:
            torch.bmm(delta, a, out=rows[: delta[..., 0].numel() * a.shape[-1]].view(*delta.shape[:2], -1))
        for left, right in pairs:
            torch.mm(left, right, out=out[: len(left) * right.shape[1]].view(len(left), -1))

    return run


def _pairs(group: ParameterGroup, parts: Parts, workspace: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(left, right) factors of the products: rows of some samples and of others, so that each pair occurs once."""
    positions, rows = None, parts
    if group.route == Route.GRAM:
        a, delta = parts
        positions = a.shape[2] ** 2
        rows = [part for g in range(a.shape[1]) for part in (a[:, g], delta[g].permute(1, 2, 0, 3))]
    elif group.route == Route.SLICES:
        a, delta = parts
        rows = [a.new_zeros(len(a), delta.shape[2], delta[0, :, 0, :, 0].numel() * a.shape[-1])]
    samples, classes = rows[-1].shape[:2]
    chosen = tile_pairs(parts[0].device, classes, samples, None, positions, workspace)
    for part in rows:
        by_sample = part.flatten(1, -2).contiguous()
        for mine, others in chosen:
            yield by_sample[mine].flatten(0, 1), by_sample[others].flatten(0, 1).T
