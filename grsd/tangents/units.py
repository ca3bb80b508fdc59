"""Which parameters are differentiated how: read off one forward pass and one small backward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import vjp, vmap

from grsd.tangents.layers import OUTER, Call
from grsd.tangents.network import Network, Parameters
from grsd.tangents.tap import Tap

GRAM, SLICES, ROWS = "gram", "slices", "rows"


@dataclass(frozen=True)
class Layout:
    """Where the samples are in a call's output: dimension ``axis``, as its slow (``major``) or its fast index."""

    axis: int
    major: bool

    def apart(self, tensor: Tensor, samples: int, lead: int) -> Tensor:
        """(lead..., rest...) to (samples, positions, rest...)."""
        rest = tensor.shape[lead:]
        inside = tensor.shape[self.axis] // samples
        split = tensor.unflatten(self.axis, (samples, inside) if self.major else (inside, samples))
        return split.movedim(self.axis + (not self.major), 0).reshape(samples, -1, *rest)


@dataclass(frozen=True)
class Unit:
    """Parameters whose Jacobian is formed together, and how.

    ``uses``: the calls that use them, by index, with their layout; none for the generic route. ``route``: contract two
    Grams, form rows slice by slice, or hold the rows. ``vocabulary``: the tokens that occur, of an embedding.
    """

    names: tuple[str, ...]
    weight: bool = False
    bias: bool = False
    uses: tuple[tuple[int, Layout], ...] = ()
    route: str = ROWS
    vocabulary: Tensor | None = None


@dataclass(frozen=True)
class Reading:
    """One forward pass: the output, its calls by (weight, bias) name and form, and the parameters used elsewhere."""

    outputs: Tensor
    calls: tuple[Call, ...]
    shapes: tuple[torch.Size, ...]
    names: tuple[tuple[str | None, str | None], ...]
    elsewhere: frozenset[str]

    def same_calls(self, other: Reading) -> bool:
        forms = [tuple(call.form for call in reading.calls) for reading in (self, other)]
        return forms[0] == forms[1] and self.names == other.names


def read(network: Network, inputs: Tensor) -> Reading:
    """Run the network once, without a graph, and note the calls that use trainable parameters."""
    with torch.no_grad():
        return _noted(network, network.parameters, inputs)


def read_and_pull(network: Network, inputs: Tensor) -> tuple[Reading, Callable[[Tensor], Parameters]]:
    """The same with a graph: also the function that gives J^T u."""

    def noted(parameters: Parameters) -> Tensor:
        readings.append(_noted(network, parameters, inputs))
        return readings[0].outputs

    readings: list[Reading] = []
    outputs, pull = vjp(noted, network.parameters)
    return replace(readings[0], outputs=outputs.detach()), lambda u: pull(u)[0]


def _noted(network: Network, parameters: Parameters, inputs: Tensor) -> Reading:
    with Tap(parameters, keep=False) as tap:
        outputs = network(parameters, inputs)
    names = tuple((tap.name(call.weight), tap.name(call.bias)) for call in tap.calls)
    calls = tuple(replace(call, weight=None, bias=None) for call in tap.calls)
    return Reading(outputs, calls, tuple(tap.shapes), names, frozenset(tap.elsewhere))


def plan_units(
    network: Network,
    inputs: Tensor,
    reading: Reading,
    probe: Parameters,
    *,
    apart: bool,
    few: Reading | None = None,
) -> list[Unit]:
    """Every trainable parameter in exactly one unit, those that nothing uses left out.

    ``probe``: J^T v for a random v; a parameter seen nowhere and with no gradient there is unused. ``apart``: a unit
    for every single parameter. ``few``: a reading of the first few samples, where there is one.
    """
    layouts = _layouts(network, inputs, reading, few or reading)
    uses: dict[str, list[int]] = {}
    roles: dict[str, set[tuple]] = {}
    for index, (call, pair) in enumerate(zip(reading.calls, reading.names, strict=True)):
        for role, name in zip(("weight", "bias"), pair, strict=True):
            if name is not None:
                uses.setdefault(name, []).append(index)
                roles.setdefault(name, set()).add((role, *call.form))
    claimed = {
        name
        for name in uses
        if name not in reading.elsewhere
        and len(roles[name]) == 1
        and len(set(uses[name])) == len(uses[name])
        and all(layouts[index] is not None for index in uses[name])
    }
    units, done = [], set()
    for weight, bias in reading.names:
        together = not apart and {weight, bias} <= claimed and uses[weight] == uses[bias]
        for names in [(weight, bias)] if together else [(weight,), (bias,)]:
            if names[0] not in claimed or names[0] in done:
                continue
            done |= set(names)
            where = tuple((use, layouts[use]) for use in uses[names[0]])
            route, vocabulary = _route(network, reading, names, where, inputs.shape[0], together or names[0] == bias)
            units.append(Unit(names, names[0] == weight, names[-1] == bias, where, route, vocabulary))
    seen = reading.elsewhere | set(uses)
    unclaimed = [name for name in network.parameters if name not in claimed]
    units += [Unit((name,)) for name in unclaimed if name in seen or bool(probe[name].any())]
    return units


