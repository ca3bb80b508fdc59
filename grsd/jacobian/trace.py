"""Traces of a forward pass: its calls and, if it has a graph, derivatives by backward passes through the graph.

All derivatives are by plain autograd, so that every model that can be trained can be differentiated here. Along a
direction d of the parameters the graph also contains s = J d, by forward mode or by two backward passes. A backward
pass from s gives the derivative along d of a backward pass from the outputs, since second derivatives commute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import GradientEdge
from torch.func import vmap

from grsd.jacobian.composed import Composed
from grsd.jacobian.duals import dual, in_forward_mode
from grsd.jacobian.layers import Call
from grsd.jacobian.network import Network, Parameters
from grsd.jacobian.recorder import LayerCallRecorder

FORWARD, TWICE = "forward", "twice"
MANY = 16  # cotangents for which torch.vmap is worth its start


@dataclass
class ForwardTrace:
    """``outputs`` and, along a direction, ``slopes`` s = J d of the same shape, with their graph if there is one.

    ``calls``, ``shapes``, ``edges``: of the recognised calls, in order; ``names``: their (weight, bias). ``elsewhere``:
    parameters that are used in other ways. ``operations``: number of functions called. ``vmappable``: whether none of
    them prevents ``torch.vmap`` over samples. ``composed``: whether any was replaced. ``leaves``: the parameters in
    which the graph ends; ``directions``: d as leaves. ``inputs``, ``input_rates``: of the calls, by index.
    ``backprops``: (C, *shape) by call, if they have been computed already.
    """

    outputs: Tensor
    calls: tuple[Call, ...]
    shapes: tuple[torch.Size, ...]
    names: tuple[tuple[str | None, str | None], ...]
    elsewhere: frozenset[str]
    operations: int
    vmappable: bool
    composed: bool
    edges: tuple[tuple[GradientEdge | None, GradientEdge | None], ...] = ()
    leaves: Parameters | None = None
    slopes: Tensor | None = None
    directions: Parameters | None = None
    inputs: tuple[Tensor, ...] = ()
    input_rates: tuple[Tensor | None, ...] = ()
    backprops: dict[int, Tensor] | None = None

    def same_calls(self, other: ForwardTrace) -> bool:
        forms = [tuple(call.form for call in trace.calls) for trace in (self, other)]
        return forms[0] == forms[1] and self.names == other.names

    def without_graph(self) -> ForwardTrace:
        return replace(
            self,
            outputs=_plain(self.outputs),
            edges=(),
            leaves=None,
            slopes=None,
            directions=None,
            inputs=(),
            input_rates=(),
        )


def trace_forward(network: Network, inputs: Tensor) -> ForwardTrace:
    """Run the network once without a graph."""
    with torch.no_grad():
        return _recorded(
            network, network.parameters, inputs, LayerCallRecorder(network.parameters, network.dtype)
        ).without_graph()


def trace_with_graph(
    network: Network, inputs: Tensor, direction: Parameters | None = None, by: str = FORWARD
) -> ForwardTrace:
    """Run the network once with a graph; ``direction``: also compute s = J d, by forward mode or two backward passes.

    The trace of a network that is not functional has no graph, and all parameters are in ``elsewhere``.
    """
    if not network.functional:
        return replace(trace_forward(network, inputs), elsewhere=frozenset(network.parameters))
    leaves = leaves_of(network.parameters)
    if direction is None:
        return _recorded(network, leaves, inputs, LayerCallRecorder(leaves, network.dtype, graph=True))
    if by == TWICE:
        found = _recorded(network, leaves, inputs, LayerCallRecorder(leaves, network.dtype, graph=True, tangents=True))
        slopes, directions = slopes_by_two_passes(found.outputs, leaves, direction)
        return replace(found, slopes=slopes, directions=directions)
    return in_forward_mode(lambda: _forward_trace(network, inputs, leaves, leaves_of(direction)))


def _forward_trace(network: Network, inputs: Tensor, leaves: Parameters, directions: Parameters) -> ForwardTrace:
    duals = {name: dual(leaf, directions[name]) for name, leaf in leaves.items()}
    found = _recorded(
        network, duals, inputs, LayerCallRecorder(duals, network.dtype, graph=True, duals=True, tangents=True)
    )
    pairs = [forward_ad.unpack_dual(call.input) for call in found.calls]
    primal, tangent = forward_ad.unpack_dual(found.outputs)
    return replace(
        found,
        outputs=primal,
        slopes=tangent,
        leaves=leaves,
        directions=directions,
        inputs=tuple(pair.primal.detach() for pair in pairs),
        input_rates=tuple(None if pair.tangent is None else pair.tangent.detach() for pair in pairs),
    )


def trace_without_calls(network: Network, inputs: Tensor) -> ForwardTrace:
    """A trace with its graph that does not record the calls."""
    if not network.functional:
        return trace_with_graph(network, inputs)
    leaves = leaves_of(network.parameters)
    with torch.enable_grad():
        outputs = network(leaves, inputs.detach())
    return ForwardTrace(outputs, (), (), (), frozenset(), 0, True, network.composed, leaves=leaves)


def outputs_and_gradient(
    network: Network, inputs: Tensor, cotangent: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Parameters]:
    """(f, J^T u) for u = cotangent(f); calls are not recorded."""
    leaves = leaves_of(network.parameters)
    if network.functional:
        outputs = network(leaves, inputs.detach())
        try:
            return outputs.detach(), pulled(outputs, leaves, cotangent(outputs.detach()), retain=False)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError):
            network.functional = False
    outputs = trace_forward(network, inputs).outputs
    return outputs, next(pulled_by_backward(network, inputs, [cotangent(outputs)]))


def leaves_of(parameters: Parameters) -> Parameters:
    return {name: p.detach().requires_grad_() for name, p in parameters.items()}


def _plain(outputs: object) -> object:
    return outputs.detach() if isinstance(outputs, Tensor) else outputs


def _recorded(network: Network, parameters: Parameters, inputs: Tensor, recorder: LayerCallRecorder) -> ForwardTrace:
    with network.precision(), torch.set_grad_enabled(recorder.graph), recorder:
        outputs = network.plain(
            parameters, inputs.detach()
        )  # detached, since the model may ask for gradients of its inputs
    network.shares |= recorder.shares
    names = tuple((recorder.name(call.weight), recorder.name(call.bias)) for call in recorder.calls)
    calls = tuple(replace(call, weight=None, bias=None) for call in recorder.calls)
    seen = tuple(call.input.detach() for call in calls) if recorder.graph and not recorder.duals else ()
    return ForwardTrace(
        outputs,
        calls,
        tuple(recorder.shapes),
        names,
        frozenset(recorder.elsewhere),
        recorder.operations,
        recorder.vmappable,
        recorder.intervened,
        edges=tuple(recorder.edges),
        leaves=parameters if recorder.graph else None,
        inputs=seen,
        input_rates=(None,) * len(seen),
    )


def gradients(
    of: Tensor, at: Sequence[Tensor | GradientEdge], cotangents: Tensor, *, batched: bool = True, retain: bool = True
) -> list[Tensor | None]:
    """Derivatives of <cotangent, of> in each of ``at``, stacked over cotangents; None if ``of`` does not use it."""
    if batched and len(cotangents) >= MANY:
        return _gradients_of_many(of, at, cotangents, retain)
    if batched:
        return list(
            torch.autograd.grad(of, at, cotangents, retain_graph=retain, is_grads_batched=True, allow_unused=True)
        )
    results = [torch.autograd.grad(of, at, one, retain_graph=True, allow_unused=True) for one in cotangents]
    return [None if same[0] is None else torch.stack(same) for same in zip(*results, strict=True)]


def _gradients_of_many(
    of: Tensor, at: Sequence[Tensor | GradientEdge], cotangents: Tensor, retain: bool
) -> list[Tensor | None]:
    """By ``torch.vmap``: it has rules for more functions than ``is_grads_batched``, but takes longer to start."""
    there: list[bool] = []

    def one(cotangent: Tensor) -> tuple[Tensor, ...]:
        found = torch.autograd.grad(of, at, cotangent, retain_graph=retain, allow_unused=True)
        there[:] = [part is not None for part in found]
        return tuple(part for part in found if part is not None)

    stacked = iter(vmap(one)(cotangents))
    return [next(stacked) if part else None for part in there]


def one_per_class(outputs: Tensor) -> Tensor:
    """One cotangent per class, on all samples at once: (C, N, C), (1, N) or (T C, N, T, C)."""
    classes = outputs[0].numel()
    select = torch.eye(classes, dtype=outputs.dtype, device=outputs.device)
    return select[:, None, :].expand(classes, outputs.shape[0], classes).reshape(classes, *outputs.shape)


def pulled(of: Tensor, leaves: Parameters, cotangent: Tensor, *, retain: bool = True) -> Parameters:
    """The derivative of <cotangent, of> in each leaf."""
    if not of.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = torch.autograd.grad(of, list(leaves.values()), cotangent, retain_graph=retain, allow_unused=True)
    return dict(zip(leaves, filled(leaves.values(), found), strict=True))


def filled(at: Iterable[Tensor], found: Iterable[Tensor | None]) -> list[Tensor]:
    """Zeros where a derivative is None."""
    return [torch.zeros_like(leaf) if part is None else part for leaf, part in zip(at, found, strict=True)]


def pull(
    network: Network, graph: ForwardTrace, inputs: Tensor, cotangent: Tensor, *, retain: bool = True
) -> Parameters:
    """J^T cotangent on these inputs, from their trace.

    If ``torch.autograd.grad`` fails, since the graph recomputes parts of the forward pass, ``network.functional``
    becomes False and the module's own parameters are used.
    """
    if graph.leaves is not None:
        try:
            return pulled(graph.outputs, graph.leaves, cotangent, retain=retain)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError):
            network.functional = False
    return next(pulled_by_backward(network, inputs, [cotangent]))


def slopes_by_two_passes(outputs: Tensor, leaves: Parameters, direction: Parameters) -> tuple[Tensor, Parameters]:
    """(s = J d with a graph, d as leaves): s is the derivative of <J^T w, d> with respect to w."""
    directions = leaves_of(direction)
    w = torch.zeros_like(outputs, requires_grad=True)
    gradient = torch.autograd.grad(outputs, list(leaves.values()), w, create_graph=True, allow_unused=True)
    pairs = [(g, d) for g, d in zip(gradient, directions.values(), strict=True) if g is not None and g.requires_grad]
    (slopes,) = torch.autograd.grad([g for g, _ in pairs], w, [d for _, d in pairs], create_graph=True)
    return slopes, directions


@contextmanager
def own_leaves(network: Network, *, tangents: bool = False) -> Iterator[Parameters]:
    """Inside, the module's own parameters are leaves; modules that recompute parts in backward passes need this."""
    with network.own(network.parameters) as own:
        try:
            for p in own.values():
                p.requires_grad_(True)
            with network.precision(), Composed(network.dtype, tangents=tangents):
                yield own
        finally:
            for p in own.values():
                p.grad = None
                p.requires_grad_(False)
            network.restore()


