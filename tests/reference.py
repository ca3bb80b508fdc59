"""The naive truth for a family: rows of the Jacobian by one backward pass each, every sample alone, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from grsd.bench.families import Family, wide

ENOUGH = 1e-7


def fresh(family: Family) -> nn.Module:
    """The network as built: never called, no cache filled, casts to float32 and compilers off."""
    torch.manual_seed(0)
    model = wide(family.build().double().eval())
    return getattr(model, "_orig_mod", model)


@dataclass(frozen=True)
class Point:
    """Outputs (N, C) or (N,), the Jacobian's rows, sample-major, (D, P), and M."""

    outputs: Tensor
    rows: Tensor

    @property
    def kernel(self) -> Tensor:
        return self.rows @ self.rows.T / len(self.outputs)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def evaluate(build: Callable[[], nn.Module], inputs: Tensor, shift: Tensor | None = None) -> Point:
    """At the parameters that ``build`` gives plus ``shift``, (P,)."""
    outputs, rows = [], []
    for i in range(len(inputs)):
        model = build()
        parameters = trainable(model)
        if shift is not None:
            parts = shift.split([p.numel() for p in parameters])
            for p, part in zip(parameters, parts, strict=True):
                p.data.add_(part.view_as(p))
        out = model(inputs[i : i + 1].clone())
        outputs.append(out.detach())
        for value in out.reshape(-1):
            model.zero_grad()
            if value.requires_grad:
                value.backward(retain_graph=True)
            row = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            rows.append(torch.cat([part.reshape(-1) for part in row]))
    return Point(torch.cat(outputs), torch.stack(rows))


def rate(build: Callable[[], nn.Module], inputs: Tensor, targets: Tensor, point: Point) -> tuple[Tensor, float]:
    """(M' by central differences of M along theta' = -J^T e / N, extrapolated twice; their error, estimated).

    Steps are made smaller, away from kinks, until the error is small enough or rounding makes it grow.
    """
    error = (point.outputs - targets).reshape(-1)
    direction = -point.rows.T @ error / len(inputs)
    size = torch.cat([p.detach().reshape(-1) for p in trainable(build())]).abs().max()
    unit = float(size.clamp(min=0.1) / direction.abs().max().clamp(min=1e-300))

    def slope(h: float) -> Tensor:
        ahead, behind = (evaluate(build, inputs, sign * h * direction).kernel for sign in (1, -1))
        return (ahead - behind) / (2 * h)

    best, least = None, float("inf")
    for step in (4e-3, 5e-4, 6e-5, 8e-6):
        h = step * unit
        coarse, middle, fine = slope(h), slope(h / 2), slope(h / 4)
        first, second = (4 * middle - coarse) / 3, (4 * fine - middle) / 3
        found = (16 * second - first) / 15
        uncertain = float((found - second).abs().max()) + 1.6e-14 * float(point.kernel.abs().max()) / h
        if best is None or uncertain < least:
            best, least = found, uncertain
        if least <= ENOUGH * float(best.abs().max()):
            break
    return best, least
