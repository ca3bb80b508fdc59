"""What a claim measures for one seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

RUNS = 8  # of an ensemble


@dataclass(frozen=True)
class Measurement:
    """``measure(seed)`` gives the claim's statistic; ``parameters`` go into the result's provenance."""

    measure: Callable[[int], float]
    parameters: dict[str, object]


def described(spec: dict[str, object], **changed: object) -> dict[str, object]:
    """The settings of a run, its seed aside, as provenance takes them."""
    listed = {name: str(value) if isinstance(value, list) else value for name, value in spec.items() if name != "seed"}
    return listed | changed
