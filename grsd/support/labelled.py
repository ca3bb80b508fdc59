"""A labelled result before it is an ``xarray.Dataset``, which takes milliseconds to build and to change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

Labelled = tuple[str | Sequence[str], Any, dict[str, Any]]


@dataclass
class Parts:
    """``variables`` and ``coords`` as (dimensions, values, attributes) by name, and the ``attributes`` of the whole."""

    variables: dict[str, Any]
    coords: dict[str, Any]
    attributes: dict[str, object]

    def __post_init__(self) -> None:
        for group in (self.variables, self.coords):
            for name, (dims, values, attributes) in group.items():
                group[name] = ((dims,) if isinstance(dims, str) else tuple(dims)), np.asarray(values), attributes

    @classmethod
    def of(cls, dataset: xr.Dataset) -> Parts:
        """Return the parts of a dataset; the arrays are not copied."""
        variables, coords = (
            {str(name): (found.dims, found.values, dict(found.attrs)) for name, found in group.items()}
            for group in (dataset.data_vars, dataset.coords)
        )
        return cls(variables, coords, dict(dataset.attrs))

    def values(self, name: str) -> np.ndarray:
        return (self.variables.get(name) or self.coords[name])[1]

    def dataset(self) -> xr.Dataset:
        return xr.Dataset(self.variables, self.coords, self.attributes)
