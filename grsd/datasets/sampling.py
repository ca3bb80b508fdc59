"""What data sets share: which samples are drawn, how inputs are scaled, and targets of ten classes."""

from __future__ import annotations

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from grsd.support.values import said, whole_number

CLASSES = 10


def checked(call: str, samples: int, most: int, task: str, tasks: tuple[str, ...]) -> None:
    """Refuse a number of samples outside 1..most and an unknown task. Errors: ``ValueError`` that names ``call``."""
    if whole_number(call, "samples", samples, 1) > most:
        raise ValueError(f"{call}(samples=...): the set has {most} samples, got {said(samples)}")
    if not isinstance(task, str) or task not in tasks:
        raise ValueError(f"{call}(task=...): expected {' or '.join(map(repr, tasks))}, got {said(task)}")


def drawn(of: int, samples: int, seed: int) -> Int64[Tensor, " samples"]:
    """Return which samples are drawn, without replacement; those of a larger draw begin with them."""
    return torch.randperm(of, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")[:samples]


def scaled(values: Float64[Tensor, "samples features"]) -> Float64[Tensor, "samples features"]:
    """Centre each column, and divide all columns by one scale so that their squares average one."""
    values = values - values.mean(0)
    return values / values.square().mean().sqrt()


def class_targets(labels: Int64[Tensor, " samples"], task: str) -> Float64[Tensor, "samples outputs"]:
    """Return targets of ten classes: ``"one-hot"``, C = 10, minus 1/10; ``"parity"``, C = 1, +1 for even labels."""
    if task == "parity":
        return (1.0 - 2.0 * (labels % 2)).double()[:, None]
    return torch.nn.functional.one_hot(labels, CLASSES).double() - 1 / CLASSES
