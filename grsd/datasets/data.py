"""What every data set gives."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor


@dataclass(frozen=True)
class Data:
    """A full batch. ``inputs`` (N, d) and ``targets`` (N, C) are float64 on the CPU; ``name`` says what they are."""

    inputs: Float64[Tensor, "samples features"]
    targets: Float64[Tensor, "samples outputs"]
    name: str
