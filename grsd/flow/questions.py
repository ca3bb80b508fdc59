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
class AtPoint:
    """A question about the network with the flat vector ``theta`` of parameters."""

    theta: Tensor
    direction: Tensor | None = None


class Velocity(AtPoint):
    """Wanted: (-grad L, f, e)."""


class Push(AtPoint):
    """Wanted: J times ``direction``."""


class Kernel(AtPoint):
    """Wanted: (M, M') with M' along ``direction``, which is that of the flow; without it (M, ``None``)."""


Question = Numbers | AtPoint
Course = Generator[Question, Any, T]
