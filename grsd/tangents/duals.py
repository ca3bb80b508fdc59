"""Forward mode without what torch imports for it: a second, and slow operations of duals with plain tensors after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

T = TypeVar("T")


def dual(primal: Tensor, tangent: Tensor) -> Tensor:
    """``forward_ad.make_dual`` in the only level, without registering torch's decompositions."""
    return torch.ops.aten._make_dual.default(primal, tangent, level=0)


def in_forward_mode(run: Callable[[], T]) -> T:
    """``run()`` where duals can be made; once more with the decompositions where a function has no other tangent."""
    try:
        with forward_ad.dual_level():
            return run()
    except NotImplementedError:
        with forward_ad.dual_level():
            forward_ad.make_dual(torch.zeros(()), torch.zeros(()))  # registers them
            return run()
