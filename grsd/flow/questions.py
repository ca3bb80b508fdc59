"""What a computation that goes on by itself asks for, so that many of them can be answered at once."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Numbers:
    """Scalars of one device and dtype, wanted as a list of Python numbers."""

    scalars: list[Tensor]


@dataclass(frozen=True)
class Velocity:
    """Wanted: (-grad L, f, e) at the flat vector ``theta``."""

    theta: Tensor


@dataclass(frozen=True)
class Push:
    """Wanted: J times ``direction`` at ``theta``."""

    theta: Tensor
    direction: Tensor


@dataclass(frozen=True)
class Kernel:
    """Wanted: (M, M') at ``theta``, with M' along ``direction``, that of the flow; without it (M, ``None``)."""

    theta: Tensor
    direction: Tensor | None = None


Question = Numbers | Velocity | Push | Kernel
Course = Generator[Question, Any, T]
