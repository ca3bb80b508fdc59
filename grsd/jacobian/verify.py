"""The self-check: quadratic forms of the finished matrices against backward passes of the whole network.

v^T M v = |J^T v|^2 / N takes one backward pass. v^T M' v = 2 <J^T v, (J^T v)'> / N takes the derivative of J^T v along
the flow, here from a difference of two gradients in float64: it shares nothing with forward mode, so that it sees what
forward mode misses, for example a detached norm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from grsd.jacobian.network import Network, Parameters
from grsd.jacobian.trace import pull, trace_without_calls
from grsd.support.host import read

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
RATE_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
STEPS = (1e-5, 1e-7)  # of the parameters' norm; the second is small enough for kinks to be rare
SHARP = 1e-9  # for networks that bend within the second step; without an allowance for rounding, far below there
STEADY = 1e-5  # two steps that see one derivative agree to this share of its bound
SINGLES, PARTS = 16, 128
FINER = (1.0, 0.5, 0.1, 0.01)  # of the second step, for parts of the batch
SEEN = 1e-2  # largest rounding error of a difference that decides, as a share of its bound
OVERFLOW = "is not finite: it is out of the range of its precision; scale the outputs down"
ROUNDINGS = 1e-13  # of a gradient, relative to its size


@dataclass
class Expected:
    """For the random outputs ``probe`` v: ``gradient`` J^T v, and ``size`` |J^T v|^2 / N = v^T M v."""

    probe: Tensor
    gradient: Parameters
    size: float

    @classmethod
    def of(cls, probe: Tensor, gradient: Parameters) -> Expected:
        return cls(probe, gradient, float(inner(gradient, gradient)) / len(probe))

    def disagreement(self, matrix: Tensor) -> str | None:
        """None if M agrees with the backward pass, else the problem in words."""
        found = quadratic(matrix, self.probe)
        if not math.isfinite(found) or not math.isfinite(self.size):
            return f"M {OVERFLOW}"
        if abs(found - self.size) <= TOLERANCE[matrix.dtype] * max(self.size, 1e-300):
            return None
        return (
            f"self-check failed, v^T M v = {found:.9g} but one backward pass gives {self.size:.9g}; the model couples "
            "samples, depends on the size of its batch, or changes tensors in place"
        )


@dataclass
class ExpectedRate:
    """v^T M' v from differences of J^T v along ``direction``, for the same v as in ``Expected``."""

    network: Network
    inputs: Tensor
    probe: Tensor
    direction: Parameters
    batch: int

    def disagreement(self, rate: Tensor) -> str | None:
        """None if M' agrees with the differences, else the problem in words.

        In a large batch of a network with kinks some unit is always at one. No difference is then a derivative: the
        steps disagree with each other. Parts of the batch decide in that case.
        """
        found = quadratic(rate, self.probe)
        if not math.isfinite(found):
            return f"M' {OVERFLOW}"
        agrees, values = self._compared(found, rate.dtype)
        if agrees or (agrees is None and self._agrees_in_parts(rate)):
            return None
        return (
            f"self-check failed, v^T M' v = {found:.9g} but a difference of J^T v along the flow gives "
            f"{values[0]:.9g}: by torch's derivatives M' is not dM/dt, since the model detaches something that depends "
            "on its parameters (a norm, a straight-through estimator), changes gradients or sits on a kink; "
            "tangent_kernel gives M"
        )

    def _compared(self, found: float, dtype: torch.dtype) -> tuple[bool | None, list[float]]:
        """Whether a difference gives ``found``, None if the differences of two steps are not the same; and them."""
        values, steady = [], []
        for step in (*STEPS, SHARP):
            value, bound, noise = self.difference(step)
            allowed = noise if step in STEPS else 0.0
            if abs(found - value) <= RATE_TOLERANCE[dtype] * max(bound, 1e-300) + allowed:
                return True, values
            values.append(value)
            steady.append(STEADY * bound + noise)
        return (False if abs(values[0] - values[1]) <= min(steady[:2]) else None), values

    def _agrees_in_parts(self, rate: Tensor) -> bool:
        """Whether no part of the batch has a derivative that is another one, and more samples agree than have none.

        Parts are a few single samples and the spans between them, and spans in halves until no unit of them is at a
        kink, ``PARTS`` at most. The samples of all parts that agree are then examined together: only so are the blocks
        of M' between the parts.
        """
        samples = len(self.inputs)
        here = replace(self, network=self.network.in_float64())
        singles = sorted({round(i * (samples - 1) / (SINGLES - 1)) for i in range(SINGLES)})
        parts = [slice(i, i + 1) for i in singles]
        parts += [slice(i + 1, j) for i, j in pairwise(singles) if j > i + 1]
        known, at_kinks, agreeing = 0, 0, torch.zeros(samples, dtype=torch.bool, device="cpu")
        for part in parts:
            agrees, moves = here._part_agrees(rate, part)
            if agrees is False:
                return False
            size = part.stop - part.start
            known += size * (agrees is True and moves)
            at_kinks += size == 1 and agrees is None
            agreeing[part] |= agrees is True
            if agrees is None and size > 1 and len(parts) < PARTS:
                middle = part.start + size // 2
                parts += [slice(part.start, middle), slice(middle, part.stop)]
        together = here._only(agreeing)
        return known > at_kinks and together._judged(quadratic(rate, together.probe), rate.dtype)[0] is not False

    def _part_agrees(self, rate: Tensor, part: slice) -> tuple[bool | None, bool]:
        """Whether M' of these samples agrees, None if they have no derivative; and whether their J^T v changes."""
        inside = torch.zeros(len(self.inputs), dtype=torch.bool, device="cpu")
        inside[part] = True
        classes = self.probe.numel() // len(self.probe)
        rows = slice(part.start * classes, part.stop * classes)
        found = quadratic(rate[rows, rows], self.probe[part])
        alone = replace(
            self, inputs=self.inputs[part], probe=self.probe[part], batch=min(self.batch, part.stop - part.start)
        )
        try:
            judged = alone._judged(found * len(self.inputs) / len(alone.inputs), rate.dtype)
        except (torch.OutOfMemoryError, MemoryError, OSError):
            raise
        except Exception:  # the model needs its full batch
            judged = False, True
        return self._only(inside)._judged(found, rate.dtype) if judged[0] is False else judged

    def _judged(self, found: float, dtype: torch.dtype) -> tuple[bool | None, bool]:
        """As ``_part_agrees``, by the second step and finer ones, within which few units are at a kink.

        The derivative is another one if two steps agree with each other and not with ``found``, much better: kinks and
        curves change what is off by its own size.
        """
        values, steady, off = [], [], math.inf
        for share in FINER:
            value, bound, noise = self.difference(STEPS[1] * share)
            if values and noise > SEEN * bound:
                break
            off = min(off, abs(found - value))
            if abs(found - value) <= RATE_TOLERANCE[dtype] * max(bound, 1e-300) + noise:
                return True, bound > 0
            values.append(value)
            steady.append(STEADY * bound + noise)
            if len(values) > 1 and abs(values[-1] - values[-2]) <= min(*steady[-2:], off / 10):
                return False, True
        return None, True

    def _only(self, chosen: Tensor) -> ExpectedRate:
        """The check whose v is zero for all but the chosen samples."""
        mask = chosen.to(self.probe.device).view(-1, *[1] * (self.probe.ndim - 1))
        return replace(self, probe=self.probe * mask)

    def difference(self, step: float) -> tuple[float, float, float]:
        """(v^T M' v, an upper bound of its size, its rounding error)."""
        network = self.network.in_float64()
        inputs = self.inputs.double() if self.inputs.is_floating_point() else self.inputs
        direction = {name: d.double() for name, d in self.direction.items()}
        length = size_of(direction)
        if length == 0:
            return 0.0, 0.0, 0.0
        h = step * max(size_of(network.parameters), 1e-8) / length
        ends = [
            pullback(network.moved(direction, sign * h), inputs, self.probe.double(), self.batch) for sign in (1, -1)
        ]
        middle = {name: (ends[0][name] + ends[1][name]) / 2 for name in ends[0]}
        change = {name: (ends[0][name] - ends[1][name]) / (2 * h) for name in ends[0]}
        size, samples = float(inner(middle, middle)), len(inputs)
        bound = 2 * (size * float(inner(change, change))) ** 0.5 / samples
        return 2 * float(inner(middle, change)) / samples, bound, size * ROUNDINGS / h / samples


