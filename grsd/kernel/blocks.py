r"""Parts of the kernel that are wanted alone: between two batches, or traced over outputs or positions, or diagonal.

.. math:: K_{(ic)(jd)} = J_{ic} \cdot J'_{jd}, \qquad \sum_c K_{(ic)(jc)}, \qquad K^{(c)}_{ij} = K_{(ic)(jc)}

None of them is cut out of the whole matrix, which is never formed. Source: this project's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grsd.jacobian import ParameterGroup, random_like
from grsd.jacobian.verify import OVERFLOW, TOLERANCE, inner
from grsd.kernel.computation import KernelComputation
from grsd.kernel.pieces import of_classes, of_samples
from grsd.kernel.products import Accumulates, KernelAccumulator, Tile
from grsd.support.checks import check_others
from grsd.support.values import choice

ALL, TRACE, DIAGONAL = "all", "trace", "diagonal"
AXES = (ALL, TRACE, DIAGONAL)
Block = Float[Tensor, "*diagonal rows columns"]


class BlockComputation(KernelComputation):
    """The computation of a part of the kernel; ``block()`` returns it, over N.

    ``others``: the samples of the columns; None: those of the rows. ``positions``, ``of_outputs``: what becomes of
    the axes T and C of the outputs: "all", "trace" or "diagonal".
    """

    def __init__(
        self,
        call: str,
        model: nn.Module,
        inputs: Tensor,
        others: Tensor | None,
        positions: str,
        outputs: str,
        dtype: torch.dtype,
        device: str | torch.device | None,
        memory_limit: str | int | None,
        *,
        parameters: Sequence[str] | None = None,
        refuse: bool = True,
    ) -> None:
        self.modes = choice(call, "positions", positions, AXES), choice(call, "outputs", outputs, AXES)
        self.rows = None
        if others is not None:
            check_others(call, model, inputs, others)
            self.rows, inputs = len(inputs), torch.cat([inputs, others.to(inputs.device)])
        super().__init__(
            call, model, inputs, None, dtype, device, memory_limit, parameters=parameters, positions=True, refuse=refuse
        )

    def block(self) -> Block:
        """The part, checked: a matrix, or one for each place on the diagonal axes."""
        found = self.total()
        sizes = [size for size, mode in zip(self.axes, self.modes, strict=True) if mode == DIAGONAL]
        return torch.stack(found).view(*sizes, *found[0].shape) if sizes else found[0]

    def _axes(self) -> tuple[int, int]:
        """(T, C); raises ``ValueError`` if an axis is treated in a way of its own that the outputs do not have."""
        shape = self.outputs.shape[1:]
        if self.modes[0] != ALL and len(shape) < 2:
            raise ValueError(
                f"{self.call}(positions={self.modes[0]!r}): expected a model with outputs (N, T, C), got "
                f"{tuple(self.outputs.shape)}"
            )
        return (shape[0] if len(shape) == 2 else 1), (shape[-1] if shape else 1)

    @cached_property
    def parts(self) -> list[list[slice]]:
        """For each matrix, the outputs (of the T C of a sample) whose kernels it sums: first each on its own."""
        positions, classes = self.axes
        apart = [mode != ALL for mode in self.modes]
        matrices: dict[tuple[int, int], list[slice]] = {}
        for t, c in product(*(range(size if own else 1) for size, own in zip(self.axes, apart, strict=True))):
            start, stop = (t * classes, (t + 1) * classes) if apart[0] else (0, positions * classes)
            where = (t if self.modes[0] == DIAGONAL else 0), (c if self.modes[1] == DIAGONAL else 0)
            matrices.setdefault(where, []).append(slice(start + c, stop, classes if apart[1] else 1))
        return list(matrices.values())

    @property
    def each(self) -> int:
        """Rows of a matrix that one sample has."""
        return len(range(*self.parts[0][0].indices(self.classes)))

    def _first_strategy(self) -> None:
        self.axes = self._axes()
        super()._first_strategy()

    def _pairs(self, spans: list[slice]) -> Iterator[tuple[slice, list[slice]]]:
        if self.rows is None:
            yield from super()._pairs(spans)
            return
        for i, span in enumerate(spans):
            if span.start < self.rows:
                yield span, [other for other in spans[i + 1 :] if other.stop > self.rows]

    def _matrices(self) -> dict[str, int | None]:
        rows = self.samples if self.rows is None else self.rows
        columns = self.samples if self.rows is None else self.samples - self.rows
        return {"matrices": len(self.parts), "entries": rows * columns * self.each**2}

    def _accumulator(self) -> Accumulates:
        make = KernelAccumulator if self.rows is None else partial(_BetweenBatches, self.rows)
        own = [make(self.samples, self.each, *self._accumulated()) for _ in self.parts]
        return _Parts(self.rows, self.parts, own)

    def _disagreement(self, matrices: Sequence[Tensor]) -> str | None:
        """None if u^T K v of every matrix agrees with backward passes, else the problem in words."""
        for matrix, parts in zip(matrices, self.parts, strict=True):
            u, v = (random_like(self.outputs.new_empty(size)).view(-1, self.each) for size in matrix.shape)
            found = float(u.reshape(-1).to(matrix) @ (matrix @ v.reshape(-1).to(matrix)))
            expected = scale = 0.0
            for outputs in parts:
                left = self._pull(self._placed(u, outputs, 0))
                right = left if self.rows is None else self._pull(self._placed(v, outputs, self.rows))
                expected += float(inner(left, right)) / self.samples
                scale += float(inner(left, left) * inner(right, right)) ** 0.5 / self.samples
            if not abs(found) + scale < float("inf"):
                return f"M {OVERFLOW}"
            if not abs(found - expected) <= TOLERANCE[matrix.dtype] * max(scale, 1e-300):
                return (
                    f"self-check failed, u^T M v = {found:.9g} but backward passes give {expected:.9g}; the model "
                    "couples samples, depends on the size of its batch, or changes tensors in place"
                )
        if self.prepared.small:
            self.prepared.check_gradient([])
        return None

    def _placed(self, values: Tensor, outputs: slice, first: int) -> Tensor:
        """A cotangent of all outputs that is zero but for some outputs of the samples from ``first`` on."""
        cotangent = self.outputs.new_zeros(self.samples, self.classes)
        cotangent[first : first + len(values), outputs] = values
        return cotangent.view(self.outputs.shape)


class _Parts:
    """Adds the shares of some outputs, and of the pairs of batches if there are two, to accumulators of their own."""

    def __init__(self, rows: int | None, parts: list[list[slice]], own: list[KernelAccumulator]) -> None:
        self.rows, self.parts, self.own = rows, parts, own

    def add(self, group: ParameterGroup, here: Tile, there: Tile) -> None:
        if self.rows is not None:
            here, there = (
                of_samples(group, tile, samples)
                for tile, samples in ((here, slice(0, self.rows)), (there, slice(self.rows, there.samples.stop)))
            )
            if here is None or there is None:
                return
        for parts, accumulator in zip(self.parts, self.own, strict=True):
            for outputs in parts:
                left = of_classes(group, here, outputs)
                accumulator.add(group, left, left if there is here else of_classes(group, there, outputs))

    def finish(self) -> list[Tensor]:
        return [accumulator.finish()[0] for accumulator in self.own]


class _BetweenBatches(KernelAccumulator):
    """Accumulates the block of the first ``first`` samples (rows) and the others (columns); nothing is mirrored."""

    def __init__(self, first: int, samples: int, classes: int, *rest: object) -> None:
        super().__init__(samples, classes, *rest)
        self.first = first

    @cached_property
    def matrices(self) -> list[Tensor]:
        shape = (self.first * self.classes, (self.samples - self.first) * self.classes)
        return [torch.zeros(shape, dtype=self.dtype, device=self.device)]

    def _targets(self, here: Tile, there: Tile, mine: slice, others: slice) -> list[Tensor]:
        start = there.samples.start - self.first
        rows = self._rows(slice(here.samples.start + mine.start, here.samples.start + mine.stop))
        columns = self._rows(slice(start + others.start, start + others.stop))
        return [matrix[rows, columns] for matrix in self.matrices]

    def finish(self) -> list[Tensor]:
        return self.matrices
