"""The arguments of torch's normalizations, by name: a call ``F.layer_norm(*args, **kwargs)`` is ``LayerNorm(...)``."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class LayerNorm(NamedTuple):
    """Of ``F.layer_norm``."""

    input: Tensor
    normalized_shape: tuple[int, ...]
    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 1e-5


class RMSNorm(NamedTuple):
    """Of ``F.rms_norm``; ``eps`` None: the machine epsilon of the input's dtype."""

    input: Tensor
    normalized_shape: tuple[int, ...]
    weight: Tensor | None = None
    eps: float | None = None


class GroupNorm(NamedTuple):
    """Of ``F.group_norm``."""

    input: Tensor
    num_groups: int
    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 1e-5


class BatchNorm(NamedTuple):
    """Of ``F.batch_norm``."""

    input: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None = None
    bias: Tensor | None = None
    training: bool = False
    momentum: float = 0.1
    eps: float = 1e-5

    @property
    def uses_batch_statistics(self) -> bool:
        return self.training or self.running_mean is None
