"""Whether samples depend on each other: a part of the batch must have the same outputs without the other samples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from grsd.support.checks import FEW
from grsd.support.faults import is_slip

COUPLED = (
    "the output of a sample changes with the other samples of its batch (batch norm without running statistics, or "
    "attention over the batch?); M = J J^T / N is then not a sum over samples: call model.eval(), or replace that layer"
)
Function = Callable[[Tensor], Tensor]


def parts_of(samples: int, device: torch.device) -> list[Tensor]:
    """Several lists of indices, each of about half of the samples, that separate each pair in most of the lists.

    With few samples each pair is separated at least once. The first list omits the first sample; no list is in the
    order of the batch.
    """
    index = torch.arange(samples, device=device)
    if samples == 1:
        return [index]
    bits = [(index >> bit) & 1 for bit in range((samples - 1).bit_length())]
    halves = bits if samples <= FEW else [sum(bits) % 2, sum(bits[::2]) % 2]
    return [index[half == (number == 0)].flip(0) for number, half in enumerate(halves)]


def the_others(part: Tensor, samples: int) -> Tensor:
    """Indices of all samples that are not in a part, in descending order."""
    kept = torch.ones(samples, dtype=torch.bool, device=part.device).index_fill_(0, part, False)
    return kept.nonzero().flatten().flip(0)


def is_coupled(function: Function, inputs: Tensor, outputs: Tensor, parts: list[Tensor]) -> bool:
    """Whether a part has other outputs alone than in the batch; computed without a graph.

    If the model refuses a part alone, the part is evaluated in a full batch that is filled up with copies of it.
    """
    with torch.no_grad():
        return any(not same_values(_evaluated(function, inputs, part), outputs[part], outputs) for part in parts)


def _evaluated(function: Function, inputs: Tensor, part: Tensor) -> Tensor:
    try:
        return function(inputs[part])
    except (torch.OutOfMemoryError, MemoryError, OSError):
        raise
    except Exception as error:  # a model that needs a full batch may raise anything
        if is_slip(error):
            raise
        return function(inputs[among_copies(part, len(inputs))])[part]


def among_copies(part: Tensor, samples: int) -> Tensor:
    """Indices of a full batch: the samples of ``part`` stay in place, copies of them replace all others."""
    filled = part.repeat(-(-samples // len(part)))[:samples]
    filled[part] = part
    return filled


def same_values(one: Tensor, other: Tensor, scale: Tensor) -> bool:
    """Whether two tensors agree up to rounding errors at the size of ``scale``."""
    if not isinstance(one, Tensor) or one.shape != other.shape:
        return False
    return bool((one - other).abs().max() <= 1e4 * torch.finfo(scale.dtype).eps * scale.abs().max())


def check_coupling(call: str, function: Function, inputs: Tensor, outputs: Tensor) -> None:
    """Raise ``ValueError`` if samples depend on each other; ``outputs``: those of ``function`` for all inputs."""
    if is_coupled(function, inputs, outputs, parts_of(len(inputs), inputs.device)):
        raise ValueError(f"{call}(model, ...): {COUPLED}")
