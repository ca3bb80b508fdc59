"""The kernel by torch's own Jacobians: the fastest one that works for a network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from grsd.bench.methods import product, torch_jacrev, trained
from grsd.support.faults import is_slip


def per_sample(model: nn.Module, inputs: Tensor) -> Tensor:
    return torch_jacrev(model, inputs, inputs, None)


def whole_batch(model: nn.Module, inputs: Tensor) -> Tensor:
    """``torch.func.jacrev`` of all outputs at once; correct if samples do not depend on each other."""
    buffers = dict(model.named_buffers())
    with sdpa_kernel(SDPBackend.MATH):
        jacobian = jacrev(lambda p: functional_call(model, p | buffers, (inputs,)).reshape(-1))(trained(model))
    return product([part.reshape(len(part), -1) for part in jacobian.values()]) / len(inputs)


def by_rows(model: nn.Module, inputs: Tensor) -> Tensor:
    """One backward pass per output; the parameters' gradients are overwritten.

    ``torch.autograd.grad`` is not used, since reentrant checkpoints forbid it.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows: list[list[Tensor]] = [[] for _ in parameters]
    with sdpa_kernel(SDPBackend.MATH):
        for output in model(inputs).reshape(-1):
            for p in parameters:
                p.grad = None
            output.backward(retain_graph=True)
            for p, own in zip(parameters, rows, strict=True):
                own.append((torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1))
    return product([torch.stack(own) for own in rows]) / len(inputs)


WAYS = {"vmap(jacrev)": per_sample, "jacrev": whole_batch, "rows": by_rows}


def by_jacobian(
    build: Callable[[], nn.Module], inputs: Tensor, right: Callable[[Tensor], bool] = lambda kernel: True
) -> str:
    """The first name in ``WAYS`` whose kernel does not raise and is ``right``; "" if there is none.

    Each is tried on a new network.
    """
    for way, kernel in WAYS.items():
        try:
            if right(kernel(build(), inputs)):
                return way
        except Exception as error:  # functorch raises many kinds, and its batching rule of torch.cdist is wrong
            if is_slip(error):
                raise
    return ""
