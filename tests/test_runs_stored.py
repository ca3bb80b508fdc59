"""What a file of results may hold, and what a stranger's file can do: nothing."""

import contextlib
import datetime
import hashlib
import io
import os
import re
import time

import h5py
import numpy as np
import pandas as pd
import planted
import pytest
import xarray as xr

import grsd
from grsd.runs import obtain
from grsd.runs.compute import identity
from grsd.runs.netcdf import BadFile, from_bytes, to_bytes, to_bytes_and_back
from grsd.runs.store import load
from grsd.runs.values import Unstorable, tagged, untagged

DRAW = {"exponent": 0.5, "draws": 3, "seed": 0}


def objects(*items):
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


ATTRIBUTES = {
    "none": None, "true": True, "numpy bool": np.bool_(False), "dict": {"a": 1, 2: None, (3, 4): [True]},
    "ragged": [[1.0], [2.0, 3.0]], "bytes": b"\0a", "datetime": datetime.datetime(2000, 1, 2, 3, 4, 5, 6),
    "aware": datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC), "date": datetime.date(2000, 1, 1),
    "timedelta": datetime.timedelta(1, 2, 3), "complex": 1 - 2j, "numpy complex": np.complex64(1j), "one": [1.5],
    "numbers": [1.5, 2.5], "whole": (1, 2), "mixed": [1, 2.5, "a", None], "texts": ["a", "b"], "nothing": [],
    "large": 10**30, "square": np.eye(2), "datetime64": np.datetime64("2000-01-01", "ns"), "empty": "",
    "nul": "a\0b", "surrogate": "\ud800", "long text": "x" * 10**5, "many": list(range(5000)),
    "a/b": 1, "": 2, 7: "seven", "coordinates": "x", "NAME": "n", "_FillValue": 3, "unicode": "é λ",
}  # fmt: skip
VARIABLES = {
    "float64": np.array([1.0, np.nan, -0.0, 5e-324]), "float32": np.ones(4, np.float32),
    "big endian": np.arange(4, dtype=">i4"),
    "uint64": np.full(4, 2**64 - 1, np.uint64), "bool": np.array([True, False, True, True]),
    "complex128": np.array([1j, 2, 3, np.nan]), "float16": np.arange(4, dtype=np.float16),
    "longdouble": np.array([1, 2, 3, 4], np.longdouble) / 3, "bytes": np.array([b"a\0b", b"", b"c", b"d"]),
    "text": np.array(["é", "", "a\nb", "long"]), "text with nul": np.array(["a\0b", "c", "d", "e"]),
    "datetime64": np.array(["2000-01-01", "NaT", "1700-01-01", "2262-01-01"], "M8[ns]"),
    "timedelta64": np.array([1, -2, 3, 2**62], "m8[s]"), "objects": objects(None, {"a": (1, b"x")}, [1, [2]], "text"),
    "object texts": objects("a", "b", "", "é"), "nothing": np.zeros((4, 0)), "a/b": np.arange(4), "": np.arange(4),
    5: np.arange(4),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTRIBUTES, ids=repr)
def test_an_attribute_is_read_back_equal(name):
    """Of the dataset and of a variable; the type as well, but for Python's plain numbers."""
    value = ATTRIBUTES[name]
    data = xr.Dataset({"x": ("a", [1.0, 2.0], {name: value})}, attrs={name: value})
    found = from_bytes(to_bytes(data))
    for attributes in (found.attrs, found.x.attrs):
        assert list(attributes) == [name]
        assert np.array_equal(attributes[name], value) if isinstance(value, np.ndarray) else attributes[name] == value
        assert type(value) in (int, float) or type(attributes[name]) is type(value)
    assert to_bytes(found) == to_bytes(data)