def _route(
    network: Network,
    reading: Reading,
    names: tuple[str, ...],
    uses: tuple[tuple[int, Layout], ...],
    samples: int,
    ones: bool,
) -> tuple[str, Tensor | None]:
    """The cheapest exact route by floating point operations, and by what must be held."""
    call = reading.calls[uses[0][0]]
    if call.kind != OUTER:
        return ROWS, None
    vocabulary = None
    if call.tokens is not None:
        vocabulary = torch.unique(torch.cat([reading.calls[index].tokens.reshape(-1) for index, _ in uses]))
        vocabulary = vocabulary[vocabulary >= 0]
    groups = call.form[1] if len(call.form) > 1 else 1
    parameter = network.parameters[names[0]]
    if call.tokens is not None:
        p, q = len(vocabulary), parameter.shape[1]
    elif parameter.ndim == 1:
        p, q = 1, parameter.shape[0] // groups
    else:
        p, q = parameter[0].numel() + (1 if ones else 0), parameter.shape[0] // groups
    outputs = sum(reading.shapes[index].numel() for index, _ in uses)
    positions = max(1, outputs // (samples * groups * q))
    classes = reading.outputs.numel() // samples
    if positions**2 * (q + p / classes**2 + 1) < p * q or positions == 1:
        return GRAM, vocabulary
    return (ROWS if p * q <= positions * (q + p / classes) else SLICES), vocabulary


def _layouts(network: Network, inputs: Tensor, reading: Reading, small: Reading) -> list[Layout | None]:
    """Find each call's samples: seen from some of the outputs, backprops vanish on all other samples.

    A few samples are enough, unless the network makes other calls on few.
    """
    if not small.same_calls(reading):
        small = reading
    samples = len(small.outputs)
    few = inputs[:samples]
    chosen = torch.arange(samples, device=inputs.device) % 4 % 3 == 0
    masks = torch.stack([chosen, ~chosen])
    zeros = {i: small.outputs.new_zeros(shape) for i, shape in enumerate(small.shapes)}

    def perturbed(perturbations: dict[int, Tensor]) -> Tensor:
        with Tap(network.parameters, perturbations):
            return network(network.parameters, few)

    if not zeros:
        return []
    outputs, pull = vjp(perturbed, zeros)
    cotangents = random_like(outputs) * masks.view(2, samples, *[1] * (outputs.ndim - 1))
    (deltas,) = vmap(pull)(cotangents)
    candidates, silent = [], []
    for index, call in enumerate(small.calls):
        for axis in range(call.lead):
            if small.shapes[index][axis] % samples == 0:
                for major in (True, False)[: 1 + (small.shapes[index][axis] > samples)]:
                    layout = Layout(axis, major)
                    by_sample = torch.stack([layout.apart(delta, samples, delta.ndim) for delta in deltas[index]])
                    candidates.append((index, layout))
                    silent.append(~by_sample.flatten(2).any(2).logical_and(~masks).any())
    passed = torch.stack(silent).tolist() if silent else []
    found: list[Layout | None] = [None] * len(small.calls)
    for (index, layout), good in zip(candidates, passed, strict=True):
        if good and found[index] is None:
            found[index] = layout
    return found


def random_like(tensor: Tensor) -> Tensor:
    """Standard normal numbers, the same for the same shape on every device."""
    generator = torch.Generator("cpu").manual_seed(tensor.numel())
    return torch.randn(tensor.shape, generator=generator, dtype=torch.float64, device="cpu").to(tensor)
