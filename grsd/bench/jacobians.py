"""The kernel by a Jacobian of torch alone: the fastest way that works for a network."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from grsd.bench.methods import product, torch_jacrev, trained


def per_sample(model: nn.Module, inputs: Tensor) -> Tensor:
    return torch_jacrev(model, inputs, inputs, None)


def whole_batch(model: nn.Module, inputs: Tensor) -> Tensor:
    """``torch.func.jacrev`` of all outputs at once: right where samples do not see each other."""
    buffers = dict(model.named_buffers())
    with sdpa_kernel(SDPBackend.MATH):
        jacobian = jacrev(lambda p: functional_call(model, p | buffers, (inputs,)).reshape(-1))(trained(model))
    return product([part.reshape(len(part), -1) for part in jacobian.values()]) / len(inputs)


def by_rows(model: nn.Module, inputs: Tensor) -> Tensor:
    """One call of ``torch.autograd.grad`` an output."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    with sdpa_kernel(SDPBackend.MATH):
        outputs = model(inputs).reshape(-1)
        gradients = [torch.autograd.grad(o, parameters, retain_graph=True, materialize_grads=True) for o in outputs]
    rows = [torch.stack([g.reshape(-1) for g in part]) for part in zip(*gradients, strict=True)]
    return product(rows) / len(inputs)


WAYS = {"vmap(jacrev)": per_sample, "jacrev": whole_batch, "rows": by_rows}


def by_jacobian(model: nn.Module, inputs: Tensor) -> tuple[str, Tensor]:
    """(the first of ``WAYS`` that does not fail, M). What the last of them raises is raised."""
    for way in ("vmap(jacrev)", "jacrev"):
        with suppress(Exception):  # functorch raises many kinds
            return way, WAYS[way](model, inputs)
    return "rows", by_rows(model, inputs)
