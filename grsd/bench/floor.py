"""The least work of any implementation of the same routes: matrix products and one backward pass per class."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from grsd.jacobian import ParameterGroup, Parts, Route, exact_derivatives, jacobian, trace_with_graph
from grsd.kernel.computation import KernelComputation
from grsd.kernel.tiles import tile_pairs
from grsd.kernel.weighted import weighted_blocks


def floor(model: nn.Module, inputs: Tensor, targets: Tensor, memory_limit: str | None) -> Callable[[], None]:
    """A function that runs C backward passes and the products of ``tangent_kernel``'s routes on its own shapes.

    The products of each group are those of pairs of tiles: on the route GRAM the products of features and of backprops,
    on the route WEIGHTED those of ``weighted_blocks``, on the route SLICES the rows and their products. Contractions,
    sums, copies and the self-check are not counted. There is no memory limit.
    """
    with exact_derivatives():
        computation = KernelComputation("bench", model, inputs, None, inputs.dtype, None, None)
    products = _products(computation, inputs)

    def run() -> None:
        with exact_derivatives():
            graph = trace_with_graph(computation.network, inputs)
            _one_pass_per_class(graph.outputs, [edge for edge, _ in graph.edges])
        products()

    return run


def floor_with_rate(model: nn.Module, inputs: Tensor, targets: Tensor, memory_limit: str | None) -> Callable[[], None]:
    """The same for ``tangent_kernel_and_rate``: three times the products, and C passes back through a dual graph.

    M' = J' J^T + J J'^T has two products where M has one, and J' is read off the passes back from J d.
    """
    with exact_derivatives():
        computation = KernelComputation("bench", model, inputs, targets, inputs.dtype, None, None, rate=True)
    products = _products(computation, inputs)

    def run() -> None:
        with exact_derivatives():
            graph = trace_with_graph(computation.network, inputs, computation.along, computation.strategy.by)
            _one_pass_per_class(graph.slopes, [edge for pair in graph.edges for edge in pair])
        for _ in range(3):
            products()

    return run


def _one_pass_per_class(of: Tensor, edges: list) -> None:
    at = [edge for edge in edges if edge is not None]
    for of_class in of.sum(0):
        torch.autograd.grad(of_class, at, retain_graph=True, allow_unused=True)


def _products(computation: KernelComputation, inputs: Tensor) -> Callable[[], None]:
    """A function that forms the products of M on the computation's routes."""
    with exact_derivatives():
        both, _ = jacobian(computation.network, inputs, computation.groups, row_method=computation.strategy.row_method)
    grouped, workspace = (
        list(zip(computation.groups, [own for own, _ in both], strict=True)),
        computation.plan.workspace,
    )
    pairs = [pair for group, own in grouped for pair in _pairs(group, own, workspace)]
    out = inputs.new_empty(max((len(left) * right.shape[1] for left, right in pairs), default=0))
    factored = {route: [own for group, own in grouped if group.route == route] for route in Route}
    outers = [(delta.flatten(0, 1).flatten(1, 2), a.flatten(0, 1)) for a, delta in factored[Route.SLICES]]
    rows = inputs.new_empty(max((delta[..., 0].numel() * a.shape[-1] for delta, a in outers), default=0))
    weighted = [[(a[:, g], delta[:, g])] for a, delta in factored[Route.WEIGHTED] for g in range(a.shape[1])]

    def run() -> None:
        for delta, a in outers:
            torch.bmm(delta, a, out=rows[: delta[..., 0].numel() * a.shape[-1]].view(*delta.shape[:2], -1))
        for left, right in pairs:
            torch.mm(left, right, out=out[: len(left) * right.shape[1]].view(len(left), -1))
        for side in weighted:
            for _ in weighted_blocks(side, side, same=True, workspace=workspace):
                pass

    return run


def _pairs(group: ParameterGroup, parts: Parts, workspace: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(left, right) factors of the products: rows of some samples and of others, so that each pair occurs once."""
    rows = parts
    if group.route == Route.GRAM:
        a, delta = parts
        rows = [part for g in range(a.shape[1]) for part in (a[:, g], delta[g].permute(1, 2, 0, 3))]
    elif group.route == Route.SLICES:
        a, delta = parts
        rows = [a.new_zeros(len(a), delta.shape[2], delta[0, :, 0, :, 0].numel() * a.shape[-1])]
    elif group.route == Route.WEIGHTED:
        return
    samples, classes = rows[-1].shape[:2]
    chosen = tile_pairs(parts[0].device, classes, samples, None, workspace, blocked=group.route == Route.GRAM)
    for part in rows:
        by_sample = part.flatten(1, -2).contiguous()
        for mine, others in chosen:
            yield by_sample[mine].flatten(0, 1), by_sample[others].flatten(0, 1).T
