"""The peak memory of a computation, measured on few samples and extrapolated to many."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Line:
    """Bytes as a function of the number of samples: ``fixed + each * samples``."""

    fixed: float
    each: float

    def __call__(self, samples: int) -> float:
        return self.fixed + self.each * samples

    def __add__(self, other: Line) -> Line:
        return Line(self.fixed + other.fixed, self.each + other.each)

    def most(self, room: float, samples: int) -> int:
        """The largest number of samples, up to ``samples``, for which the line is within ``room``; 0 if none."""
        if self(samples) <= room:
            return samples
        return max(0, int((room - self.fixed) // self.each)) if self.each > 0 else 0


def through(few: float, more: float, samples: int = 1) -> Line:
    """The line through the bytes for so many samples and for one more."""
    return Line((samples + 1.0) * few - samples * more, float(more - few))


class Meter(TorchDispatchMode):
    """Counts the bytes of storages that operations create, while they live; not what kernels allocate internally."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.alive: set[int] = set()

    def __torch_dispatch__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and (key := (storage := leaf.untyped_storage())._cdata) not in self.alive:
                self.alive.add(key)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._free, key, storage.nbytes())
        return out

    def _free(self, key: int, size: int) -> None:
        self.alive.discard(key)
        self.now -= size


def peak_and_result(function: Callable[[], object]) -> tuple[int, object]:
    """(the most bytes held during the call, what it returns)."""
    with Meter() as meter:
        result = function()
    return meter.peak, result


def held_bytes(result: object) -> int:
    """The bytes of the tensors in a nest of containers, each storage once."""
    storages = (leaf.untyped_storage() for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())
