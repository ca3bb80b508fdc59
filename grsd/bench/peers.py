"""Peers that can be installed beside torch, each in its best form; one that is missing raises ``ImportError``."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


def _gram(rows: Tensor, samples: int) -> Tensor:
    """(C, N, P), the gradients of class c of sample i, to M, rows sample-major."""
    rows = rows.transpose(0, 1).flatten(0, 1)
    return (rows @ rows.T).div_(samples)


def nngeometry(model: nn.Module, inputs: Tensor, targets: Tensor, memory_limit: str | None) -> Tensor:
    """Its Gram matrix; where there are convolutions its dense Jacobian and one product, ten times faster there."""
    from nngeometry import GramMatrix, Jacobian

    model = copy.deepcopy(model)
    if any(isinstance(layer, nn.Conv2d) for layer in model.modules()):
        return _gram(Jacobian(model, (inputs, targets)).to_torch(), len(inputs))
    gram = GramMatrix(model, (inputs, targets)).to_torch()
    size = inputs.shape[0] * gram.shape[0]
    return gram.permute(1, 0, 3, 2).reshape(size, size).div(len(inputs))


def backpack(model: nn.Module, inputs: Tensor, targets: Tensor, memory_limit: str | None) -> Tensor:
    """BatchGrad, one backward pass a class, and one product."""
    from backpack import backpack, extend
    from backpack.extensions import BatchGrad

    model = extend(copy.deepcopy(model))
    outputs, rows = model(inputs), []
    for of_class in outputs.sum(0):
        with backpack(BatchGrad(), retain_graph=True):
            of_class.backward(retain_graph=True)
        rows.append(torch.cat([p.grad_batch.flatten(1) for p in model.parameters()], 1))
        for p in model.parameters():
            del p.grad_batch
    return _gram(torch.stack(rows), len(inputs))


def curvlinops(model: nn.Module, inputs: Tensor, targets: Tensor, memory_limit: str | None) -> Tensor:
    """J^T applied to all unit vectors at once, and one product: cheaper than J applied to the result."""
    from curvlinops import TransposedJacobianLinearOperator

    parameters = [p for p in model.parameters() if p.requires_grad]
    operator = TransposedJacobianLinearOperator(model, parameters, [(inputs, targets)], check_deterministic=False)
    with sdpa_kernel(SDPBackend.MATH):  # what is fused has no batching rule
        columns = operator @ torch.eye(targets.numel(), dtype=inputs.dtype, device=inputs.device)
    return (columns.T @ columns).div_(len(inputs))


PEERS = {"nngeometry": nngeometry, "backpack": backpack, "curvlinops": curvlinops}
