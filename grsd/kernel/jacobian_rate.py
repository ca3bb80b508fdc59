r"""J' J'^T / N beside M and M': how fast the rows of the Jacobian move, seen or not by the kernel.

A group's factored Jacobian J = sum_t delta_t a_t^T has J' = sum_t delta'_t a_t^T + delta_t a'_t^T: the same form with
twice the positions. So J' J'^T takes the same products as M, from parts put side by side.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from grsd.jacobian import ParameterGroup, Route, exact_derivatives, pull_and_rate
from grsd.jacobian.verify import RATE_TOLERANCE, inner, quadratic
from grsd.kernel.computation import KernelComputation
from grsd.kernel.products import KernelAccumulator, Square, Tile
from grsd.losses import Loss, check_loss

CALL = "jacobian_rate_kernel"


def jacobian_rate_kernel(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    loss: Loss = "mse",
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
) -> tuple[Square, Square, Square]:
    """M = J J^T / N, M' = (J' J^T + J J'^T) / N and J' J'^T / N, (D, D) each; J' along gradient flow, by forward mode.

    Args and errors: as ``tangent_kernel_and_rate``. Units: 1 / time, 1 / time^2, 1 / time^3.
    Cost: about twice that of ``tangent_kernel_and_rate``; one D x D matrix more, and the parts of J three times.
    """
    check_loss(CALL, loss)
    with exact_derivatives():
        computation = _Computation(CALL, model, inputs, targets, dtype, device, None, rate=True, loss=loss)
        kernel, rate, turning = computation.total()
    return kernel, rate, turning


class _Both:
    """Passes each tile to the accumulator of M and M', and the tile of J' to a second one."""

    def __init__(self, first: KernelAccumulator, second: KernelAccumulator) -> None:
        self.first, self.second = first, second

    def add(self, group: ParameterGroup, here: Tile, there: Tile) -> None:
        self.first.add(group, here, there)
        mine = _of_rate(group, here)
        alike = replace(group, route=Route.WEIGHTED) if group.route == Route.GRAM else group
        self.second.add(alike, mine, mine if there is here else _of_rate(group, there))

    def finish(self) -> list[Square]:
        return self.first.finish() + self.second.finish()


def _of_rate(group: ParameterGroup, tile: Tile) -> Tile:
    """The tile of J' itself, as if it were a Jacobian; that of the route GRAM on the route WEIGHTED."""
    if group.route == Route.ROWS:
        return Tile(tile.samples, tile.rates)
    (a, delta), (a_rate, delta_rate) = tile.parts, tile.rates
    if group.route == Route.GRAM:
        delta, delta_rate = (part.permute(2, 0, 3, 1, 4) for part in (delta, delta_rate))
    axis = 4 if group.route == Route.SLICES else 3  # of the positions in the backprops
    return Tile(tile.samples, (torch.cat([a, a_rate], 2), torch.cat([delta_rate, delta], axis)))


class _Computation(KernelComputation):
    """M, M' and J' J'^T / N; the last is checked against (J^T v)' for a random v, from backward passes."""

    def _accumulator(self) -> _Both:
        first = super()._accumulator()
        second = KernelAccumulator(
            first.samples, first.classes, False, first.workspace, first.small, first.dtype, first.device
        )
        return _Both(first, second)

    def _disagreement(self, matrices: list[Square]) -> str | None:
        problem = super()._disagreement(matrices)
        if problem is not None:
            return problem
        probe, total = self.expected.probe, {}
        for few, v in zip(self.inputs.split(self.batch), probe.split(self.batch), strict=True):
            _, change = pull_and_rate(self.network, few, v, self.along, torch.zeros_like(v), self.strategy.by)
            total = {name: total[name] + part for name, part in change.items()} if total else change
        expected, found = float(inner(total, total)) / self.samples, quadratic(matrices[2], probe)
        if math.isfinite(found) and abs(found - expected) <= RATE_TOLERANCE[matrices[2].dtype] * max(expected, 1e-300):
            return None
        return f"self-check failed, v^T J' J'^T v / N = {found:.9g} but (J^T v)' gives {expected:.9g}"