@pytest.mark.parametrize("name", VARIABLES, ids=repr)
@pytest.mark.parametrize("place", ["variable", "coordinate", "scalar"])
def test_a_variable_is_read_back_equal(name, place):
    values = VARIABLES[name]
    if place == "scalar":
        values = values.ravel()[:1].reshape(()) if values.size else np.array(0.0)
        data = xr.Dataset({name: ((), values)})
    else:
        data = xr.Dataset({name: (("a", "b")[: values.ndim], values)})
        data = data.set_coords(name) if place == "coordinate" else data
    found = from_bytes(to_bytes(data))
    assert list(found.variables) == list(data.variables)
    assert set(found.coords) == set(data.coords)
    mine, yours = data[name].values, found[name].values
    assert mine.dtype.kind == yours.dtype.kind
    assert mine.dtype.kind == "U" or mine.dtype.newbyteorder("=") == yours.dtype
    assert (
        mine.tobytes() == yours.astype(mine.dtype).tobytes()
        if mine.dtype != object
        else mine.tolist() == yours.tolist()
    )
    assert to_bytes(found) == to_bytes(data)


def same(one, other):
    """Whether two attributes or arrays have one type and the same bytes."""
    if isinstance(one, np.ndarray | np.generic):
        return (
            type(one) is type(other)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and (one.tolist() == other.tolist() if one.dtype == object else one.tobytes() == other.tobytes())
        )
    return type(one) is type(other) and one == other


def assert_the_same(one, other):
    """Of two datasets: the order of variables and dimensions, types, bytes, attributes, coordinates, indexes."""
    assert list(one.variables) == list(other.variables)
    assert dict(one.sizes) == dict(other.sizes)
    assert list(one.coords) == list(other.coords)
    assert list(one.indexes) == list(other.indexes)
    for mine, yours in [(one, other), *((one[name].variable, other[name].variable) for name in one.variables)]:
        assert list(mine.attrs) == list(yours.attrs)
        assert all(same(mine.attrs[name], yours.attrs[name]) for name in mine.attrs)
        assert not mine.encoding
        assert not yours.encoding
    for name in one.variables:
        assert one[name].dims == other[name].dims
        assert same(one[name].values, other[name].values), name


@pytest.mark.parametrize("name", [*ATTRIBUTES, *VARIABLES], ids=repr)
def test_what_was_written_is_what_would_be_read(name):
    """The result of a run is not read from the file that was just written."""
    values = VARIABLES.get(name, np.arange(4.0))
    data = xr.Dataset(
        {
            "z": ((), values.ravel()[:1].reshape(()) if values.size else 1.0),
            name: (("b", "a")[: values.ndim], values),
            "short": ("b", np.array(["u", "v", "w", "x"], "U20"), {"units": "1", "number": 3, "share": 0.5}),
        },
        {"y": ("b", values if values.ndim == 1 else np.arange(4)), "b": [3, 1, 2, 0], "c": 2.5},
        {name: ATTRIBUTES.get(name, 7), "float": 1.5, "small": np.float32(2.5), "int": np.int16(3)},
    )
    payload, kept = to_bytes_and_back(data)
    assert payload == to_bytes(data)
    assert_the_same(kept, from_bytes(payload))
    for variable in kept.variables.values():
        assert not any(np.shares_memory(variable.values, mine.values) for mine in data.variables.values())


@pytest.mark.parametrize("texts", [[], [""], ["", "long"]], ids=repr)
def test_texts_that_were_written_are_those_that_would_be_read(texts):
    data = xr.Dataset({"x": ("a", np.array(texts, "U9")), "scalar": ((), np.array("é", "U9"))})
    payload, kept = to_bytes_and_back(data)
    assert_the_same(kept, from_bytes(payload))


def test_what_other_readers_see_is_plain_netcdf():
    data = xr.Dataset(
        {"x": ("a", [1.0, 2.0], {"units": "seconds"})}, {"a": ["u", "v"]}, {"widths": [1.0, 2.0], "odd": None}
    )
    with xr.open_dataset(io.BytesIO(to_bytes(data)), decode_timedelta=False) as found:
        assert found.x.values.tolist() == [1.0, 2.0]
        assert found.x.attrs == {"units": "seconds"}
        assert found.a.values.tolist() == ["u", "v"]
        assert found.attrs["widths"].tolist() == [1.0, 2.0]
        assert set(found.attrs) == {"widths", "grsd_encoding"}


