"""Products of the Jacobian and of its derivative along a direction with vectors, on either side."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import jvp

from grsd.jacobian.duals import dual, in_forward_mode
from grsd.jacobian.network import Network, Parameters
from grsd.jacobian.trace import FORWARD, filled, slopes_by_two_passes, trace_with_graph


def push(network: Network, inputs: Tensor, vector: Parameters) -> Tensor:
    """J vector, with the shape of the output, by forward mode."""

    def pushed() -> Tensor:
        duals = {name: dual(p, vector[name]) for name, p in network.parameters.items()}
        primal, tangent = forward_ad.unpack_dual(network(duals, inputs, tangents=True))
        return torch.zeros_like(primal) if tangent is None else tangent

    with torch.no_grad():
        return in_forward_mode(pushed)


def push_back_and_forth(network: Network, inputs: Tensor, vector: Parameters) -> Tensor:
    """The same without forward mode, as the transpose of a backward pass."""
    graph = trace_with_graph(network, inputs)
    return slopes_by_two_passes(graph.outputs, graph.leaves, vector)[0].detach()


def pull_and_rate(
    network: Network, inputs: Tensor, cotangent: Tensor, direction: Parameters, rate: Tensor, by: str = FORWARD
) -> tuple[Parameters, Parameters]:
    """J^T cotangent and its derivative along ``direction``, while the cotangent changes by ``rate``."""
    graph = trace_with_graph(network, inputs, direction, by)
    at = [*graph.directions.values(), *graph.leaves.values()]
    pairs = [(graph.slopes, cotangent), (graph.outputs, rate)]
    pairs = [(of, u) for of, u in pairs if of is not None and of.requires_grad]
    found = torch.autograd.grad([of for of, _ in pairs], at, [u for _, u in pairs], allow_unused=True)
    parts = filled([*graph.directions.values(), *graph.leaves.values()], found)
    names = list(graph.leaves)
    return dict(zip(names, parts[: len(names)], strict=True)), dict(zip(names, parts[len(names) :], strict=True))


def push_and_rate(
    network: Network, inputs: Tensor, vector: Parameters, direction: Parameters, rate: Parameters
) -> tuple[Tensor, Tensor]:
    """J vector and its derivative along ``direction``, while the vector changes by ``rate``: forward mode twice."""

    def once(parameters: Parameters, vector: Parameters) -> Tensor:
        return jvp(lambda p: network(p, inputs, tangents=True), (parameters,), (vector,))[1]

    return jvp(once, (network.parameters, vector), (direction, rate))


def push_and_rate_back_and_forth(
    network: Network,
    inputs: Tensor,
    vector: Parameters,
    direction: Parameters,
    rate: Parameters,
    by: str = FORWARD,
) -> tuple[Tensor, Tensor]:
    """The same as the transpose of backward passes. It costs three times as much, and is correct if forward mode is not
    their transpose (backward passes omit an embedding's padding)."""
    graph = trace_with_graph(network, inputs, direction, by)
    pushed, _ = slopes_by_two_passes(graph.outputs, graph.leaves, vector)
    changed, _ = slopes_by_two_passes(graph.slopes, graph.leaves, vector)
    moved, _ = slopes_by_two_passes(graph.outputs, graph.leaves, rate)
    return pushed.detach(), (changed + moved).detach()
