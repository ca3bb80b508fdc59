"""The self-check: a quadratic form of the finished matrices against one backward pass of the whole network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from grsd.tangents import Network, Parameters

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}


@dataclass(frozen=True)
class Expected:
    """For the random outputs ``probe`` v: |J^T v|^2 / N = v^T M v, and its change 2 <J^T v, J'^T v> / N = v^T M' v.

    ``gradient``: J^T v. ``bound``: the Cauchy bound of the change, against which its error is judged.
    """

    probe: Tensor
    gradient: Parameters
    size: Tensor
    change: Tensor | None = None
    bound: Tensor | None = None

    @classmethod
    def of(cls, probe: Tensor, gradient: Parameters) -> Expected:
        return cls(probe, gradient, inner(gradient, gradient) / len(probe))


def pullback(network: Network, inputs: Tensor, cotangent: Tensor, batch: int) -> Parameters:
    """J^T cotangent, ``batch`` samples at a time."""
    (total,) = in_batches(lambda few, part: (network.pullback(few, part),), network, inputs, cotangent, batch, 1)
    return total


def expect(network: Network, inputs: Tensor, probe: Tensor, direction: Parameters | None, batch: int) -> Expected:
    samples = len(inputs)
    if direction is None:
        return Expected.of(probe, pullback(network, inputs, probe, batch))
    both = partial(network.pullback_and_rate, direction=direction)
    gradient, rate = in_batches(both, network, inputs, probe, batch, 2)
    size = inner(gradient, gradient) / samples
    bound = 2 * (size * inner(rate, rate) / samples).sqrt()
    return Expected(probe, gradient, size, 2 * inner(gradient, rate) / samples, bound)


def in_batches(
    function: Callable[[Tensor, Tensor], tuple[Parameters, ...]],
    network: Network,
    inputs: Tensor,
    cotangent: Tensor,
    batch: int,
    count: int,
) -> list[Parameters]:
    """The ``count`` results of the function, summed over batches of samples."""
    totals = [{name: torch.zeros_like(p) for name, p in network.parameters.items()} for _ in range(count)]
    for few, part in zip(inputs.split(batch), cotangent.split(batch), strict=True):
        for total, added in zip(totals, function(few, part), strict=True):
            for name, value in added.items():
                total[name] += value
    return totals


def inner(left: Parameters, right: Parameters) -> Tensor:
    return torch.stack([(left[name] * right[name]).sum() for name in left]).sum()


def disagreement(matrices: Sequence[Tensor], expected: Expected) -> str | None:
    """What is wrong where a matrix disagrees with the backward pass, and None where they agree."""
    v = expected.probe.reshape(-1)
    for what, matrix, value, scale in zip(
        ("M", "M'"), matrices, (expected.size, expected.change), (expected.size, expected.bound), strict=False
    ):
        here = v.to(matrix.device)
        found, value = float(here @ (matrix @ here)), float(value)
        if not abs(found - value) <= TOLERANCE[matrix.dtype] * max(float(scale), 1e-300):
            return (
                f"self-check failed, v^T {what} v = {found:.9g} but one backward pass gives {value:.9g}; the model "
                "couples samples, depends on the size of its batch, or changes tensors in place"
            )
    return None


def same_outputs(call: str, deviation: Tensor, outputs: Tensor) -> None:
    """Raise ``RuntimeError`` where a part of the batch gave other outputs than the whole."""
    scale = float(outputs.abs().max())
    if not float(deviation) <= TOLERANCE[outputs.dtype] * max(scale, 1e-300):
        raise RuntimeError(
            f"{call}(model, ...): the outputs of a part of the batch differ by {float(deviation):.3g} from those of "
            "the whole; the model depends on the size of its batch: raise memory_limit or take fewer samples"
        )
