"""Convert labelled datasets to the bytes of a netCDF file, and back; a file is inspected before it is read."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Hashable, Mapping

import h5py
import numpy as np
import xarray as xr

from grsd.runs.encoding import decode, encode
from grsd.runs.values import Unstorable
from grsd.support.faults import is_slip

ENGINE = "h5netcdf"
DIMENSION_ONLY = b"This is a netCDF dimension but not a netCDF variable"
SLACK = 2**20
HEAP = re.compile(rb"GCOL\x01...(?=.{8})", re.DOTALL)  # HDF5's collections of texts and references, then their size
UNSIGNED = struct.Struct("<Q")


class BadFile(Exception):
    """Raised for bytes that are not a file of this package; the message gives the reason in a few words."""


def to_bytes(dataset: xr.Dataset) -> bytes:
    """The file of ``dataset``, made in memory; equal datasets give equal bytes.

    Errors: ``Unstorable`` for what no file can hold, see ``grsd.runs.encoding``.
    """
    return to_bytes_and_back(dataset)[0]


def to_bytes_and_back(dataset: xr.Dataset) -> tuple[bytes, xr.Dataset]:
    """The file of ``dataset``, and what ``from_bytes`` makes of it, without reading it. Errors: as ``to_bytes``."""
    encoded, written = encode(dataset)
    try:
        payload = bytes(encoded.to_netcdf(None, engine=ENGINE, encoding=written))
    except Exception as error:
        raise Unstorable(f"netCDF refuses it ({_first_line(error)})") from error
    return payload, decode(_as_read(encoded))


def _as_read(encoded: xr.Dataset) -> xr.Dataset:
    """``encoded`` as its file gives it: numbers in attributes are NumPy's, and texts are as long as the longest."""

    def values(variable: xr.Variable) -> np.ndarray:
        own = variable.values
        return own.astype(object).astype(str) if own.dtype.kind == "U" else own.copy()

    def attributes(given: Mapping[Hashable, object]) -> dict[Hashable, object]:
        return {name: value if isinstance(value, str) else np.array(value)[()] for name, value in given.items()}

    parts = {
        name: xr.Variable(variable.dims, values(variable), attributes(variable.attrs))
        for name, variable in encoded.variables.items()
    }
    whole = xr.Dataset(parts, attrs=attributes(encoded.attrs))
    return whole.set_coords([name for name in encoded.coords if name in parts])


def from_bytes(payload: bytes) -> xr.Dataset:
    """Return the dataset in ``payload``. Errors: ``BadFile`` for anything that ``to_bytes`` did not make."""
    try:
        _look_over_heaps(payload)
        with h5py.File(io.BytesIO(payload), "r") as file:
            _look_over(file, len(payload))
        with xr.open_dataset(io.BytesIO(payload), engine=ENGINE, decode_times=False) as file:
            return decode(file.load().drop_encoding())
    except BadFile:
        raise
    except Exception as error:  # HDF5 raises many kinds of exceptions for damaged files
        if is_slip(error):
            raise
        raise BadFile(f"it cannot be read as netCDF ({_first_line(error)})") from None


def _look_over_heaps(payload: bytes) -> None:
    """Refuse a heap that has an entry of size zero, since HDF5 would read it for ever."""
    for found in HEAP.finditer(payload):
        (size,) = UNSIGNED.unpack_from(payload, found.end())
        at, end = found.end() + 8, min(found.start() + size, len(payload))
        while at + 16 <= end:
            (length,) = UNSIGNED.unpack_from(payload, at + 8)
            free = payload[at : at + 2] == b"\0\0"
            step = length if free else 16 + -(-length // 8) * 8
            if step < 16 or at + step > end:
                raise BadFile("its heap is damaged")
            at += step


def _look_over(file: h5py.File, size: int) -> None:
    """Refuse groups, links, numbers in other files, packed numbers, and more declared numbers than bytes."""
    for name in file:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise BadFile(f"{name!r:.60} is a link, which is not followed")
        if not isinstance(file[name], h5py.Dataset):
            raise BadFile(f"{name!r:.60} is no variable")
    _look_at_attributes(file, size)
    for name in file:
        variable, properties = file[name], file[name].id.get_create_plist()
        _look_at_attributes(variable, size)
        if _is_dimension_only(variable):
            continue
        if properties.get_external_count() or variable.is_virtual:
            raise BadFile(f"the numbers of {name!r:.60} are in another file, which is not read")
        if variable.dtype.kind not in "iufS":
            raise BadFile(f"{name!r:.60} has the type {variable.dtype}, which no file made here has")
        declared = variable.size * variable.dtype.itemsize
        if properties.get_nfilters() or not declared <= variable.id.get_storage_size() <= size:
            raise BadFile(f"{name!r:.60} promises {declared} bytes, more than the file holds")


def _look_at_attributes(of: h5py.HLObject, size: int) -> None:
    """Refuse attributes that promise more bytes than the file has: texts lie elsewhere, and many can share one."""
    total = 0.0
    for name in of.attrs:
        attribute = of.attrs.get_id(name)
        text = h5py.check_string_dtype(attribute.dtype)
        total += float(np.prod(attribute.shape, dtype=float)) * attribute.dtype.itemsize
        if text is not None and text.length is None:
            if attribute.shape not in ((), (1,)):
                raise BadFile(f"the attribute {name!r:.60} is a list of texts, which no file made here has")
            total += len(of.attrs[name]) if total <= size + SLACK else 0
        if total > size + SLACK:
            raise BadFile("its attributes promise more bytes than the file holds")


def _is_dimension_only(variable: h5py.Dataset) -> bool:
    said = variable.attrs.get("NAME", b"")
    return isinstance(said, bytes) and said.startswith(DIMENSION_ONLY)


def _first_line(error: Exception) -> str:
    return f"{(str(error).splitlines() or [type(error).__name__])[0]:.100}"
