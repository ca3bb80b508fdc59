"""One kernel from the user's model to the finished matrices: prepare the self-check, plan, differentiate, multiply."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from grsd.jacobian import (
    Differentiated,
    Direction,
    ForwardTrace,
    Network,
    ParameterGroup,
    RowMethod,
    can_vmap_samples,
    jacobian,
    plan_groups,
    pull,
    random_like,
    trace_forward,
)
from grsd.jacobian.directions import along_parameters
from grsd.jacobian.prepare import COUPLED_GRADIENT, prepare
from grsd.jacobian.verify import STEPS, Expected, ExpectedRate, check_part, pullback, same_outputs
from grsd.kernel.fallback import CannotDifferentiate, asking_torch, said
from grsd.kernel.meter import peak_and_result, through
from grsd.kernel.pieces import joined, merged
from grsd.kernel.plan import (
    Pass,
    Plan,
    Problem,
    crude_bytes,
    free_memory,
    make_plan,
    measured_samples,
    single_pass_plan,
)
from grsd.kernel.products import Accumulates, KernelAccumulator, Square, Tile
from grsd.kernel.strategies import (
    LAST_RESORT,
    OWN_PARAMETERS,
    SLOWER,
    Strategy,
    first_strategy,
    layout_trace,
    traced_at_once,
)
from grsd.losses import Loss, checked_force, fitting_targets
from grsd.support.checks import in_one_line, memory_bytes

SMALL, SMALL_ON_A_DEVICE = 2**31, 2**33  # bytes; the memory of smaller problems is not measured
T = TypeVar("T")


class KernelComputation:
    """The computation of one kernel; ``total()`` and ``shares()`` return the matrices.

    ``expected``: the numbers of the self-check, by backward passes. ``plan``: what is held and computed at once.
    ``loss``: whose gradient flow gives the rate its direction, if none is given.
    """

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
        loss: Loss = "mse",
        direction: Mapping[str, Tensor] | None = None,
        per_parameter: bool = False,
        refuse: bool = True,
        parameters: Sequence[str] | None = None,
        positions: bool = False,
    ) -> None:
        self.call, self.rate, self.per_parameter, self.refuse = call, rate, per_parameter, refuse
        limit = None if memory_limit is None else memory_bytes(call, memory_limit)

        def small(network: Network, few: ForwardTrace, samples: int) -> bool:
            return crude_bytes(network, few, samples, rate, per_parameter) < small_bytes(network.device)

        self.prepared = prepared = prepare(
            call,
            model,
            inputs,
            dtype,
            device,
            small if limit is None else None,
            parameters=parameters,
            positions=positions,
        )
        self.network, self.inputs, self.trace = prepared.network, prepared.inputs, prepared.trace
        self.samples, self.classes, self.small = prepared.samples, prepared.classes, prepared.small
        self.outputs = prepared.outputs.detach()
        error = self.outputs
        if rate and direction is None and targets is not None:
            _, error = checked_force(call, loss, error, fitting_targets(call, loss, error, targets))
        given = None if direction is None else along_parameters(call, self.network, direction)
        with in_one_line(call, partial(_not_differentiated, call)):
            self.limit = free_memory(self.inputs.device) if limit is None else limit
            self.batch, self.checking = (self.samples, 0) if self.small else self._self_check_batch()
            probe = random_like(self.outputs)
            self.expected = Expected.of(probe, self._pull(probe))
            self.along = given
            if rate and given is None:
                gradient = self._pull(error)
                self.along = {name: g / -self.samples for name, g in gradient.items()}
            self._first_strategy()
        if not self.small:
            prepared.release()
        self.allowed = f"{call}(memory_limit={memory_limit!r})"
        self._refuse_above_limit()

    def total(self) -> list[Tensor]:
        """[M], or [M, M'], checked."""

        def compute() -> tuple[list[Tensor], list[Tensor]]:
            accumulator = self._accumulator()
            self._accumulate(lambda group: accumulator)
            matrices = accumulator.finish()
            return matrices, matrices

        return self._checked(compute)

    def shares(self) -> dict[str, Square]:
        """The share of each parameter group in M, by the name of its parameter; the sum of the shares is checked."""

        def compute() -> tuple[dict[str, Square], list[Tensor]]:
            accumulators = {group.names[0]: self._accumulator() for group in self.groups}
            self._accumulate(lambda group: accumulators[group.names[0]])
            shares = {self.network.prefix + name: own.finish()[0] for name, own in accumulators.items()}
            return shares, [sum(shares.values())]

        return self._checked(compute)

    def _refuse_above_limit(self) -> None:
        if self.refuse and self.plan.peak > self.limit:
            raise MemoryError(
                f"{self.allowed}: D = {self.outputs.numel()} needs about {_size(self.plan.peak)} at least, "
                f"{_size(self.limit)} are allowed; raise the limit, take fewer samples or dtype=torch.float32"
            )

    def _pull(self, cotangent: Tensor) -> dict[str, Tensor]:
        """J^T cotangent; uses the graph of all samples if there is one."""
        if self.small:
            return pull(self.network, self.trace, self.inputs, cotangent)
        return pullback(self.network, self.inputs, cotangent, self.batch)

    def _checked(self, compute: Callable[[], tuple[T, list[Tensor]]]) -> T:
        """Compute; if torch or the model cannot, or if the self-check fails, retry with strategies that need less."""
        problem = ""
        for strategy in self._strategies():
            if problem:
                self.prepared.check_samples()
            try:
                self._switch_to(strategy)
                self._refuse_above_limit()
                if problem and strategy.row_method == RowMethod.ONE_OUTPUT and self.network.functional:
                    self._warn_of_cost(problem)
                result, matrices = compute()
                with asking_torch(self.call):
                    problem = self._disagreement(matrices)
            except CannotDifferentiate as error:
                problem = str(error)
                continue
            if problem is None:
                self.prepared.release()
                return result
            del result, matrices
        raise RuntimeError(f"{self.call}(model, ...): {problem}")

    def _strategies(self) -> list[Strategy]:
        if not self.network.functional:
            return [OWN_PARAMETERS, LAST_RESORT] if self.strategy == OWN_PARAMETERS else [LAST_RESORT]
        return [self.strategy, *(strategy for strategy in SLOWER if strategy != self.strategy)]

    def _switch_to(self, strategy: Strategy) -> None:
        """Take another strategy, with the plan of what it holds: rows of whole parameters may need far more."""
        if strategy == self.strategy:
            return
        regroup = strategy.factored != self.strategy.factored
        self.strategy = strategy
        if regroup:
            self._choose_groups()
            self.small = self.small and (strategy.factored or self._rows_are_small())
        if regroup or not self.small:
            self.plan = self._plan()

    def _rows_are_small(self) -> bool:
        parameters = sum(p.numel() for p in self.network.parameters.values())
        held = 4 * (1 + self.rate) * parameters * self.outputs.numel() * self.outputs.element_size()
        return held < small_bytes(self.outputs.device)

    def _warn_of_cost(self, problem: str) -> None:
        if all(group.uses for group in self.groups):
            return
        warnings.warn(
            f"{self.call}(model, ...): {problem}; what is left is one backward pass per output, "
            f"{self.outputs.numel()} of them",
            stacklevel=5,
        )

    def _disagreement(self, matrices: Sequence[Tensor]) -> str | None:
        problem = self.expected.disagreement(matrices[0])
        if problem is not None:
            return problem
        self._check_part(matrices[0])
        if self.rate:
            check = ExpectedRate(self.network, self.inputs, self.expected.probe, self.along, self.batch)
            problem = check.disagreement(matrices[1])
        return problem

    def _check_part(self, kernel: Square) -> None:
        here = self.prepared
        if not here.small or here.gradient is None or len(here.chosen) == self.samples:
            return
        if not check_part(kernel, here.chosen, here.probe, here.gradient):
            raise ValueError(f"{self.call}(model, ...): {COUPLED_GRADIENT}")

    def _accumulate(self, accumulator_of: Callable[[ParameterGroup], Accumulates]) -> None:
        self.deviation = self.outputs.new_zeros(())
        for one_pass in self.plan.passes:
            spans = [slice(i, min(i + one_pass.tile, self.samples)) for i in range(0, self.samples, one_pass.tile)]
            for span, others in self._pairs(spans):
                here = self._tiles(one_pass, span)
                for other in others:
                    there = self._tiles(one_pass, other)
                    for number, group in enumerate(one_pass.groups):
                        accumulator_of(group).add(group, here[number], there.pop(0))
                for group, own in merged(one_pass.groups, here, accumulator_of, self.small):
                    accumulator_of(group).add(group, own, own)
        with asking_torch(self.call):
            same_outputs(self.call, self.deviation, self.outputs)

    def _pairs(self, spans: list[slice]) -> Iterator[tuple[slice, list[slice]]]:
        """Each span of samples with those after it."""
        return ((span, spans[i + 1 :]) for i, span in enumerate(spans))

    def _tiles(self, one_pass: Pass, span: slice) -> list[Tile]:
        starts = range(span.start, span.stop, one_pass.batch)
        batches = (slice(start, min(start + one_pass.batch, span.stop)) for start in starts)
        pieces = (self._differentiate(one_pass.groups, batch) for batch in batches)
        return [Tile(span, *group) for group in joined(pieces, one_pass.groups, span.stop - span.start)]

    def _differentiate(self, groups: Sequence[ParameterGroup], batch: slice) -> Differentiated:
        inputs, graph = self.inputs[batch], None
        if len(inputs) == self.samples and self.along is None and self.trace.leaves is not None:
            graph = self.trace
        with asking_torch(self.call):
            parts, outputs = jacobian(
                self.network,
                inputs,
                groups,
                row_method=self.strategy.row_method,
                direction=None if self.along is None else Direction(self.along, self.strategy.by),
                graph=graph,
                at_once=self.samples if self.small else 1,
            )
        difference = (outputs - self.outputs[batch]).abs().max()
        self.deviation = torch.maximum(self.deviation, difference)
        return parts

    def _accumulator(self) -> Accumulates:
        return KernelAccumulator(self.samples, self.classes, *self._accumulated())

    def _accumulated(self) -> tuple[bool, int, bool, torch.dtype, torch.device]:
        """What every accumulator takes besides its sizes."""
        device = torch.device("cpu") if self.plan.host else self.outputs.device
        return self.rate, self.plan.workspace, self.small, self.outputs.dtype, device

    def _choose_groups(self) -> None:
        """Choose the parameter groups of the current strategy."""
        self.groups = plan_groups(
            self.network,
            self.trace,
            self.expected.gradient,
            layout_trace(self.prepared) if self.strategy.factored else None,
            per_parameter=self.per_parameter,
            backprops=traced_at_once(self.prepared) and not self.rate,
        )

    def _first_strategy(self) -> None:
        """Choose the first strategy, its groups and its plan."""
        self.strategy, self.deviation = first_strategy(self.prepared, self.rate), self.outputs.new_zeros(())
        if self.strategy.factored or not self.refuse:  # otherwise the self-check of all samples notices
            self.prepared.check_samples()
        if not self.network.functional:
            self.strategy = OWN_PARAMETERS if self.small else LAST_RESORT
        self._choose_groups()
        if (
            self.strategy.factored
            and self.strategy.row_method == RowMethod.PER_SAMPLE
            and all(group.uses for group in self.groups)
        ):
            self.strategy = replace(self.strategy, row_method=RowMethod.WHOLE_BATCH)
        if not self.small and self.network.functional:
            self.strategy = replace(self.strategy, row_method=self._row_method())
        self.plan = self._first_plan()

    def _first_plan(self) -> Plan:
        """The plan of the first strategy whose memory can be measured."""
        try:
            return self._plan()
        except CannotDifferentiate:
            first = self.strategy
            for strategy in self._strategies():
                with suppress(CannotDifferentiate):
                    if strategy != first:
                        self._switch_to(strategy)
                        return self.plan
            raise

    def _row_method(self) -> RowMethod:
        """The fastest method that works on two samples, for parameters that no recognised call claims."""
        generic = [group for group in self.groups if not group.uses]
        if not generic:
            return RowMethod.WHOLE_BATCH
        for row_method in (RowMethod.PER_SAMPLE, RowMethod.WHOLE_BATCH):
            if row_method == RowMethod.WHOLE_BATCH or can_vmap_samples(self.network, self.inputs, self.outputs):
                self.strategy = replace(self.strategy, row_method=row_method)
                with suppress(CannotDifferentiate):
                    self._differentiate(generic, slice(0, 2))
                    return row_method
        return RowMethod.ONE_OUTPUT

    def _self_check_batch(self) -> tuple[int, int]:
        """Samples that the self-check takes at once, and the peak bytes of the self-check and the first evaluation."""

        def check(count: int) -> object:
            few, probe = self.inputs[:count], random_like(self.outputs[:count])
            if not self.rate:
                return pullback(self.network, few, probe, count)
            return ExpectedRate(self.network, few, probe, self.network.parameters, count).difference(STEPS[0])

        def evaluation(count: int) -> object:
            return trace_forward(self.network, self.inputs[:count])

        check_line, forward_line = (
            through(*(peak_and_result(partial(stage, count))[0] for count in (1, min(2, self.samples))))
            for stage in (check, evaluation)
        )
        batch = max(1, check_line.most(self.limit - self._held(), self.samples))
        return batch, int(self._held() + max(check_line(batch), forward_line(self.samples)))

    def _held(self) -> int:
        """Bytes of parameters, fixed tensors, inputs and outputs; the direction has the size of the parameters."""
        tensors = [*self.network.parameters.values()] * (2 if self.rate else 1)
        tensors += [*self.network.fixed.values(), self.inputs, self.outputs]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def _matrices(self) -> dict[str, int | None]:
        """How many matrices are held, and the numbers in each of them."""
        return {"matrices": len(self.groups) if self.per_parameter else 1 + self.rate, "entries": None}

    def _plan(self) -> Plan:
        if self.small:
            return single_pass_plan(self.groups, self.samples)
        few = [trace_forward(self.network, self.inputs[:count]) for count in measured_samples(self.samples)]
        if not all(trace.same_calls(self.trace) for trace in few):
            return replace(
                single_pass_plan(self.groups, self.samples),
                peak=crude_bytes(self.network, self.trace, self.samples, self.rate, self.per_parameter),
            )
        problem = Problem(
            samples=self.samples,
            classes=self.classes,
            width=self.outputs.element_size(),
            rate=self.rate,
            **self._matrices(),
            device=self.inputs.device,
            before=self._held(),
            groups=self.groups,
            work=lambda groups, count: self._differentiate(groups, slice(0, count)),
        )
        plan = make_plan(problem, self.limit)
        return replace(plan, peak=max(plan.peak, self.checking))


def small_bytes(device: torch.device) -> int:
    """Problems that hold fewer bytes are not measured."""
    return min(SMALL if device.type == "cpu" else SMALL_ON_A_DEVICE, free_memory(device) // 2)


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**27 else f"{count / 2**20:.3f} MiB"


def _not_differentiated(call: str, error: Exception) -> str:
    return f"(model, ...): {said(call, error)}"
