"""The type that every data set returns."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor


@dataclass(frozen=True)
class Data:
    """A full batch. ``inputs`` (N, d) and ``targets`` (N, C) are float64 on the CPU; ``name`` describes them."""

    inputs: Float64[Tensor, "samples features"]
    targets: Float64[Tensor, "samples outputs"]
    name: str

    def __repr__(self) -> str:
        return f"Data({self.name!r}, inputs={tuple(self.inputs.shape)}, targets={tuple(self.targets.shape)})"
