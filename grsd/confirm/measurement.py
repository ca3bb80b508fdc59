"""What a claim measures for one seed, from a function of the seed and the settings that it was built with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from grsd.evidence.measurement import Measurement as OfProtocol

RUNS = 8  # of an ensemble


@dataclass(frozen=True, init=False)
class Measurement(OfProtocol):
    """``measure(seed)`` gives the claim's statistic; ``parameters`` are stored as its protocol."""

    def __init__(self, measure: Callable[[int], float], parameters: Mapping[str, object]) -> None:
        plain = {
            name: value if isinstance(value, int | float | str) and not isinstance(value, bool) else str(value)
            for name, value in parameters.items()
        }
        super().__init__(MappingProxyType(plain), measure)

    def value(self, seed: int) -> float:
        return float(self.measure(seed))

    @property
    def parameters(self) -> dict[str, object]:
        return self.settings


def described(spec: dict[str, object], **changed: object) -> dict[str, object]:
    """The settings of a run, its seed aside, as provenance takes them."""
    listed = {name: str(value) if isinstance(value, list) else value for name, value in spec.items() if name != "seed"}
    return listed | changed
