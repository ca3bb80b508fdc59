"""Groups of parameters and the route by which each is differentiated, from one forward and one small backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from grsd.jacobian.layers import ELEMENTWISE, OUTER
from grsd.jacobian.network import Network, Parameters
from grsd.jacobian.size import rows_avoid_calls, rows_work, weighted_work
from grsd.jacobian.trace import ForwardTrace, gradients, one_per_class


class Route(StrEnum):
    """How a group's share of M is computed.

    By two Gram matrices (one position a sample), by backprops weighted with products of features (several), by slices
    of its rows, or by all rows at once.
    """

    GRAM = "gram"
    WEIGHTED = "weighted"
    SLICES = "slices"
    ROWS = "rows"


@dataclass(frozen=True)
class Layout:
    """The samples of a call's output lie along dimension ``axis``: its slow index if ``major``, else its fast one."""

    axis: int
    major: bool

    def split_samples(self, tensor: Tensor, samples: int, lead: int, first: int = 0) -> Tensor:
        """Reshape (first..., lead..., rest...) to (first..., samples, positions, rest...)."""
        before, rest = tensor.shape[:first], tensor.shape[first + lead :]
        axis = first + self.axis
        inside = tensor.shape[axis] // samples
        split = tensor.unflatten(axis, (samples, inside) if self.major else (inside, samples))
        return split.movedim(axis + (not self.major), first).reshape(*before, samples, -1, *rest)


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters whose Jacobian is formed together.

    ``uses``: the calls that use them, by index, with their layouts; empty for parameters that no recognised call
    claims. ``vocabulary``: the tokens that occur, for an embedding.
    """

    names: tuple[str, ...]
    weight: bool = False
    bias: bool = False
    uses: tuple[tuple[int, Layout], ...] = ()
    route: Route = Route.ROWS
    vocabulary: Tensor | None = None


def plan_groups(
    network: Network,
    trace: ForwardTrace,
    probe: Parameters,
    small: ForwardTrace | None,
    *,
    per_parameter: bool,
    backprops: bool = False,
) -> list[ParameterGroup]:
    """Every trainable parameter in exactly one group; parameters that nothing uses are omitted.

    ``trace``: of all samples. ``probe``: J^T v for a random v; a parameter that no call uses is unused if it has no
    gradient there. ``small``: a trace with its graph of some samples that makes the same calls; None: no call is
    recognised. ``per_parameter``: one group per parameter. ``backprops``: keep those of all classes in ``small``.
    """
    layouts = [None] * len(trace.calls) if small is None else _layouts(small, backprops)
    samples = len(trace.outputs)
    uses = _uses(trace)
    claimed = {name for name in factorable(trace) if all(layouts[index] is not None for index in uses[name])}
    groups, done = [], set()
    for weight, bias in trace.names:
        together = not per_parameter and {weight, bias} <= claimed and uses[weight] == uses[bias]
        for names in [(weight, bias)] if together else [(weight,), (bias,)]:
            if names[0] not in claimed or names[0] in done:
                continue
            done |= set(names)
            where = tuple((use, layouts[use]) for use in uses[names[0]])
            route, vocabulary = _route(network, trace, names, where, samples, together or names[0] == bias)
            groups.append(ParameterGroup(names, names[0] == weight, names[-1] == bias, where, route, vocabulary))
    seen = trace.elsewhere | set(uses)
    unclaimed = [name for name in network.parameters if name not in claimed]
    groups += [ParameterGroup((name,)) for name in unclaimed if name in seen or bool(probe[name].any())]
    return groups


def _uses(trace: ForwardTrace) -> dict[str, list[int]]:
    uses: dict[str, list[int]] = {}
    for index, pair in enumerate(trace.names):
        for name in pair:
            if name is not None:
                uses.setdefault(name, []).append(index)
    return uses


def factorable(trace: ForwardTrace) -> set[str]:
    """Parameters that only recognised calls of all samples use, each call once and always as the same argument."""
    roles: dict[str, set[tuple]] = {}
    partly: set[str | None] = set()
    for call, shape, pair in zip(trace.calls, trace.shapes, trace.names, strict=True):
        if not _candidates(call.lead, shape, len(trace.outputs)):
            partly |= set(pair)
        for role, name in zip(("weight", "bias"), pair, strict=True):
            if name is not None:
                roles.setdefault(name, set()).add((role, *call.form))
    return {
        name
        for name, used in _uses(trace).items()
        if name not in trace.elsewhere | partly and len(roles[name]) == 1 and len(set(used)) == len(used)
    }


def _route(
    network: Network,
    trace: ForwardTrace,
    names: tuple[str, ...],
    uses: tuple[tuple[int, Layout], ...],
    samples: int,
    ones: bool,
) -> tuple[Route, Tensor | None]:
    """(the exact route with the fewest operations and numbers held, the vocabulary of an embedding)."""
    call = trace.calls[uses[0][0]]
    if call.kind != OUTER:
        return Route.ROWS, None
    vocabulary = None
    if call.tokens is not None:
        vocabulary = torch.unique(torch.cat([trace.calls[index].tokens.reshape(-1) for index, _ in uses]))
        vocabulary = vocabulary[vocabulary >= 0]
    channel_groups = call.form[1] if len(call.form) > 1 else 1
    parameter = network.parameters[names[0]]
    if call.tokens is not None:
        p, q = len(vocabulary), parameter.shape[1]
    elif parameter.ndim == 1:
        p, q = 1, parameter.shape[0] // channel_groups
    else:
        p, q = parameter[0].numel() + (1 if ones else 0), parameter.shape[0] // channel_groups
    outputs = sum(trace.shapes[index].numel() for index, _ in uses)
    positions = max(1, outputs // (samples * channel_groups * q))
    classes = trace.outputs.numel() // samples
    if positions > 1 and rows_avoid_calls((samples * classes) ** 2 * p * q * channel_groups):
        return Route.ROWS, vocabulary
    if positions == 1:
        return Route.GRAM, vocabulary
    sizes = samples, classes, positions, p, q
    if weighted_work(*sizes) < rows_work(*sizes):
        return Route.WEIGHTED, vocabulary
    return (Route.ROWS if p * q <= positions * (q + p / classes) else Route.SLICES), vocabulary


def _layouts(small: ForwardTrace, backprops: bool) -> list[Layout | None]:
    """Find the dimension of each call's samples. If shapes leave a choice, backprops decide: they vanish elsewhere.

    ``backprops``: the same pass computes those of all classes, which ``small`` keeps.
    """
    samples, shapes = len(small.outputs), small.shapes
    candidates = [_candidates(call.lead, shape, samples) for call, shape in zip(small.calls, shapes, strict=True)]
    unsure = any(len(layouts) > 1 for layouts in candidates)
    unsure |= any(call.form == ELEMENTWISE for call in small.calls)  # some of these may contain no samples
    masks, deltas = _deltas(small, unsure, backprops)
    if backprops:
        small.backprops = {index: delta[len(masks) :] for index, delta in deltas.items()}
    if unsure:
        silent = [
            ~layout.split_samples(deltas[index][: len(masks)], samples, len(shapes[index]), 1)
            .flatten(2)
            .any(2)
            .logical_and(~masks)
            .any()
            for index, layouts in enumerate(candidates)
            for layout in layouts
        ]
        passed = iter(torch.stack(silent).tolist())
        candidates = [[layout for layout in layouts if next(passed)] for layouts in candidates]
    return [layouts[0] if layouts else None for layouts in candidates]


def _candidates(lead: int, shape: torch.Size, samples: int) -> list[Layout]:
    return [
        Layout(axis, major)
        for axis in range(lead)
        if shape[axis] % samples == 0
        for major in (True, False)[: 1 + (shape[axis] > samples)]
    ]


def _deltas(small: ForwardTrace, masked: bool, backprops: bool) -> tuple[Tensor, dict[int, Tensor]]:
    """(masks (K, N) of samples, backprops by call: K of random cotangents on the masked samples, then all classes)."""
    outputs, samples = small.outputs, len(small.outputs)
    chosen = torch.arange(samples, device=outputs.device) % 4 % 3 == 0
    masks = torch.stack([chosen, ~chosen]) if masked else chosen.new_zeros(0, samples)
    if not small.calls or not (masked or backprops):
        return masks, {}
    cotangents = random_like(outputs) * masks.view(-1, samples, *[1] * (outputs.ndim - 1))
    if backprops:
        cotangents = torch.cat([cotangents, one_per_class(outputs)])
    edges = {index: edge for index, (edge, _) in enumerate(small.edges) if edge is not None}
    found = dict(zip(edges, _pulled(outputs, list(edges.values()), cotangents) if edges else (), strict=True))

    def filled(index: int) -> Tensor:
        delta = found.get(index)
        return outputs.new_zeros(len(cotangents), *small.shapes[index]) if delta is None else delta

    return masks, {index: filled(index) for index in range(len(small.calls))}


def _pulled(outputs: Tensor, edges: list, cotangents: Tensor) -> list[Tensor | None]:
    try:
        return gradients(outputs, edges, cotangents)
    except (RuntimeError, NotImplementedError):  # torch.vmap has no rule for every backward pass
        return gradients(outputs, edges, cotangents, batched=False)


def random_like(tensor: Tensor) -> Tensor:
    """Standard normal numbers, the same on every device for a given number of elements."""
    generator = torch.Generator("cpu").manual_seed(tensor.numel())
    return torch.randn(tensor.shape, generator=generator, dtype=torch.float64, device="cpu").to(tensor)
