r"""The Jacobian of each parameter group, in factored form or as rows, and its exact derivative along a direction.

.. math:: \frac{\partial f_{ic}}{\partial W} = \sum_t \delta_{ict}\, a_{it}^T

Here a are the layer's features and delta is the derivative of output (i, c) with respect to the layer's output. If a
weight is used several times, all uses are further positions t of one sum. Along d, the derivative of a comes from
forward mode, those of delta and of rows from backward passes of s = J d: the derivative of s with respect to a layer's
output is that of delta along d.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import vjp, vmap

from grsd.jacobian.duals import dual, in_forward_mode
from grsd.jacobian.groups import ParameterGroup, Route
from grsd.jacobian.layers import LINEAR, OUTER, Call
from grsd.jacobian.network import Network, Parameters
from grsd.jacobian.trace import (
    FORWARD,
    TWICE,
    ForwardTrace,
    gradients,
    leaves_of,
    one_per_class,
    own_graph,
    pulled_by_backward,
    pulled_twice,
    slopes_by_two_passes,
    trace_with_graph,
)
from grsd.support.faults import is_mistake

Parts = tuple[Tensor, ...]
Differentiated = list[tuple[Parts, Parts | None]]


class RowMethod(StrEnum):
    """How to find the rows of parameters that no recognised call claims.

    PER_SAMPLE: each sample in a batch of its own, under ``torch.vmap``. WHOLE_BATCH: from the graph of all samples.
    ONE_OUTPUT: one backward pass per output, without ``torch.vmap``.
    """

    PER_SAMPLE = "per sample"
    WHOLE_BATCH = "whole batch"
    ONE_OUTPUT = "one output"


OWN_COPIES = 2**16  # largest number of parameters that are copied for each sample
COTANGENTS = 128  # largest number that is pulled back at once


@dataclass(frozen=True)
class Direction:
    """``along``: d. ``by``: J d by ``FORWARD`` mode, or by ``TWICE``, two backward passes."""

    along: Parameters
    by: str = FORWARD


def jacobian(
    network: Network,
    inputs: Tensor,
    groups: Sequence[ParameterGroup],
    *,
    row_method: RowMethod,
    direction: Direction | None = None,
    graph: ForwardTrace | None = None,
    at_once: int = 1,
) -> tuple[Differentiated, Tensor]:
    """(the Jacobian of each group on these inputs with its derivative along the direction, the outputs).

    The parts of a group are (features (N, G, T, p), backprops), with J_ic = sum_t delta_ict a_it^T for each of G groups
    of channels, or (rows (N, C, P),) on the route ROWS. The axes of the backprops suit their products: (G, T, N, C, q)
    on the route GRAM, (N, G, C, T, q) on the route WEIGHTED and (N, G, C, q, T) on the route SLICES.

    ``graph``: a trace of the same inputs, if there is one already. ``at_once``: samples whose rows are pulled back at
    once from the graph of the whole batch; if the network is not functional, that graph has its own parameters.
    """
    recognised = [group for group in groups if group.uses]
    generic = [group.names[0] for group in groups if not group.uses]
    rows: dict[str, tuple[Tensor, Tensor | None]] = {}
    outputs, backprops = None, {}
    if generic and row_method == RowMethod.PER_SAMPLE:
        rows, outputs = _rows_per_sample(network, generic, inputs, direction)
    elif generic and row_method == RowMethod.WHOLE_BATCH and not network.functional:
        with own_graph(network, inputs, None if direction is None else direction.along) as own:
            rows, outputs = _rows_of_batch(own, generic, at_once, batched=True), own.outputs.detach()
    elif generic and row_method == RowMethod.ONE_OUTPUT and (direction is None or direction.by == TWICE):
        rows, outputs = _rows_one_by_one(network, generic, inputs, direction)
    given = graph is not None
    if not given and (recognised or not rows):
        graph = trace_with_graph(network, inputs, *(() if direction is None else (direction.along, direction.by)))
    if graph is not None:
        outputs = graph.outputs.detach() if outputs is None or not given else outputs
        if generic and not rows:
            rows = _rows_of_batch(graph, generic, at_once, batched=row_method != RowMethod.ONE_OUTPUT)
        if recognised:
            backprops = _backprops(graph, recognised, batched=row_method != RowMethod.ONE_OUTPUT, retain=given)
    of = _Assembly(graph, backprops, len(inputs), direction is not None)
    del graph
    parts: Differentiated = [((), None)] * len(groups)
    # Groups with rows come first: they release more memory than their result occupies.
    order = sorted(range(len(groups)), key=lambda place: groups[place].route != Route.ROWS)
    last = {index: place for place in order for index, _ in groups[place].uses}
    for place in order:
        group = groups[place]
        if group.uses:
            parts[place] = of.group(group)
            of.release({index for index, _ in group.uses if last[index] == place})
        else:
            row, rate = rows.pop(group.names[0])
            parts[place] = (row,), None if direction is None else (rate,)
    return parts, outputs


def _backprops(
    graph: ForwardTrace, recognised: Sequence[ParameterGroup], batched: bool, retain: bool
) -> dict[int, tuple[Tensor, Tensor | None]]:
    """By call: (delta, its derivative along the direction or None), each (C, *shape of the call's output)."""
    wanted = sorted({index for group in recognised for index, _ in group.uses})
    if graph.backprops is not None:
        return {index: (graph.backprops[index], None) for index in wanted}
    select = one_per_class(graph.outputs)

    def zeros(index: int) -> Tensor:
        return select.new_zeros(len(select), *graph.shapes[index])

    def found(of: Tensor, edges: list) -> list[Tensor]:
        at = [edge for edge in edges if edge is not None]
        values = iter(gradients(of, at, select, batched=batched, retain=retain))
        values = [None if edge is None else next(values) for edge in edges]
        return [zeros(index) if v is None else v for index, v in zip(wanted * 2, values, strict=False)]

    if graph.slopes is None or not graph.slopes.requires_grad:
        deltas = found(graph.outputs, [graph.edges[index][0] for index in wanted])
        return {index: (delta, None) for index, delta in zip(wanted, deltas, strict=True)}
    both = found(graph.slopes, [graph.edges[index][place] for place in (0, 1) for index in wanted])
    rates, deltas = both[: len(wanted)], both[len(wanted) :]
    return dict(zip(wanted, zip(deltas, rates, strict=True), strict=True))


class _Assembly:
    """Assembles the parts of groups from the kept inputs of their calls and from backprops."""

    def __init__(
        self, graph: ForwardTrace | None, backprops: dict[int, tuple[Tensor, Tensor | None]], samples: int, rate: bool
    ) -> None:
        self.samples, self.rate, self.backprops = samples, rate, backprops
        self.calls = {index: graph.calls[index] for index in backprops}
        self.inputs = {index: (graph.inputs[index], graph.input_rates[index]) for index in backprops}

    def group(self, group: ParameterGroup) -> tuple[Parts, Parts | None]:
        with torch.no_grad():
            if not self.rate:
                return self._parts(
                    group, {index: a for index, (a, _) in self.inputs.items()}, self._deltas(group)
                ), None
            return in_forward_mode(lambda: self._parts_and_rates(group))

    def _parts_and_rates(self, group: ParameterGroup) -> tuple[Parts, Parts]:
        inputs = {index: _dual(*self.inputs[index]) for index, _ in group.uses}
        deltas = {index: _dual(*self.backprops[index]) for index, _ in group.uses}
        pairs = [forward_ad.unpack_dual(part) for part in self._parts(group, inputs, deltas)]
        parts = tuple(pair.primal for pair in pairs)
        return parts, tuple(torch.zeros_like(pair.primal) if pair.tangent is None else pair.tangent for pair in pairs)

    def release(self, indices: set[int]) -> None:
        for index in indices:
            del self.backprops[index], self.inputs[index]

    def _deltas(self, group: ParameterGroup) -> dict[int, Tensor]:
        return {index: self.backprops[index][0] for index, _ in group.uses}

    def _parts(self, group: ParameterGroup, inputs: dict[int, Tensor], deltas: dict[int, Tensor]) -> Parts:
        index, layout = group.uses[0]
        one = len(group.uses) == 1 and inputs[index].ndim == 2 and len(inputs[index]) == self.samples
        if one and group.route == Route.GRAM and self.calls[index].form == LINEAR and layout.axis == 0:
            return _one_position(group, inputs[index], deltas[index])
        left, right = [], []
        for index, layout in group.uses:
            call, delta = self.calls[index], deltas[index]
            arranged = call.arrange(delta.flatten(0, 1)).unflatten(0, (len(delta), -1))
            delta = _positions(call, layout.split_samples(arranged, self.samples, call.lead, 1), 1)
            right.append(delta)
            if group.weight:
                a = _positions(call, layout.split_samples(call.features(inputs[index]), self.samples, call.lead), 0)
                left.append(_one_hot(a, group.vocabulary, delta) if group.vocabulary is not None else a)
        delta = torch.cat(right, -2) if len(right) > 1 else right[0]
        a = (torch.cat(left, -2) if len(left) > 1 else left[0]) if left else None
        if self.calls[group.uses[0][0]].kind == OUTER:
            if a is None:
                a = delta.new_ones(*delta.shape[1:-1], 1)
            elif group.bias:
                a = torch.cat([a, a.new_ones(*a.shape[:-1], 1)], -1)
            if group.route == Route.GRAM:
                return a.contiguous(), delta.permute(2, 3, 1, 0, 4).contiguous()
            if group.route == Route.WEIGHTED:
                return a.contiguous(), delta.permute(1, 2, 0, 3, 4).contiguous()
            delta = delta.permute(1, 2, 0, 4, 3).contiguous()
            return (a, delta) if group.route == Route.SLICES else (outer_product(delta, a),)
        rows = [(delta * a).sum(2).transpose(0, 1)] if group.weight else []
        rows += [delta.sum(2).transpose(0, 1)] if group.bias else []
        return (torch.cat(rows, -1),)


def _one_position(group: ParameterGroup, a: Tensor, delta: Tensor) -> Parts:
    """The parts of a linear layer without positions, from features (N, p) and backprops (C, N, q)."""
    if not group.weight:
        a = a.new_ones(len(a), 1)
    elif group.bias:
        a = torch.cat([a, a.new_ones(len(a), 1)], -1)
    return a[:, None, None], delta.transpose(0, 1).contiguous()[None, None]


def _dual(value: Tensor, tangent: Tensor | None) -> Tensor:
    return value if tangent is None else dual(value.contiguous(), tangent.contiguous())


def outer_product(delta: Tensor, a: Tensor) -> Tensor:
    """Rows (N, C, G q p) of the Jacobian from backprops (N, G, C, q, T) and features (N, G, T, p)."""
    samples, channel_groups, classes = delta.shape[:3]
    rows = torch.bmm(delta.flatten(0, 1).flatten(1, 2), a.flatten(0, 1))
    return rows.view(samples, channel_groups, classes, -1).transpose(1, 2).flatten(2)


def _positions(call: Call, by_sample: Tensor, first: int) -> Tensor:
    """Merge axes after the ``first``: (N, K, G, T, p) to (N, G, K T, p), or (N, K, T, shape...) to (N, K T, size)."""
    if call.kind == OUTER:
        return by_sample.transpose(first + 1, first + 2).flatten(first + 2, first + 3)
    return by_sample.flatten(first + 1, first + 2).flatten(first + 2)


def _one_hot(tokens: Tensor, vocabulary: Tensor, like: Tensor) -> Tensor:
    return (tokens == vocabulary).to(like.dtype)


Rows = dict[str, tuple[Tensor, Tensor | None]]


def _rows_per_sample(
    network: Network, names: Sequence[str], inputs: Tensor, direction: Direction | None
) -> tuple[Rows, Tensor]:
    """Rows (N, C, P) of the named parameters; each sample is in a batch of its own and has parameters of its own.

    Plain backward passes go through the batch that ``torch.vmap`` makes of the samples. J d is found by two backward
    passes, since the imports of forward mode under ``torch.vmap`` take a second.
    """
    selected = {name: network.parameters[name] for name in names}
    if direction is None and (network.shares or sum(p.numel() for p in selected.values()) > OWN_COPIES):
        return _rows_with_shared_parameters(network, selected, inputs)

    def of_each(parameters: Parameters) -> Parameters:
        return {n: parameters[n].detach().expand(len(inputs), *parameters[n].shape).requires_grad_() for n in names}

    def one(own: Parameters, sample: Tensor) -> Tensor:
        return network(rest | own, sample[None], tangents=direction is not None)[0]

    leaves, rest = of_each(network.parameters), {n: p for n, p in network.parameters.items() if n not in selected}
    if direction is None:
        outputs = vmap(one)(leaves, inputs)
        found = gradients(outputs, list(leaves.values()), one_per_class(outputs), retain=False)
        return _rows(leaves, found, [None] * len(names), outputs), outputs.detach()
    rest = leaves_of(rest)
    outputs = vmap(one)(leaves, inputs)
    along = of_each(direction.along) | {n: direction.along[n] for n in rest}
    slopes, directions = slopes_by_two_passes(outputs, leaves | rest, along)
    at = [*(directions[n] for n in names), *leaves.values()]
    found = gradients(slopes, at, one_per_class(outputs), retain=False)
    return _rows(leaves, found[: len(names)], found[len(names) :], outputs), outputs.detach()


def _rows_with_shared_parameters(network: Network, selected: Parameters, inputs: Tensor) -> tuple[Rows, Tensor]:
    """The same by ``torch.func.vjp``: faster if there are many parameters, although its imports take a second."""

    def one(sample: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        outputs, pull = vjp(lambda chosen: network(network.parameters | chosen, sample[None]), selected)
        (rows,) = vmap(pull)(one_per_class(outputs))
        return {name: row.reshape(len(row), -1) for name, row in rows.items()}, outputs[0]

    rows, outputs = vmap(one)(inputs)
    return {name: (row, None) for name, row in rows.items()}, outputs


def _rows(leaves: Parameters, found: Sequence[Tensor | None], rates: Sequence[Tensor | None], outputs: Tensor) -> Rows:
    """Rows (N, C, P) from derivatives (C, N, *shape) in the leaves (N, *shape); None means zero."""

    def rows(leaf: Tensor, of: Tensor | None) -> Tensor:
        if of is None:
            return leaf.new_zeros(len(leaf), outputs.numel() // len(leaf), leaf[0].numel())
        return of.reshape(*of.shape[:2], -1).transpose(0, 1).contiguous()

    def all_rows(derivatives: Sequence[Tensor | None]) -> list[Tensor]:
        return [rows(*pair) for pair in zip(leaves.values(), derivatives, strict=True)]

    return dict(zip(leaves, zip(all_rows(found), all_rows(rates), strict=True), strict=True))


def _rows_of_batch(graph: ForwardTrace, names: Sequence[str], at_once: int, batched: bool) -> Rows:
    """Rows from a graph of the whole batch, of ``at_once`` samples at a time."""
    outputs = graph.outputs
    samples, classes = len(outputs), outputs.numel() // len(outputs)
    leaves = [graph.leaves[name] for name in names]
    pieces: list[list[Tensor | None]] = []
    rate = graph.directions is not None
    along = [graph.directions[name] for name in names] if rate else []
    flat = rate and (graph.slopes is None or not graph.slopes.requires_grad)
    step = classes * max(1, min(at_once, COTANGENTS // classes))
    for start in range(0, samples * classes, step):
        count = min(step, samples * classes - start)
        here = torch.eye(count, samples * classes, dtype=outputs.dtype, device=outputs.device).roll(start, 1)
        here = here.view(-1, *outputs.shape)
        if rate and not flat:
            piece = gradients(graph.slopes, [*along, *leaves], here, batched=batched)
        else:
            piece = gradients(outputs, leaves, here, batched=batched)
        pieces.append([None if part is None else part.flatten(1) for part in piece])

    def rows(parts: Sequence[Tensor | None], size: int) -> Tensor:
        if parts[0] is None:
            return outputs.new_zeros(samples, classes, size)
        return torch.cat(parts).view(samples, classes, size)

    columns = [rows(parts, leaf.numel()) for parts, leaf in zip(zip(*pieces, strict=True), leaves * 2, strict=False)]
    rates = columns[len(names) :] if rate and not flat else [None] * len(names)
    if flat:
        rates = [torch.zeros_like(column) for column in columns]
    return {name: (columns[k], rates[k]) for k, name in enumerate(names)}


def _rows_one_by_one(
    network: Network, names: Sequence[str], inputs: Tensor, direction: Direction | None
) -> tuple[Rows, Tensor]:
    """Rows by one backward pass per output on the module's own parameters, without ``torch.func``."""
    with torch.no_grad():
        outputs = network(network.parameters, inputs)
    samples = len(outputs)
    select = torch.eye(outputs.numel(), dtype=outputs.dtype, device=outputs.device).view(-1, *outputs.shape)
    if direction is None:
        passes = [[g[name].flatten() for name in names] for g in pulled_by_backward(network, inputs, select)]
    else:
        passes = [
            [g[name].flatten() for g in both for name in names]
            for both in pulled_twice(network, inputs, direction.along, select)
        ]
    columns = [torch.stack(rows).view(samples, len(passes) // samples, -1) for rows in zip(*passes, strict=True)]
    rates = columns[len(names) :] or [None] * len(names)
    return dict(zip(names, zip(columns[: len(names)], rates, strict=True), strict=True)), outputs


def can_vmap_samples(network: Network, inputs: Tensor, outputs: Tensor) -> bool:
    """Whether single samples under ``torch.vmap`` have the same outputs as in the batch."""
    if len(inputs) == 1:
        return False
    few = inputs[:2]
    try:
        with torch.no_grad():
            alone = vmap(lambda sample: network(network.parameters, sample[None])[0])(few)
    except Exception as error:  # whatever vmap or the module refuses, the whole batch avoids it
        if is_mistake(error):
            raise
        return False
    eps = torch.finfo(outputs.dtype).eps
    return alone.shape == outputs[:2].shape and bool(
        (alone - outputs[:2]).abs().max() <= 1e3 * eps * outputs.abs().max()
    )
