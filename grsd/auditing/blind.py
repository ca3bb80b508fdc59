"""Networks in which nothing can learn from the inputs: found from one gradient per sample, before any kernel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from grsd.jacobian import exact_derivatives

SAME = 1e-12  # relative difference of numbers that are equal but for rounding
SEED = 0
ZERO = "the gradients of all outputs are zero{}, so that no weight can learn (dead units, or layers of zeros?)"
EQUAL = (
    "every sample has the same gradients{}, so that no weight that learns sees the inputs (dead units, or layers of "
    "zeros?)"
)


def blindness(model: nn.Module, inputs: Tensor, when: str = "") -> str | None:
    """Return why no weight of the model can learn from these inputs, in words; ``None`` if one can.

    Compares J(x_i)^T v of the samples for one random v: a network that learns takes two backward passes, since its
    first two samples differ. ``when``: stands in the reason, such as " at the start". A model that fails is not judged.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    try:
        with exact_derivatives(), torch.enable_grad():
            alive = any(_differs(model, inputs, k, parameters) for k in range(1, len(inputs)))
            if alive:
                return None
            zero = not bool(_gradient(model(inputs[:2])[:1], parameters).any())
    except Exception:  # a foreign model may raise anything; the kernel's own refusal says more
        return None
    return (ZERO if zero else EQUAL).format(when)


def constant(outputs: Tensor) -> bool:
    """Return whether all samples have the same outputs."""
    return bool((outputs - outputs[:1]).abs().max() <= SAME * outputs.abs().max())


def _differs(model: nn.Module, inputs: Tensor, k: int, parameters: list[Tensor]) -> bool:
    outputs = model(inputs[[0, k]])
    one, other = (_gradient(outputs[row : row + 1], parameters) for row in (0, 1))
    size = torch.maximum(one.abs().max(), other.abs().max())
    return not bool((one - other).abs().max() <= SAME * size)  # NaN differs: the kernel's refusal says what it is


def _gradient(outputs: Tensor, parameters: list[Tensor]) -> Tensor:
    """Return J^T v, all parameters in one row; v is the same for outputs of the same shape."""
    if not outputs.requires_grad:
        return torch.cat([torch.zeros_like(p).reshape(-1) for p in parameters])
    generator = torch.Generator(device="cpu").manual_seed(SEED)
    v = torch.randn(outputs.shape, generator=generator, dtype=outputs.dtype, device="cpu").to(outputs.device)
    found = torch.autograd.grad(outputs, parameters, v, retain_graph=True, allow_unused=True)
    filled = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
    return torch.cat([g.reshape(-1) for g in filled])
