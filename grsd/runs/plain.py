"""Write experiments as plain values, so that they can be stored, compared and named."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass

import numpy as np


def plain(spec: object) -> dict[str, object]:
    """Return the fields of a dataclass or the entries of a mapping as JSON and YAML can hold them; tuples as lists.

    Errors: ``TypeError`` for anything but a dataclass or a mapping, or a value that is not plain (None, a boolean, a
    number, text, or lists and tuples of them).
    """
    if is_dataclass(spec) and not isinstance(spec, type):
        values = {field.name: getattr(spec, field.name) for field in fields(spec)}
    elif isinstance(spec, Mapping):
        values = dict(spec)
    else:
        raise TypeError(f"run(spec): expected a grsd.Spec or a mapping of plain values, got {type(spec).__name__}")
    return {_name(name): _plain(name, value) for name, value in values.items()}


def text(spec: object) -> str:
    """Return ``plain(spec)`` as JSON with sorted names."""
    return json.dumps(plain(spec), sort_keys=True)


def key(spec: object) -> str:
    """Return sha256 of the canonical JSON (sorted names, floats in hexadecimal): the same in every process."""
    exact = {name: _exact(value) for name, value in plain(spec).items()}
    return hashlib.sha256(json.dumps(exact, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"run(spec): expected names that are text, got {name!r:.80}")
    return name


def _plain(name: str, value: object) -> object:
    if isinstance(value, list | tuple):
        return [_plain(name, item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"run(spec): {name}={value!r:.60} is no plain value; expected None, a boolean, a number, text or a list of them"
    )


def _exact(value: object) -> object:
    if isinstance(value, list):
        return [_exact(item) for item in value]
    return value.hex() if isinstance(value, float) and math.isfinite(value) else value
