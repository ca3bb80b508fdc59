r"""The Jacobian of each unit in factored form or as rows, as a function of the parameters that forward mode can follow.

.. math:: \frac{\partial f_{ic}}{\partial W} = \sum_t \delta_{ict}\, a_{it}^T

with a the layer's features and delta the derivative of output (i, c) in the layer's output, found by adding a zero
perturbation to every layer's output. Tied and reused weights: the uses become further positions t of one sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.func import vjp, vmap
from torch.utils._pytree import tree_flatten, tree_unflatten

from grsd.tangents.layers import OUTER, Call
from grsd.tangents.network import Network, Parameters
from grsd.tangents.tap import Tap
from grsd.tangents.units import GRAM, ROWS, SLICES, Reading, Unit, read

Parts = tuple[Tensor, ...]


ALONE, TOGETHER, CAREFUL = "alone", "together", "careful"


def jacobian(
    network: Network, inputs: Tensor, units: Sequence[Unit], *, route: str, reading: Reading | None = None
) -> Callable[[Parameters], tuple[list[Parts], Tensor]]:
    """A function of the parameters giving, for each unit, its Jacobian on these inputs, and the outputs.

    A unit's parts are (features (N, G, T, p), backprops) with J_ic = sum_t delta_ict a_it^T for each group, or
    (rows (N, C, P),) where its route is ROWS. The backprops lie as they are multiplied: (G, T, N, C, q) where the route
    is GRAM, (N, G, C, q, T) where it is SLICES. ``route``: how backward passes are batched. ALONE: over classes, and
    over samples for parameters that no recognised call claims; TOGETHER: over classes; CAREFUL: one by one, which needs
    nothing of ``torch.vmap``. ``reading``: of these very inputs, where there is one already.
    """
    tapped = [unit for unit in units if unit.uses]
    generic = [unit.names[0] for unit in units if not unit.uses]
    shapes = (reading or read(network, inputs)).shapes if tapped else ()
    wanted = {index for unit in tapped for index, _ in unit.uses}
    order = sorted(range(len(units)), key=lambda place: units[place].route != ROWS)  # these free more than they hold
    last = {index: place for place in order for index, _ in units[place].uses}

    def of(parameters: Parameters) -> tuple[list[Parts], Tensor]:
        like = next(iter(parameters.values()))
        zeros = {i: like.new_zeros(()).expand(shapes[i]) for i in sorted(wanted)}
        calls: dict[int, Call] = {}

        def perturbed(perturbations: dict[int, Tensor]) -> tuple[Tensor, tuple[Tensor, dict[int, Tensor]]]:
            with Tap(parameters, perturbations) as tap:
                outputs = network(parameters, inputs)
            calls.update({i: replace(tap.calls[i], input=None) for i in zeros})
            needed = {i for unit in tapped if unit.weight for i, _ in unit.uses}
            return outputs, (outputs, {i: tap.calls[i].input for i in needed})

        outputs, backprops, seen = None, {}, {}
        if tapped:
            _, pull, (outputs, seen) = vjp(perturbed, zeros, has_aux=True)
            (backprops,) = _batched(pull, route)(_classes(outputs))
            del pull  # and the graph with it
        rows = {}
        if generic:
            selected = {name: parameters[name] for name in generic}
            by_row = _alone if route == ALONE else partial(_together, route=route)
            rows, outputs = by_row(network, parameters, selected, inputs)
        parts: list[Parts] = [()] * len(units)
        for place in order:
            unit = units[place]
            if unit.uses:
                parts[place] = _assemble(unit, calls, seen, backprops, len(inputs))
            else:
                parts[place] = (rows.pop(unit.names[0]).contiguous(),)
            for index, _ in unit.uses:
                if last[index] == place:
                    del backprops[index]
                    seen.pop(index, None)
        return parts, outputs

    return of


def _batched(pull: Callable, route: str) -> Callable:
    """``pull`` for a stack of cotangents: at once, or one after another."""
    if route != CAREFUL:
        return vmap(pull)

    def one_by_one(cotangents: Tensor) -> object:
        results = [tree_flatten(pull(cotangent)) for cotangent in cotangents]
        leaves = [torch.stack(same) for same in zip(*(leaves for leaves, _ in results), strict=True)]
        return tree_unflatten(leaves, results[0][1])

    return one_by_one


def _classes(outputs: Tensor) -> Tensor:
    """One cotangent a class, on all samples at once: (C, N, C) or (1, N)."""
    classes = outputs.shape[1] if outputs.ndim == 2 else 1
    select = torch.eye(classes, dtype=outputs.dtype, device=outputs.device)
    return select[:, None, :].expand(classes, outputs.shape[0], classes).reshape(classes, *outputs.shape)


def _assemble(unit: Unit, calls: dict[int, Call], seen: dict, backprops: dict, samples: int) -> Parts:
    left, right = [], []
    for index, layout in unit.uses:
        call = calls[index]

        def by_sample(delta: Tensor, call: Call = call, layout=layout) -> Tensor:
            return _positions(call, layout.apart(call.arrange(delta), samples, call.lead))

        delta = vmap(by_sample)(backprops[index])
        right.append(delta)
        if unit.weight:
            a = _positions(call, layout.apart(call.features(seen[index]), samples, call.lead))
            left.append(_one_hot(a, unit.vocabulary, delta) if unit.vocabulary is not None else a)
    delta = torch.cat(right, -2) if len(right) > 1 else right[0]
    a = (torch.cat(left, -2) if len(left) > 1 else left[0]) if left else None
    if calls[unit.uses[0][0]].kind == OUTER:
        if a is None:
            a = delta.new_ones(*delta.shape[1:-1], 1)
        elif unit.bias:
            a = torch.cat([a, a.new_ones(*a.shape[:-1], 1)], -1)
        if unit.route == GRAM:
            return a.contiguous(), delta.permute(2, 3, 1, 0, 4).contiguous()
        delta = delta.permute(1, 2, 0, 4, 3).contiguous()
        return (a, delta) if unit.route == SLICES else (outer_product(delta, a),)
    rows = [torch.einsum("cntw,ntw->ncw", delta, a)] if unit.weight else []
    rows += [delta.sum(2).transpose(0, 1)] if unit.bias else []
    return (torch.cat(rows, -1),)


def outer_product(delta: Tensor, a: Tensor) -> Tensor:
    """Rows (N, C, G q p) of the Jacobian from backprops (N, G, C, q, T) and features (N, G, T, p)."""
    samples, groups, classes = delta.shape[:3]
    rows = torch.bmm(delta.flatten(0, 1).flatten(1, 2), a.flatten(0, 1))
    return rows.view(samples, groups, classes, -1).transpose(1, 2).flatten(2)


def _positions(call: Call, by_sample: Tensor) -> Tensor:
    """(N, K, G, T, p) to (N, G, K T, p); (N, K, T, shape...) to (N, K T, size)."""
    if call.kind == OUTER:
        return by_sample.transpose(1, 2).flatten(2, 3)
    return by_sample.flatten(1, 2).flatten(2)


def _one_hot(tokens: Tensor, vocabulary: Tensor, like: Tensor) -> Tensor:
    return (tokens == vocabulary).to(like.dtype)


def _alone(
    network: Network, parameters: Parameters, selected: Parameters, inputs: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Rows (N, C, P) of the selected parameters, each sample in a batch of its own."""

    def one(sample: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        outputs, pull = vjp(lambda chosen: network(parameters | chosen, sample[None]), selected)
        (rows,) = vmap(pull)(_classes(outputs))
        return {name: row.flatten(1) for name, row in rows.items()}, outputs[0]

    rows, outputs = vmap(one)(inputs)
    return rows, outputs


def _together(
    network: Network, parameters: Parameters, selected: Parameters, inputs: Tensor, route: str
) -> tuple[dict[str, Tensor], Tensor]:
    """The same for networks that cannot run on one sample, or not under vmap: sample after sample."""
    outputs, pull = vjp(lambda chosen: network(parameters | chosen, inputs), selected)
    select = _classes(outputs)
    rows = []
    for sample in range(len(inputs)):
        here = torch.zeros_like(select)
        here[:, sample] = select[:, sample]
        rows.append({name: row.flatten(1) for name, row in _batched(pull, route)(here)[0].items()})
    return {name: torch.stack([row[name] for row in rows]) for name in selected}, outputs


def can_run_alone(network: Network, inputs: Tensor, outputs: Tensor) -> bool:
    """Whether samples in batches of their own, under vmap, give the same outputs."""
    if len(inputs) == 1:
        return False
    few = inputs[:2]
    try:
        with torch.no_grad():
            alone = vmap(lambda sample: network(network.parameters, sample[None])[0])(few)
    except Exception:  # whatever vmap or the module refuses, the other route does without
        return False
    eps = torch.finfo(outputs.dtype).eps
    return alone.shape == outputs[:2].shape and bool(
        (alone - outputs[:2]).abs().max() <= 1e3 * eps * outputs.abs().max()
    )
