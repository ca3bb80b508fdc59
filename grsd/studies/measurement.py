"""What a claim measures for one seed, by a protocol that is executed and stored as the same object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass

import numpy as np


@dataclass(frozen=True)
class Measurement:
    """``measure(protocol, seed)`` gives the claim's statistic; a result stores ``protocol`` as plain values."""

    protocol: object
    measure: Callable[[object, int], float]

    def __call__(self, seed: int) -> float:
        return float(self.measure(self.protocol, seed))

    @property
    def settings(self) -> dict[str, object]:
        """The protocol as JSON can hold it, ``measure`` by its name."""
        return {"measure": self.measure.__qualname__, **plain(self.protocol)}


def plain(value: object) -> object:
    """Dataclasses and mappings as dictionaries, tuples as lists, functions by their names."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return getattr(value, "__qualname__", value)