@contextmanager
def own_graph(network: Network, inputs: Tensor, direction: Parameters | None) -> Iterator[ForwardTrace]:
    """A trace without calls whose graph ends in the module's own parameters; slopes by two backward passes."""
    with own_leaves(network, tangents=direction is not None) as own:
        outputs, slopes, directions = network.module(inputs), None, None
        if direction is not None:
            slopes, directions = slopes_by_two_passes(outputs, own, direction)
        unseen = ForwardTrace(outputs, (), (), (), frozenset(own), 0, False, network.composed)
        yield replace(unseen, leaves=own, slopes=slopes, directions=directions)


def pulled_by_backward(network: Network, inputs: Tensor, cotangents: Iterable[Tensor]) -> Iterator[Parameters]:
    """J^T u for each cotangent u, by ``Tensor.backward`` on the module's own parameters."""
    with own_leaves(network) as own:
        outputs = network.module(inputs)
        for cotangent in cotangents:
            outputs.backward(cotangent, retain_graph=True)
            yield {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in own.items()}
            for p in own.values():
                p.grad = None


def pulled_twice(
    network: Network, inputs: Tensor, direction: Parameters, cotangents: Iterable[Tensor]
) -> Iterator[tuple[Parameters, Parameters]]:
    """J^T u and its derivative along the direction for each cotangent u, by backward passes of a backward pass."""
    with own_leaves(network, tangents=True) as own:
        outputs = network.module(inputs)
        slopes, _ = slopes_by_two_passes(outputs, own, direction)
        for cotangent in cotangents:
            yield pulled(outputs, own, cotangent), pulled(slopes, own, cotangent)


def foreign_leaves(outputs: Tensor, leaves: Iterable[Tensor]) -> list[Tensor]:
    """Tensors that require gradients in which the graph of the outputs ends, except ``leaves``."""
    known = {id(leaf) for leaf in leaves}
    waiting = [] if outputs.grad_fn is None else [outputs.grad_fn]
    seen, found = set(waiting), []
    while waiting:
        node = waiting.pop()
        following = node.next_functions
        if not following:  # leaves are only at the ends of the graph
            variable = getattr(node, "variable", None)
            if isinstance(variable, Tensor) and id(variable) not in known:
                found.append(variable)
        for other, _ in following:
            if other is not None and other not in seen:
                seen.add(other)
                waiting.append(other)
    return found