def quadratic(matrix: Tensor, v: Tensor) -> float:
    v = v.reshape(-1).to(matrix)
    return float(v @ (matrix @ v))


def pullback(network: Network, inputs: Tensor, cotangent: Tensor, batch: int) -> Parameters:
    """J^T cotangent, ``batch`` samples at a time."""
    total: Parameters = {}
    for few, part in zip(inputs.split(batch), cotangent.split(batch), strict=True):
        found = pull(network, trace_without_calls(network, few), few, part, retain=False)
        total = {name: total[name] + value for name, value in found.items()} if total else found
    return total


def inner(left: Parameters, right: Parameters) -> Tensor:
    return torch.stack([(left[name] * right[name]).sum() for name in left]).sum()


def size_of(parameters: Parameters) -> float:
    """The Euclidean norm, also if squares would overflow."""
    return math.hypot(*read(torch.linalg.vector_norm(part) for part in parameters.values()))


def same_outputs(call: str, deviation: Tensor, outputs: Tensor) -> None:
    """Raise ``RuntimeError`` if a part of the batch has other outputs than it has in the whole batch."""
    scale = float(outputs.abs().max())
    if not float(deviation) <= TOLERANCE[outputs.dtype] * max(scale, 1e-300):
        raise RuntimeError(
            f"{call}(model, ...): the outputs of a part of the batch differ by {float(deviation):.3g} from those of "
            "the whole; the model depends on the size of its batch: raise memory_limit or take fewer samples"
        )


def check_part(matrix: Tensor, chosen: Tensor, probe: Tensor, gradient: Parameters) -> bool:
    """Whether the block of M for the ``chosen`` samples is the M of these alone: u^T M u = |J^T u|^2 / N."""
    classes = probe.numel() // len(probe)
    rows = (chosen[:, None] * classes + torch.arange(classes, device=chosen.device)).reshape(-1).to(matrix.device)
    u = probe.reshape(-1).to(matrix)
    found = float(u @ (matrix[rows][:, rows] @ u))
    size = float(inner(gradient, gradient)) * classes / len(matrix)
    return abs(found - size) <= 10 * TOLERANCE[matrix.dtype] * max(size, 1e-300)
