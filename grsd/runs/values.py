"""Write the values of attributes and array elements as JSON text that is read back equal."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

import numpy as np

KINDS = "biufcmMSU"  # numpy's kinds that their bytes determine


class Unstorable(ValueError):
    """Raised for a value that no file of this package can hold."""


def tagged(value: object) -> object:
    """Return ``value`` as JSON can hold it; a type that JSON lacks becomes an object with one key, its kind.

    Allowed are lists, tuples and dicts of None, booleans, numbers (also complex, also numpy's), text, bytes, dates,
    times and numpy arrays. Errors: ``Unstorable`` for anything else.
    """
    if isinstance(value, np.generic) and not isinstance(value, str | bytes) and value.dtype.kind in KINDS:
        return {"scalar": [value.dtype.str, value.tobytes().hex()]}
    if isinstance(value, np.ndarray) and value.dtype.kind in KINDS:
        return {"array": [value.dtype.str, list(value.shape), value.tobytes().hex()]}
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, list):
        return [tagged(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [tagged(item) for item in value]}
    if isinstance(value, Mapping):
        return {"dict": [[tagged(key), tagged(item)] for key, item in value.items()]}
    return _rarer(value)


def untagged(found: object) -> object:
    """Return the value from which ``tagged`` made ``found``. Errors: ``ValueError`` for anything else."""
    if isinstance(found, list):
        return [untagged(item) for item in found]
    if not isinstance(found, dict):
        return found
    ((kind, content),) = found.items()
    if kind == "scalar":
        return _array(content[0], [], content[1])[()]
    if kind == "array":
        return _array(*content)
    if kind == "tuple":
        return tuple(untagged(item) for item in content)
    if kind == "dict":
        return {untagged(key): untagged(item) for key, item in content}
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "complex":
        return complex(*content)
    if kind == "timedelta":
        return datetime.timedelta(*content)
    kinds = {"datetime": datetime.datetime, "date": datetime.date, "time": datetime.time}
    if kind not in kinds:
        raise ValueError(f"no such kind of value: {kind!r:.40}")
    return kinds[kind].fromisoformat(content)


def _rarer(value: object) -> object:
    if isinstance(value, bytes | bytearray):
        return {"bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, datetime.timedelta):
        return {"timedelta": [value.days, value.seconds, value.microseconds]}
    for kind in (datetime.datetime, datetime.date, datetime.time):
        if isinstance(value, kind):
            return {kind.__name__: value.isoformat()}
    raise Unstorable(f"a value of type {type(value).__name__}")


def _array(dtype: str, shape: list[int], digits: str) -> np.ndarray:
    kind = np.dtype(dtype)
    if kind.kind not in KINDS:
        raise ValueError(f"no such dtype in a file: {dtype!r:.40}")
    return np.frombuffer(bytes.fromhex(digits), kind).reshape(shape).copy()