def test_what_no_file_can_hold_says_so():
    index = pd.MultiIndex.from_product([[1, 2], [3, 4]], names=["p", "q"])
    for data, message in (
        (xr.Dataset(coords=xr.Coordinates.from_pandas_multiindex(index, "a")), "'a' is a MultiIndex"),
        (xr.Dataset({"x": ("a", objects(object()))}), "'x' holds a value of type object"),
        (xr.Dataset(attrs={"f": len}), "the attribute 'f' is a value of type builtin_function_or_method"),
    ):
        with pytest.raises(Unstorable, match=message):
            to_bytes(data)
    loop = []
    loop.append(loop)
    with pytest.raises(Unstorable, match="the attribute 'loop' is maximum recursion"):
        to_bytes(xr.Dataset(attrs={"loop": loop}))
    with pytest.raises(ValueError, match="no such kind of value"):
        untagged({"pickle": "x"})
    with pytest.raises(ValueError, match="no such dtype in a file"):
        untagged({"array": ["|O", [1], "00" * 8]})
    assert untagged(tagged({"a": (1, [2])})) == {"a": (1, [2])}


def test_a_run_gives_the_same_computed_or_read(tmp_path, capsys):
    """Odd attributes and types; what has no place in a file is its text in both."""
    first = grsd.run({"seed": 1}, planted.odd, folder=tmp_path)
    assert re.fullmatch(
        r"grsd: odd-\w+-\w+: attributes that no file can hold are kept as text: function_used\n",
        capsys.readouterr().err,
    )
    second = grsd.run({"seed": 1}, planted.odd, folder=tmp_path)
    assert len(list(tmp_path.glob("*.nc"))) == 1
    xr.testing.assert_identical(first, second)
    assert first.attrs["settings"] == second.attrs["settings"] == {"flag": True, "nothing": None}
    assert first.attrs["function_used"] == second.attrs["function_used"] == str(len)
    assert first.answer.dtype == second.answer.dtype == bool


def test_a_result_that_no_file_can_hold_is_returned(tmp_path, capsys):
    """From this process and from a worker, once each, with one line; `ensemble` does not compute it again."""
    result = grsd.run({"seed": 1}, planted.unkept, folder=tmp_path)
    assert result.x.values[0] == {1, 2}
    assert re.fullmatch(
        r"grsd: unkept-\w+-\w+: the result is returned, but cannot be kept: 'x' holds a value of type set\n",
        capsys.readouterr().err,
    )
    assert not list(tmp_path.glob("*.nc"))
    found = grsd.ensemble([{"seed": 1}, {"seed": 2}], planted.unkept, workers=2, folder=tmp_path)
    assert [member.x.values[0] for member in found] == [{1, 2}, {2, 3}]
    assert len((tmp_path / "calls").read_text()) == 3


def test_a_spec_that_cannot_be_named_is_refused_before_computing(tmp_path):
    for spec in ({"a": {"b": 1}}, {"a": b"x"}, {"a": datetime.date(2000, 1, 1)}, {"a": 1j}, {1: 2}):
        with pytest.raises(TypeError, match=r"^run\(spec\): "):
            grsd.run(spec, planted.unkept, folder=tmp_path)
    assert not list(tmp_path.iterdir())


# A stranger's file


def stranger(folder, write):
    """A file under the right name with the right digest, as anybody could make one."""
    stem, marks = identity(DRAW, planted.planted)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs.update(marks)
        write(file)
    payload = buffer.getvalue()
    path = folder / f"{stem}-{hashlib.sha256(payload).hexdigest()}.nc"
    path.write_bytes(payload)
    return path


