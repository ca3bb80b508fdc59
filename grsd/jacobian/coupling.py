"""Whether samples see each other: parts of a batch by themselves must give what they gave among all."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from grsd.support.checks import FEW

COUPLED = (
    "the output of a sample changes with the other samples of its batch (batch norm without running statistics, or "
    "attention over the batch?); M = J J^T / N is then not a sum over samples: call model.eval(), or replace that layer"
)
Function = Callable[[Tensor], Tensor]


def parts_of(samples: int, device: torch.device) -> list[Tensor]:
    """Indices of about half of the samples, several times, so that each pair is parted in most of these parts, for few
    samples in one at least. The first part is without the first sample; none is in the order of the batch."""
    index = torch.arange(samples, device=device)
    if samples == 1:
        return [index]
    bits = [(index >> bit) & 1 for bit in range((samples - 1).bit_length())]
    halves = bits if samples <= FEW else [sum(bits) % 2, sum(bits[::2]) % 2]
    return [index[half == (number == 0)].flip(0) for number, half in enumerate(halves)]


def the_others(part: Tensor, samples: int) -> Tensor:
    """Indices of all samples that are not in a part, backwards."""
    kept = torch.ones(samples, dtype=torch.bool, device=part.device).index_fill_(0, part, False)
    return kept.nonzero().flatten().flip(0)


def is_coupled(function: Function, inputs: Tensor, outputs: Tensor, parts: list[Tensor]) -> bool:
    """Whether a part gives other outputs than it gave in the batch; without a graph.

    A part that the model does not take alone is evaluated in a whole batch, copies of it in the place of all others.
    """
    with torch.no_grad():
        return any(not same_values(_evaluated(function, inputs, part), outputs[part], outputs) for part in parts)


def _evaluated(function: Function, inputs: Tensor, part: Tensor) -> Tensor:
    try:
        return function(inputs[part])
    except (torch.OutOfMemoryError, MemoryError, OSError):
        raise
    except Exception:  # whatever a model says that needs its whole batch
        return function(inputs[among_copies(part, len(inputs))])[part]


def among_copies(part: Tensor, samples: int) -> Tensor:
    """Indices of a whole batch: these samples in their places, copies of them in the place of all others."""
    filled = part.repeat(-(-samples // len(part)))[:samples]
    filled[part] = part
    return filled


def same_values(one: Tensor, other: Tensor, scale: Tensor) -> bool:
    """Whether they agree but for rounding of numbers as large as those of ``scale``."""
    if not isinstance(one, Tensor) or one.shape != other.shape:
        return False
    return bool((one - other).abs().max() <= 1e4 * torch.finfo(scale.dtype).eps * scale.abs().max())


def check_coupling(call: str, function: Function, inputs: Tensor, outputs: Tensor) -> None:
    """Refuse a model in which samples see each other; ``outputs``: what ``function`` gives of all inputs."""
    if is_coupled(function, inputs, outputs, parts_of(len(inputs), inputs.device)):
        raise ValueError(f"{call}(model, ...): {COUPLED}")
