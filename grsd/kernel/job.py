"""One kernel from admission to blocks: the self-check's numbers first, then the plan, then group after group."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from grsd.jacobian import (
    ALONE,
    CAREFUL,
    FORWARD,
    GRAM,
    SLICES,
    TOGETHER,
    TWICE,
    Differentiated,
    Direction,
    Network,
    Trace,
    Unit,
    can_run_alone,
    factorable,
    foreign_leaves,
    jacobian,
    plan_units,
    pull,
    random_like,
    read,
    trace,
)
from grsd.jacobian.prepare import COUPLED_GRADIENT, admit
from grsd.jacobian.size import evaluated_at_once, rows_are_cheap
from grsd.jacobian.verify import Expected, ExpectedRate, check_part, pullback, same_outputs
from grsd.kernel.meter import peak_and_result, through
from grsd.kernel.pieces import joined
from grsd.kernel.plan import Group, Plan, Problem, crude_bytes, free_memory, make_plan, measured_samples, whole
from grsd.kernel.products import Blocks, Square, Tile
from grsd.support.checks import FEW, check_targets, in_one_line, memory_bytes

SMALL = 2**30  # under it nothing is metered
T = TypeVar("T")


@dataclass(frozen=True)
class Way:
    """``factored``: whether known layers are. ``route``: of all other parameters. ``by``: how J d is found."""

    factored: bool
    route: str
    by: str


LAST, OWN = Way(False, CAREFUL, TWICE), Way(False, TOGETHER, TWICE)
SLOWER = (Way(True, TOGETHER, FORWARD), Way(True, CAREFUL, FORWARD), OWN, LAST)


class Job:
    """``expected``: what backward passes say. ``plan``: how. ``total()`` and ``shares()``: the matrices."""

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
        self.call, self.rate, self.apart, self.refuse = call, rate, apart, refuse
        limit = None if memory_limit is None else memory_bytes(call, memory_limit)

        def small(network: Network, few: Trace, samples: int) -> bool:
            room = min(SMALL, free_memory(network.device) // 2)
            return crude_bytes(network, few, samples, rate, apart) < room

        self.admitted = admitted = admit(call, model, inputs, dtype, device, small if limit is None else None)
        self.network, self.inputs, self.reading = admitted.network, admitted.inputs, admitted.reading
        self.samples, self.classes, self.small = admitted.samples, admitted.classes, admitted.small
        self.outputs = admitted.outputs.detach()
        if rate and refuse:
            check_targets(call, targets, tuple(self.outputs.shape))
        error = self.outputs - targets.detach().to(self.outputs) if targets is not None else self.outputs
        with in_one_line(call, partial(_not_differentiated, call)):
            self.limit = free_memory(self.inputs.device) if limit is None else limit
            self.batch, self.checking = (self.samples, 0) if self.small else self._check_batch()
            probe = random_like(self.outputs)
            self.expected = Expected.of(probe, self._pull(probe))
            self.along = None
            if rate:
                gradient = self._pull(error)
                self.along = {name: g / -self.samples for name, g in gradient.items()}
            self._first_way()
        if not self.small:
            admitted.let_go()
        if refuse and self.plan.peak > self.limit:
            raise MemoryError(
                f"{call}(memory_limit={memory_limit!r}): D = {self.outputs.numel()} needs about "
                f"{_size(self.plan.peak)} at least, {_size(self.limit)} are allowed; raise the "
                "limit, take fewer samples or dtype=torch.float32"
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
            shares = {self.network.prefix + name: own.finish()[0] for name, own in blocks.items()}
            return shares, [sum(shares.values())]

        return self._checked(compute)

    def _pull(self, cotangent: Tensor) -> dict[str, Tensor]:
        """J^T cotangent, from the graph of all samples where there is one."""
        if self.small:
            return pull(self.network, self.reading, self.inputs, cotangent)
        return pullback(self.network, self.inputs, cotangent, self.batch)

    def _checked(self, compute: Callable[[], tuple[T, list[Square]]]) -> T:
        """Compute; if that raises or fails the self-check, once more by a way that needs less of torch."""
        problem = ""
        for way in self._ways():
            if problem:
                self.admitted.check_samples()
            self._take(way)
            if problem and way.route == CAREFUL and self.network.functional:
                self._say_the_cost(problem)
            try:
                result, matrices = compute()
                problem = self._disagreement(matrices)
            except (torch.OutOfMemoryError, MemoryError, OSError):
                raise
            except Exception as error:  # torch's, or that of a backward pass of the model's own
                if isinstance(error, ValueError) and str(error).startswith(self.call):
                    raise
                problem = _said(self.call, error)
                continue
            if problem is None:
                self.admitted.let_go()
                return result
            del result, matrices
        raise RuntimeError(f"{self.call}(model, ...): {problem}")

    def _ways(self) -> list[Way]:
        if not self.network.functional:
            return [OWN, LAST] if self.way == OWN else [LAST]
        return [self.way, *(way for way in SLOWER if way != self.way)]

    def _take(self, way: Way) -> None:
        again = way.factored != self.way.factored
        self.way = way
        if again:
            self._plan_units()

    def _say_the_cost(self, problem: str) -> None:
        if all(unit.uses for unit in self.units):
            return
        warnings.warn(
            f"{self.call}(model, ...): {problem}; what is left is one backward pass per output, "
            f"{self.outputs.numel()} of them",
            stacklevel=5,
        )

    def _disagreement(self, matrices: Sequence[Square]) -> str | None:
        problem = self.expected.disagreement(matrices[0])
        if problem is not None:
            return problem
        self._check_part(matrices[0])
        if self.rate:
            check = ExpectedRate(self.network, self.inputs, self.expected.probe, self.along, self.batch)
            problem = check.disagreement(matrices[1])
        return problem

    def _check_part(self, kernel: Square) -> None:
        here = self.admitted
        if not self.small or here.gradient is None or len(here.chosen) == self.samples:
            return
        if not check_part(kernel, here.chosen, here.probe, here.gradient):
            raise ValueError(f"{self.call}(model, ...): {COUPLED_GRADIENT}")

    def _visit(self, blocks_of: Callable[[Unit], Blocks]) -> None:
        self.deviation = self.outputs.new_zeros(())
        for group in self.plan.groups:
            spans = [slice(i, min(i + group.tile, self.samples)) for i in range(0, self.samples, group.tile)]
            for i, span in enumerate(spans):
                here = self._tiles(group, span)
                for other in spans[i + 1 :]:
                    there = self._tiles(group, other)
                    for number, unit in enumerate(group.units):
                        blocks_of(unit).add(unit, here[number], there.pop(0))
                for unit, own in self._merged(group.units, here, blocks_of):
                    blocks_of(unit).add(unit, own, own)
        same_outputs(self.call, self.deviation, self.outputs)

    def _merged(
        self, units: Sequence[Unit], tiles: list[Tile], blocks_of: Callable[[Unit], Blocks]
    ) -> Iterator[tuple[Unit, Tile]]:
        """Each unit's tile, let go one by one; those of a small problem that can be multiplied together, as one."""
        alike: dict[object, list[tuple[Unit, Tile]]] = {}
        for unit in units:
            own = tiles.pop(0)
            shapes = tuple(part.shape for part in own.parts) if unit.route == GRAM else ()
            if self.small and unit.route != SLICES:
                alike.setdefault((id(blocks_of(unit)), unit.route, shapes), []).append((unit, own))
            else:
                yield unit, own
        for (_, route, _), members in alike.items():
            unit, first = members[0]
            axes = (1, 0) if route == GRAM else (-1,)
            kinds = zip(*(tile.both for _, tile in members), strict=True)
            both = [
                tuple(torch.cat(parts, axis) for parts, axis in zip(zip(*kind, strict=True), axes, strict=True))
                for kind in kinds
            ]
            yield unit, Tile(first.samples, *both)

    def _tiles(self, group: Group, span: slice) -> list[Tile]:
        starts = range(span.start, span.stop, group.batch)
        batches = (slice(start, min(start + group.batch, span.stop)) for start in starts)
        pieces = (self._differentiate(group.units, batch) for batch in batches)
        return [Tile(span, *unit) for unit in joined(pieces, group.units, span.stop - span.start)]

    def _differentiate(self, units: Sequence[Unit], batch: slice) -> Differentiated:
        inputs, graph = self.inputs[batch], None
        if len(inputs) == self.samples and self.along is None and self.reading.leaves is not None:
            graph = self.reading
        parts, outputs = jacobian(
            self.network,
            inputs,
            units,
            route=self.way.route,
            direction=None if self.along is None else Direction(self.along, self.way.by),
            graph=graph,
            at_once=self.samples if self.small else 1,
        )
        difference = (outputs - self.outputs[batch]).abs().max()
        self.deviation = torch.maximum(self.deviation, difference)
        return parts

    def _blocks(self) -> Blocks:
        device = torch.device("cpu") if self.plan.host else self.outputs.device
        return Blocks(
            self.samples, self.classes, self.rate, self.plan.workspace, self.small, self.outputs.dtype, device
        )

    def _plan_units(self) -> None:
        """Units and plan for ``way``."""
        self.units = plan_units(
            self.network,
            self.reading,
            self.expected.gradient,
            self._small_trace() if self.way.factored else None,
            apart=self.apart,
            backprops=self._is_direct() and not self.rate,
        )
        self.plan = whole(self.units, self.samples) if self.small else self._plan()

    def _first_way(self) -> None:
        """Units, way and plan to begin with: known layers factored; all others by the fastest way.

        Rows of everything, each sample alone, where that spares passes and products are cheap.
        """
        self.way, self.deviation = Way(True, TOGETHER, FORWARD), self.outputs.new_zeros(())
        if self.network.functional and self.small and self.samples > 1:
            cheap = self._rows_are_cheap()
            if self.reading.alone or not cheap:
                self.way = Way(not cheap or self.network.keeps or self._ends_elsewhere(), ALONE, FORWARD)
        if self.way.factored or not self.refuse:  # else the comparison with all samples at once tells
            self.admitted.check_samples()
        if not self.network.functional:
            self.way = OWN if self.small else LAST
        self._plan_units()
        if self.way.factored and self.way.route == ALONE and all(unit.uses for unit in self.units):
            self.way = replace(self.way, route=TOGETHER)
        if not self.small and self.network.functional:
            self.way = replace(self.way, route=self._route())
            self.plan = self._plan()

    def _ends_elsewhere(self) -> bool:
        """Whether the graph ends in tensors that are no parameters, which only a second graph can tell apart."""
        return bool(foreign_leaves(self.reading.outputs, self.reading.leaves.values()))

    def _rows_are_cheap(self) -> bool:
        """Whether rows of what could be factored cost less than doing so, by counts alone."""
        known = factorable(self.reading)
        whole = len(known) == len(self.network.parameters)
        if whole and (self.rate or self.network.shares):
            return False
        numbers = sum(self.network.parameters[name].numel() for name in known)
        return rows_are_cheap(self.outputs.numel(), numbers, self.reading.operations, whole)

    def _is_direct(self) -> bool:
        return self.small and evaluated_at_once(self.inputs)

    def _small_trace(self) -> Trace:
        """A trace with its graph that makes the calls of the whole batch, of as few samples as may be."""
        few = self.admitted.few
        if self._is_direct():
            return self.reading
        if few is not None and few.leaves is not None and len(few.outputs) >= 4 and few.same_calls(self.reading):
            return few
        if self.reading.leaves is not None:
            return self.reading
        few = trace(self.network, self.inputs[:FEW])
        return few if few.same_calls(self.reading) else trace(self.network, self.inputs)

    def _route(self) -> str:
        """The fastest way for parameters that no recognised call claims, tried on two samples."""
        generic = [unit for unit in self.units if not unit.uses]
        if not generic:
            return TOGETHER
        for route in (ALONE, TOGETHER):
            if route == TOGETHER or can_run_alone(self.network, self.inputs, self.outputs):
                self.way = replace(self.way, route=route)
                with suppress(RuntimeError, NotImplementedError):
                    self._differentiate(generic, slice(0, 2))
                    return route
        return CAREFUL

    def _check_batch(self) -> tuple[int, int]:
        """How many samples the self-check takes at once, and the bytes that it or the first evaluation holds."""

        def check(count: int) -> object:
            few, probe = self.inputs[:count], random_like(self.outputs[:count])
            if not self.rate:
                return pullback(self.network, few, probe, count)
            return ExpectedRate(self.network, few, probe, self.network.parameters, count).disagreement(
                probe.new_zeros(probe.numel(), probe.numel())
            )

        def evaluation(count: int) -> object:
            return read(self.network, self.inputs[:count])

        check_line, read_line = (
            through(*(peak_and_result(partial(stage, count))[0] for count in (1, min(2, self.samples))))
            for stage in (check, evaluation)
        )
        batch = max(1, check_line.most(self.limit - self._held(), self.samples))
        return batch, int(self._held() + max(check_line(batch), read_line(self.samples)))

    def _held(self) -> int:
        """Parameters, fixed tensors, inputs and outputs; the direction counts as parameters once more."""
        tensors = [*self.network.parameters.values()] * (2 if self.rate else 1)
        tensors += [*self.network.fixed.values(), self.inputs, self.outputs]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def _plan(self) -> Plan:
        few = [read(self.network, self.inputs[:count]) for count in measured_samples(self.samples)]
        if not all(reading.same_calls(self.reading) for reading in few):
            return replace(
                whole(self.units, self.samples),
                peak=crude_bytes(self.network, self.reading, self.samples, self.rate, self.apart),
            )
        problem = Problem(
            samples=self.samples,
            classes=self.classes,
            width=self.outputs.element_size(),
            rate=self.rate,
            matrices=len(self.units) if self.apart else 1 + self.rate,
            device=self.inputs.device,
            before=self._held(),
            units=self.units,
            work=lambda units, count: self._differentiate(units, slice(0, count)),
        )
        plan = make_plan(problem, self.limit)
        return replace(plan, peak=max(plan.peak, self.checking))


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**27 else f"{count / 2**20:.3f} MiB"


def _not_differentiated(call: str, error: Exception) -> str:
    return f"(model, ...): {_said(call, error)}"


def _said(call: str, error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    own = f"{call}(model, ...): "
    return text.removeprefix(own) if text.startswith(own) else f"torch cannot differentiate it here: {text}"
