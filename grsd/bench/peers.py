"""Peers that can be installed beside torch, each in its fastest form; a missing one raises ``ImportError``."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


def _gram(rows: Tensor, samples: int) -> Tensor:
    """M, rows sample-major, from gradients (C, N, P)."""
    rows = rows.transpose(0, 1).flatten(0, 1)
    return (rows @ rows.T).div_(samples)


def nngeometry(model: nn.Module, inputs: Tensor, targets: Tensor, memory_limit: str | None) -> Tensor:
    """Its Gram matrix; for convolutions its dense Jacobian and one product, which is ten times faster."""
    from nngeometry import GramMatrix, Jacobian

    model = copy.deepcopy(model)
    if any(isinstance(layer, nn.Conv2d) for layer in model.modules()):
        return _gram(Jacobian(model, (inputs, targets)).to_torch(), len(inputs))
    gram = GramMatrix(model, (inputs, targets)).to_torch()
    size = inputs.shape[0] * gram.shape[0]
    return gram.permute(1, 0, 3, 2).reshape(size, size).div(len(inputs))


def backpack(model: nn.Module, inputs: Tensor, targets: Tensor, memory_limit: str | None) -> Tensor:
    """BatchGrad in one backward pass per class, and one product."""
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
    """J^T applied to all unit vectors at once, and one product; applying J to the result would cost more."""
    from curvlinops import TransposedJacobianLinearOperator

    parameters = [p for p in model.parameters() if p.requires_grad]
    operator = TransposedJacobianLinearOperator(model, parameters, [(inputs, targets)], check_deterministic=False)
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no batching rule
        columns = operator @ torch.eye(targets.numel(), dtype=inputs.dtype, device=inputs.device)
    return (columns.T @ columns).div_(len(inputs))


PEERS = {"nngeometry": nngeometry, "backpack": backpack, "curvlinops": curvlinops}