def external_link(file):
    file["draw"] = h5py.ExternalLink("/etc/other.h5", "secret")


def soft_link(file):
    file["x"] = np.ones(3)
    file["draw"] = h5py.SoftLink("/x")


def external_storage(file):
    file.create_dataset("draw", (10,), "u1", external=[("/etc/passwd", 0, 10)])


def virtual(file):
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "secret", (3,))
    file.create_virtual_dataset("draw", layout)


def packed(file):
    file.create_dataset("draw", (10**6,), "f8", compression="gzip", data=np.zeros(10**6))


def unwritten(file):
    file.create_dataset("draw", (10**12,), "f8")


def in_pieces(file):
    file.create_dataset("draw", (10**12,), "f8", chunks=(10**6,))


def texts(file):
    file.create_dataset("draw", (3,), h5py.string_dtype(), data=["a"] * 3)


def folder_inside(file):
    file.create_group("draw")


def many_texts(file):
    file.attrs["texts"] = ["x" * 1000] * 50


STRANGERS = {
    external_link: "'draw' is a link, which is not followed",
    soft_link: "'draw' is a link, which is not followed",
    external_storage: "the numbers of 'draw' are in another file, which is not read",
    virtual: "the numbers of 'draw' are in another file, which is not read",
    packed: "'draw' promises 8000000 bytes, more than the file holds",
    unwritten: "'draw' promises 8000000000000 bytes, more than the file holds",
    in_pieces: "'draw' promises 8000000000000 bytes, more than the file holds",
    texts: "'draw' has the type object, which no file made here has",
    folder_inside: "'draw' is no variable",
    many_texts: "the attribute 'texts' is a list of texts, which no file made here has",
}


@pytest.mark.parametrize("write", STRANGERS, ids=lambda write: write.__name__)
def test_a_strangers_file_is_not_used(tmp_path, write, capsys):
    path = stranger(tmp_path, write)
    begun = time.process_time()
    stem, marks = identity(DRAW, planted.planted)
    assert load(tmp_path, stem, marks) is None
    assert time.process_time() - begun < 2
    assert capsys.readouterr().err == f"grsd: {path}: {STRANGERS[write]}; it is not used\n"


def test_a_damaged_file_is_one_line_whatever_hdf5_says(tmp_path, capsys):
    """Bytes changed all over a sound file, under the digest of the changed bytes: read as it is or said in a line."""
    path, _, _ = obtain(DRAW, planted.planted, tmp_path)
    sound, (stem, marks) = path.read_bytes(), identity(DRAW, planted.planted)
    generator, refused = np.random.default_rng(0), 0
    for _ in range(150):
        payload = bytearray(sound)
        for place in generator.integers(0, 3000, 4):
            payload[place] ^= int(generator.integers(1, 256))
        with contextlib.suppress(BadFile):
            from_bytes(bytes(payload))
            continue
        refused += 1
    assert refused > 50
    bad = tmp_path / "bad"
    bad.mkdir()
    header = bytearray(sound)
    header[8:200] = os.urandom(192)
    (bad / f"{stem}-{hashlib.sha256(header).hexdigest()}.nc").write_bytes(header)
    assert load(bad, stem, marks) is None
    assert re.fullmatch(r"grsd: \S+: it cannot be read as netCDF \(.*\); it is not used\n", capsys.readouterr().err)


def test_a_heap_that_hdf5_would_read_for_ever_is_refused():
    """An entry of no size: the reason for looking at the heaps before HDF5 does."""
    payload = bytearray(to_bytes(xr.Dataset({"x": ("a", [1.0])}, attrs={"text": "some text"})))
    at = payload.index(b"GCOL") + 16
    payload[at : at + 2], payload[at + 8 : at + 16] = b"\0\0", bytes(8)
    with pytest.raises(BadFile, match="its heap is damaged"):
        from_bytes(bytes(payload))
