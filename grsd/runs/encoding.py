"""Convert datasets to ones that netCDF can hold, and back.

Numbers, text and plain attributes stand in the file as every netCDF reader expects them. The attribute
``grsd_encoding`` describes the rest in JSON, so that it is read back equal:

* booleans become unsigned bytes; dates and durations become 64-bit integers; complex numbers, half and long precision
  and bytes become their own bytes along one more dimension; an array of objects becomes JSON text, one per element;
* attributes such as None, booleans, dicts, nested or mixed lists and bytes, and attributes whose names have a meaning
  in netCDF or xarray, go into ``grsd_encoding`` itself;
* variables and dimensions whose names netCDF does not allow are called ``grsd_name_1`` and so on.

Anything else, such as a MultiIndex, cannot be stored; an attribute of another type is stored as text (``with_text``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping

import numpy as np
import pandas as pd
import xarray as xr

from grsd.runs.values import Unstorable, tagged, untagged

MARK = "grsd_encoding"
NAME = re.compile(r"(?!grsd_|_nc4_)[^\W\d][\w.+@-]{0,99}")
# netCDF, HDF5 or xarray give these names a meaning and would act on them when they read the file.
RESERVED = {
    "_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned", "_Encoding", "dtype", "coordinates",
    "calendar", "grid_mapping", "bounds", "CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST", "_Netcdf4Dimid",
    "_Netcdf4Coordinates", "_nc3_strict", "_NCProperties",
}  # fmt: skip
LONGEST = 1000


def with_text(dataset: xr.Dataset) -> tuple[xr.Dataset, list[str]]:
    """Return (``dataset`` with every attribute that cannot be stored replaced by its text, names of those)."""
    changed: list[str] = []
    result = dataset.copy()
    for part in (result, *result.variables.values()):
        part.attrs = _attributes_as_text(part.attrs, changed)
    return result, changed


def encode(dataset: xr.Dataset) -> tuple[xr.Dataset, dict[str, dict[str, object]]]:
    """Return (a dataset that netCDF can hold, xarray's encoding of each variable).

    Errors: ``Unstorable`` naming the variable or attribute that cannot be stored.
    """
    named = _short_names(dataset)
    marks: dict[str, object] = {"names": {new: tagged(old) for old, new in named.items() if new != old}}
    marks |= {"variables": {}, "attributes": {}}
    parts: dict[str, dict[str, xr.Variable]] = {"coords": {}, "data_vars": {}}
    written: dict[str, dict[str, object]] = {}
    for old, variable in dataset.variables.items():
        if isinstance(dataset.indexes.get(old), pd.MultiIndex):
            raise Unstorable(f"{old!r:.60} is a MultiIndex")
        name, dims = named[old], [named[dim] for dim in variable.dims]
        values, mark = _stored(old, variable)
        if mark:
            marks["variables"][name] = mark
        if values.ndim > len(dims):
            dims.append(f"grsd_bytes_{len(written)}")
        attributes = _split_attributes(variable.attrs, marks, name)
        parts["coords" if old in dataset.coords else "data_vars"][name] = xr.Variable(dims, values, attributes)
        written[name] = _as_characters(values) if values.dtype.kind == "U" else {"_FillValue": None}
    attributes = _split_attributes(dataset.attrs, marks, "")
    if any(marks.values()):
        attributes[MARK] = json.dumps(marks, sort_keys=True)
    return xr.Dataset(**parts, attrs=attributes), written


def decode(found: xr.Dataset) -> xr.Dataset:
    """Return the dataset from which ``encode`` made ``found``; any other dataset is returned unchanged."""
    attributes = dict(found.attrs)
    marks = json.loads(attributes.pop(MARK, "{}"))
    kinds, kept = marks.get("variables", {}), marks.get("attributes", {})
    names = {new: untagged(old) for new, old in marks.get("names", {}).items()}
    parts: dict[str, dict[Hashable, xr.Variable]] = {"coords": {}, "data_vars": {}}
    for name, variable in found.variables.items():
        values, dims = variable.values, [names.get(dim, dim) for dim in variable.dims]
        if name in kinds:
            values = _restored(values, kinds[name])
        own = _joined_attributes(dict(variable.attrs), kept.get(name, []))
        part = parts["coords" if name in found.coords else "data_vars"]
        part[names.get(name, name)] = xr.Variable(dims[: values.ndim], values, own)
    return xr.Dataset(**parts, attrs=_joined_attributes(attributes, kept.get("", [])))


def _short_names(dataset: xr.Dataset) -> dict[Hashable, str]:
    names = dict.fromkeys([*dataset.variables, *dataset.sizes])
    odd = 0
    for name in names:
        plain = isinstance(name, str) and NAME.fullmatch(name)
        odd += not plain
        names[name] = name if plain else f"grsd_name_{odd}"
    return names


def _stored(name: Hashable, variable: xr.Variable) -> tuple[np.ndarray, dict[str, str]]:
    """Return (values that netCDF can hold, marks to restore the original values; empty if they are unchanged)."""
    if not isinstance(variable.dtype, np.dtype):
        raise Unstorable(f"{name!r:.60} has the type {variable.dtype}")
    values = np.asarray(variable.values)
    dtype, kind = values.dtype, values.dtype.kind
    if kind in "iu" or (kind == "f" and dtype.itemsize in (4, 8)):
        return values.astype(dtype.newbyteorder("="), copy=False), {}
    if kind == "b":
        return values.astype(np.uint8), {"is": "bool"}
    if kind in "mM":
        return values.view(np.int64) if values.ndim else np.array(values.astype(np.int64)), {"is": dtype.str}
    if kind in "cfS" and dtype.itemsize:
        raw = np.frombuffer(values.tobytes(), np.uint8).reshape(*values.shape, dtype.itemsize)
        return raw, {"is": dtype.str}
    if kind in "USTO":
        if all(type(item) in (str, np.str_) and _is_text(item) for item in values.ravel().tolist()):
            return values.astype(str), {"is": "text" if kind == "U" else "object text"}
        try:
            items = [json.dumps(tagged(item)) for item in values.ravel().tolist()]
        except (Unstorable, RecursionError) as error:
            raise Unstorable(f"{name!r:.60} holds {error}") from None
        return np.array(items, dtype=str).reshape(values.shape), {"is": dtype.str if kind == "U" else "objects"}
    raise Unstorable(f"{name!r:.60} has the type {dtype}")


def _as_characters(values: np.ndarray) -> dict[str, object]:
    """Return the encoding of text as netCDF's character arrays, whose declared size is what the file really holds."""
    longest = max((len(item.encode()) for item in values.ravel().tolist()), default=0)
    return {"dtype": "S1", "char_dim_name": f"grsd_chars_{max(longest, 1)}"}


def _restored(values: np.ndarray, mark: Mapping[str, str]) -> np.ndarray:
    kind = mark["is"]
    if kind == "bool":
        return values.astype(bool)
    if kind in ("text", "object text"):
        return values.astype(str if kind == "text" else object)
    if kind == "objects" or kind.lstrip("<>|=").startswith("U"):
        items = [untagged(json.loads(item)) for item in values.ravel().tolist()]
        filled = np.empty(len(items), dtype=object)
        for index, item in enumerate(items):
            filled[index] = item
        return filled.reshape(values.shape).astype(object if kind == "objects" else str)
    dtype = np.dtype(kind)
    if dtype.kind in "mM":
        return values.astype(np.int64).astype(dtype)
    if dtype.kind not in "cfS":
        raise ValueError(f"no such dtype in a file: {kind!r:.40}")
    return np.frombuffer(values.tobytes(), dtype).reshape(values.shape[:-1]).copy()


def _split_attributes(attributes: Mapping, marks: dict[str, object], owner: str) -> dict[str, object]:
    """Return the attributes that netCDF holds unchanged, and record the others in ``marks``."""
    plain, odd = {}, []
    for name, value in attributes.items():
        own = isinstance(name, str) and NAME.fullmatch(name) and name not in RESERVED
        numbers = _numbers(value) if own else None
        if numbers is not None:
            plain[name] = numbers
            odd.append([tagged(name), type(value).__name__])
        elif own and _is_plain(value):
            plain[name] = value
        else:
            odd.append([tagged(name), [_tagged_attribute(name, value)]])
    if odd:
        marks["attributes"][owner] = odd
    return plain


def _joined_attributes(plain: dict, odd: list) -> dict:
    for name, value in odd:
        name = untagged(name)
        if isinstance(value, str):
            plain[name] = {"list": list, "tuple": tuple}[value](plain[name].tolist())
        else:
            plain[name] = untagged(value[0])
    return plain


def _tagged_attribute(name: object, value: object) -> object:
    try:
        return tagged(value)
    except (Unstorable, RecursionError) as error:
        raise Unstorable(f"the attribute {name!r:.60} is {error}") from None


def _attributes_as_text(attributes: Mapping, changed: list[str]) -> dict:
    kept = {}
    for name, value in attributes.items():
        try:
            tagged([name, value])
            kept[name] = value
        except (Unstorable, RecursionError):
            kept[str(name)] = str(value)
            changed.append(str(name))
    return kept


def _numbers(value: object) -> np.ndarray | None:
    """Return a list or tuple of several integers or several floats as an array, which netCDF can hold; else None."""
    if type(value) in (list, tuple) and 2 <= len(value) <= LONGEST:
        for kind, dtype in ((int, np.int64), (float, np.float64)):
            if all(type(item) is kind and (kind is float or _fits(item)) for item in value):
                return np.array(value, dtype=dtype)
    return None


def _is_plain(value: object) -> bool:
    if type(value) is str:
        return _is_text(value)
    if type(value) is int:
        return _fits(value)
    if isinstance(value, np.ndarray) and (value.ndim != 1 or not 2 <= value.size <= LONGEST):
        return False
    if isinstance(value, np.generic | np.ndarray):
        return value.dtype.isnative and (value.dtype.kind in "iu" or value.dtype in (np.float32, np.float64))
    return type(value) is float


def _fits(value: int) -> bool:
    return -(2**63) <= value < 2**63


def _is_text(value: str) -> bool:
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False
