"""One kernel from admission to blocks: the self-check's numbers first, then the plan, then group after group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import jvp

from grsd.checks import check_targets, memory_bytes
from grsd.kernel.admit import admit
from grsd.kernel.meter import peak_and_result, through
from grsd.kernel.plan import Group, Plan, Problem, crude_bytes, free_memory, make_plan, measured_samples, whole
from grsd.kernel.products import Blocks, Square, Tile
from grsd.kernel.verify import Expected, disagreement, expect, pullback, same_outputs
from grsd.tangents import (
    ALONE,
    CAREFUL,
    GRAM,
    TOGETHER,
    Network,
    Parts,
    Reading,
    Unit,
    can_run_alone,
    jacobian,
    plan_units,
    random_like,
    read,
    read_and_pull,
)

SMALL = 2**30  # under it nothing is metered
T = TypeVar("T")

Differentiated = list[tuple[Parts, Parts | None]]


class Job:
    """``expected``: what one backward pass says. ``plan``: how. ``total()`` and ``shares()``: the matrices."""

    def __init__(
        self,
        call: str,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor | None,
        dtype: torch.dtype,
        device: str | torch.device | None,
        memory_limit: str | int | None,
        *,
        rate: bool = False,
        apart: bool = False,
        refuse: bool = True,
    ) -> None:
        limit = None if memory_limit is None else memory_bytes(call, memory_limit)
        self.call, self.rate = call, rate
        small, pull = False, None

        def look(network: Network, inputs: Tensor, few: Reading) -> Reading:
            nonlocal small, pull
            room = min(SMALL, free_memory(inputs.device) // 2)
            small = limit is None and crude_bytes(network, few, len(inputs), rate, apart) < room
            if rate or not small:
                return read(network, inputs)
            with _in_one_line(call):
                reading, pull = read_and_pull(network, inputs)
            return reading

        admitted = admit(call, model, inputs, dtype, device, look)
        self.network, self.inputs, self.reading = admitted.network, admitted.inputs, admitted.reading
        self.samples, self.classes = admitted.samples, admitted.classes
        outputs = admitted.outputs
        if rate and refuse:
            check_targets(call, targets, tuple(outputs.shape))
        error = outputs - targets.to(outputs) if targets is not None else outputs
        with _in_one_line(call):
            limit = free_memory(self.inputs.device) if limit is None else limit
            batch, checking = (self.samples, 0) if small else self._check_batch(limit)
            self.direction = None
            if rate:
                gradient = pullback(self.network, self.inputs, error, batch)
                self.direction = {name: g.div_(-self.samples) for name, g in gradient.items()}
            probe = random_like(outputs)
            if pull is not None:
                self.expected = Expected.of(probe, pull(probe))
                pull = None  # and the graph with it
            else:
                self.expected = expect(self.network, self.inputs, probe, self.direction, batch)
            self.units = plan_units(
                self.network, self.inputs, self.reading, self.expected.gradient, apart=apart, few=admitted.few
            )
            self.expected.gradient.clear()
            self.deviation = outputs.new_zeros(())
            self.route = self._route()
            self.plan = whole(self.units, self.samples) if small else self._plan(limit, apart, checking)
        if refuse and self.plan.peak > limit:
            raise MemoryError(
                f"{call}(memory_limit={memory_limit!r}): D = {outputs.numel()} needs about "
                f"{self.plan.peak / 2**30:.2f} GiB at least, {limit / 2**30:.2f} GiB are allowed; raise the limit, "
                "take fewer samples or dtype=torch.float32"
            )

    def total(self) -> list[Square]:
        """[M], or [M, M'], checked."""

        def compute() -> tuple[list[Square], list[Square]]:
            blocks = self._blocks()
            self._visit(lambda unit: blocks)
            matrices = blocks.finish()
            return matrices, matrices

        return self._checked(compute)

    def shares(self) -> dict[str, Square]:
        """M of every unit by itself; their sum is checked."""

        def compute() -> tuple[dict[str, Square], list[Square]]:
            blocks = {unit.names[0]: self._blocks() for unit in self.units}
            self._visit(lambda unit: blocks[unit.names[0]])
            shares = {name: own.finish()[0] for name, own in blocks.items()}
            return shares, [sum(shares.values())]

        return self._checked(compute)

    def _checked(self, compute: Callable[[], tuple[T, list[Square]]]) -> T:
        """What is computed, once more without ``torch.vmap`` where that fails: it has bugs for some functions."""
        for route in (self.route, CAREFUL):
            self.route = route
            try:
                result, matrices = compute()
            except (RuntimeError, NotImplementedError) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                problem = _said(error)
                continue
            problem = disagreement(matrices, self.expected)
            if problem is None:
                return result
            del result, matrices
        raise RuntimeError(f"{self.call}(model, ...): {problem}")

    def _visit(self, blocks_of: Callable[[Unit], Blocks]) -> None:
        for group in self.plan.groups:
            spans = [slice(i, min(i + group.tile, self.samples)) for i in range(0, self.samples, group.tile)]
            for i, span in enumerate(spans):
                here = self._tiles(group, span)
                for other in spans[i + 1 :]:
                    there = self._tiles(group, other)
                    for number, unit in enumerate(group.units):
                        blocks_of(unit).add(unit, here[number], there.pop(0))
                for unit in group.units:
                    own = here.pop(0)
                    blocks_of(unit).add(unit, own, own)
                del own
        same_outputs(self.call, self.deviation, self.reading.outputs)

    def _tiles(self, group: Group, span: slice) -> list[Tile]:
        starts = range(span.start, span.stop, group.batch)
        batches = (slice(start, min(start + group.batch, span.stop)) for start in starts)
        pieces = (self._differentiate(group.units, batch) for batch in batches)
        return [Tile(span, *unit) for unit in _joined(pieces, group.units, span.stop - span.start)]

    def _differentiate(self, units: Sequence[Unit], batch: slice) -> Differentiated:
        inputs = self.inputs[batch]
        reading = self.reading if len(inputs) == self.samples else None
        function = jacobian(self.network, inputs, units, route=self.route, reading=reading)
        if self.direction is None:
            parts, outputs = function(self.network.parameters)
            rates = [None] * len(parts)
        else:
            (parts, outputs), (rates, _) = jvp(function, (self.network.parameters,), (self.direction,))
        difference = (outputs - self.reading.outputs[batch]).abs().max()
        self.deviation = torch.maximum(self.deviation, difference)
        return list(zip(parts, rates, strict=True))

    def _blocks(self) -> Blocks:
        like = self.reading.outputs
        device = torch.device("cpu") if self.plan.host else like.device
        return Blocks(self.samples, self.classes, self.rate, self.plan.workspace, like.dtype, device)

    def _route(self) -> str:
        """The fastest way for parameters that no recognised call claims, tried on two samples."""
        if all(unit.uses for unit in self.units):
            return TOGETHER
        generic = [unit for unit in self.units if not unit.uses]
        for self.route in (ALONE, TOGETHER):
            if self.route == TOGETHER or can_run_alone(self.network, self.inputs, self.reading.outputs):
                with suppress(RuntimeError, NotImplementedError):
                    self._differentiate(generic, slice(0, 2))
                    self.deviation.zero_()
                    return self.route
        return CAREFUL

    def _check_batch(self, limit: int) -> tuple[int, int]:
        """How many samples the self-check takes at once, and the bytes that it or the first evaluation holds."""

        def check(count: int) -> object:
            few, probe = self.inputs[:count], random_like(self.reading.outputs[:count])
            return expect(self.network, few, probe, self.network.parameters if self.rate else None, count)

        def evaluation(count: int) -> object:
            return read(self.network, self.inputs[:count])

        check_line, read_line = (
            through(*(peak_and_result(partial(stage, count))[0] for count in (1, min(2, self.samples))))
            for stage in (check, evaluation)
        )
        batch = max(1, check_line.most(limit - self._held(), self.samples))
        return batch, int(self._held() + max(check_line(batch), read_line(self.samples)))

    def _held(self) -> int:
        """Parameters, fixed tensors, inputs and outputs; the direction counts as parameters once more."""
        tensors = [*self.network.parameters.values()] * (2 if self.rate else 1)
        tensors += [*self.network.fixed.values(), self.inputs, self.reading.outputs]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def _plan(self, limit: int, apart: bool, checking: int) -> Plan:
        few = [read(self.network, self.inputs[:count]) for count in measured_samples(self.samples)]
        if not all(reading.same_calls(self.reading) for reading in few):
            return replace(
                whole(self.units, self.samples),
                peak=crude_bytes(self.network, self.reading, self.samples, self.rate, apart),
            )
        problem = Problem(
            samples=self.samples,
            classes=self.classes,
            width=self.reading.outputs.element_size(),
            rate=self.rate,
            matrices=len(self.units) if apart else 1 + self.rate,
            device=self.inputs.device,
            before=self._held(),
            units=self.units,
            work=lambda units, count: self._differentiate(units, slice(0, count)),
        )
        plan = make_plan(problem, limit)
        return replace(plan, peak=max(plan.peak, checking))


def _said(error: Exception) -> str:
    return f"torch cannot differentiate it here: {str(error).splitlines()[0]}"


@contextmanager
def _in_one_line(call: str) -> Iterator[None]:
    """What torch cannot do with a model that runs, said in one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        raise RuntimeError(f"{call}(model, ...): {_said(error)}") from error


def _joined(pieces: Iterator[Differentiated], units: Sequence[Unit], samples: int) -> Differentiated:
    """Batches one after another, each copied into its place and let go."""
    piece = next(pieces)
    axes = [[_sample_axis(unit, part) for part in _tensors(own)] for unit, own in zip(units, piece, strict=True)]
    if _tensors(piece[0])[0].shape[axes[0][0]] == samples:
        return piece
    places = [
        [part.new_empty([samples if i == axis else size for i, size in enumerate(part.shape)]) for part, axis in pairs]
        for pairs in (zip(_tensors(unit), own, strict=True) for unit, own in zip(piece, axes, strict=True))
    ]
    sizes = [len(parts) for parts, _ in piece]
    start = 0
    while piece:
        start = _copied(piece, places, axes, start)
        piece = None
        piece = next(pieces, None)
    return [
        (tuple(whole_unit[:size]), tuple(whole_unit[size:]) or None)
        for whole_unit, size in zip(places, sizes, strict=True)
    ]


def _copied(piece: Differentiated, places: list[list[Tensor]], axes: list[list[int]], start: int) -> int:
    """Copy a batch to its place; where the next one starts."""
    for unit, whole_unit, own in zip(piece, places, axes, strict=True):
        for part, place, axis in zip(_tensors(unit), whole_unit, own, strict=True):
            place.narrow(axis, start, part.shape[axis]).copy_(part)
    return start + part.shape[axis]


def _tensors(unit: tuple[Parts, Parts | None]) -> Parts:
    parts, rates = unit
    return parts + (rates or ())


def _sample_axis(unit: Unit, part: Tensor) -> int:
    """Backprops (G, T, N, C, q) whose Grams are made have the samples in between, all other parts in front."""
    return 2 if unit.route == GRAM and part.ndim == 5 else 0
