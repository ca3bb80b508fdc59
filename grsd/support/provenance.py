"""The attributes of every result: versions, and the parameters that made it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version

PACKAGES = ("grsd", "torch", "numpy", "scipy", "xarray")


def provenance(parameters: Mapping[str, object] | None = None) -> dict[str, object]:
    """Return the attributes of a labelled result: ``versions`` in one line, and each parameter under its own name.

    Values that a netCDF attribute cannot hold (None, booleans, devices, dtypes) are written as text.
    """
    attributes: dict[str, object] = {"versions": _versions()}
    for name, value in (parameters or {}).items():
        plain = isinstance(value, (int, float, str)) and not isinstance(value, bool)
        attributes[name] = value if plain else str(value)
    return attributes


@cache
def _versions() -> str:
    """Return the versions in one line. They are read once: package metadata are files, and every budget needs them."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"python {platform.python_version()}, {versions}"
