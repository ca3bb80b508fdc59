"""The measurement of a claim for one seed: one object is both the protocol that runs and the one that is stored."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from types import MappingProxyType

import numpy as np

from grsd.runs.fingerprint import code_of


@dataclass(frozen=True)
class Measurement:
    """A measurement: ``measure(protocol, seed)`` returns the claim's statistic for one seed.

    Args:
        protocol: every setting of the measurement but its seed: a frozen dataclass, such as a ``grsd.Spec``, or a
            read-only mapping (``types.MappingProxyType``). Fields are plain values, tuples, functions (stored by name,
            while ``code`` covers their source), or such objects themselves.
        measure: a function that takes its settings from ``protocol`` alone, so that the stored settings are those that
            ran.

    Errors: ``TypeError`` naming the field if the protocol could change after the run, or cannot be stored.
    """

    protocol: object
    measure: Callable[..., float]

    def __post_init__(self) -> None:
        plain_values(self.protocol)

    def value(self, seed: int) -> float:
        return float(self.measure(self.protocol, seed))

    @property
    def settings(self) -> dict[str, object]:
        """The protocol as plain values that JSON can hold."""
        return plain_values(self.protocol)

    @property
    def code(self) -> str:
        """Fingerprint of the code that measures (``grsd.runs.fingerprint.code_of``)."""
        return code_of(self.measure)


def plain_values(protocol: object) -> dict[str, object]:
    """Return the fields of a frozen dataclass or the entries of a read-only mapping, recursively; tuples as lists.

    Errors: ``TypeError`` in one line for anything else.
    """
    if not (is_dataclass(protocol) and not isinstance(protocol, type)) and not isinstance(protocol, MappingProxyType):
        raise TypeError(
            "Measurement(protocol=...): expected a frozen dataclass or a types.MappingProxyType of plain values, got "
            f"{type(protocol).__name__}"
        )
    return _plain("protocol", protocol)


def _plain(name: str, value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        if not type(value).__dataclass_params__.frozen:
            raise TypeError(f"Measurement(protocol=...): {name}: {type(value).__name__} is not a frozen dataclass")
        return {field.name: _plain(f"{name}.{field.name}", getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, MappingProxyType):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"Measurement(protocol=...): {name}: expected names that are text, got {key!r:.60}")
        return {key: _plain(f"{name}.{key}", item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(name, item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if callable(value) and hasattr(value, "__qualname__"):
        return value.__qualname__.split(".<locals>")[0]
    raise TypeError(
        f"Measurement(protocol=...): {name}={value!r:.60}: expected None, a boolean, a number, text, a frozen "
        "dataclass or a tuple of them, which cannot change between the run and the file"
    )
