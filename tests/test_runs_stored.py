"""What a file of results may hold, what is in its way, and what a stranger's file can do: nothing."""

import contextlib
import datetime
import errno
import hashlib
import io
import os
import re
import resource
import shutil
import subprocess
import sys
import time

import h5py
import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import planted
import pytest
import xarray as xr
from nbformat.v4 import new_code_cell, new_notebook
from test_runs_kept import OPTIONS, SMALL

import grsd
from grsd import cli, tables
from grsd.bench.figure import draw
from grsd.evidence import MARKS, Claim, Rule, judge, write_headlines, write_result
from grsd.files import UNFINISHED
from grsd.plotting import savefig
from grsd.reproduce import reproduce
from grsd.runs import Scratch, clean, members, obtain, train
from grsd.runs.compute import identity
from grsd.runs.netcdf import BadFile, from_bytes, to_bytes
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
    same = mine.dtype.kind == yours.dtype.kind == "U"  # as wide as the longest text, whatever the array had room for
    assert same or mine.dtype.newbyteorder("=") == yours.dtype
    assert (
        mine.tobytes() == yours.astype(mine.dtype).tobytes()
        if mine.dtype != object
        else mine.tolist() == yours.tolist()
    )
    assert to_bytes(found) == to_bytes(data)


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


# Things in the way


@pytest.fixture
def named(tmp_path):
    """(folder, the name of DRAW's file, its lock) with nothing there yet."""
    elsewhere = tmp_path / "elsewhere"
    path, _, _ = obtain(DRAW, planted.planted, elsewhere)
    folder = tmp_path / "shared"
    (folder / ".work").mkdir(parents=True)
    stem, _ = identity(DRAW, planted.planted)
    return folder, folder / path.name, folder / ".work" / f"{stem}.lock"


def loop(path):
    path.symlink_to(path.name)


@pytest.mark.skipif(os.name != "posix", reason="links, pipes")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkdir, "it is a folder, no file"),
        (os.mkfifo, "it is a pipe, no file"),
        (loop, "Too many levels of symbolic links"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device, no file"),
    ],
    ids=["folder", "pipe", "loop", "device"],
)
def test_what_stands_under_a_runs_name_is_passed_over(named, make, reason, capsys):
    folder, path, _ = named
    make(path)
    result = grsd.run(DRAW, planted.planted, folder=folder)
    assert result.attrs["exponent"] == 0.5
    said = capsys.readouterr().err.splitlines()
    assert f"grsd: {path}: it cannot be read ({reason}); it is not used" in said
    if make is loop:
        assert path.is_file()
        assert not path.is_symlink()
    else:
        assert "the result is returned, but cannot be kept" in said[-1]
        assert not path.is_file()
    assert all(line.startswith("grsd: ") for line in said)


@pytest.mark.skipif(os.name != "posix", reason="links")
@pytest.mark.parametrize("make", [os.mkdir, loop], ids=["folder", "loop"])
def test_what_stands_under_a_locks_name_is_passed_over(named, make, capsys):
    folder, path, lock = named
    make(lock)
    grsd.run(DRAW, planted.planted, folder=folder)
    assert path.is_file()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"grsd: {lock}: cannot be locked (")
    assert line.endswith("); computing without a lock")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can act as another user")
def test_another_users_files_are_passed_over(named, capsys):
    """Their lock, and their file without permission to read it, in a folder where everybody may write."""
    folder, path, lock = named
    lock.touch(mode=0o600)
    path.write_bytes(b"secret")
    path.chmod(0o600)
    for place in (folder, folder / ".work"):
        place.chmod(0o777)
    for place in folder.parents:
        if place.owner() == "root" and not place.stat().st_mode & 0o001:
            place.chmod(0o711)
    os.seteuid(65534)
    try:
        result = grsd.run(DRAW, planted.planted, folder=folder)
    finally:
        os.seteuid(0)
    assert result.attrs["exponent"] == 0.5
    said = capsys.readouterr().err
    assert f"grsd: {path}: it cannot be read (Permission denied); it is not used\n" in said
    assert f"grsd: {lock}: cannot be locked (Permission denied); computing without a lock\n" in said


def test_a_folder_that_cannot_be_is_refused_before_computing(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        grsd.run({"seed": 1}, planted.unkept, folder=tmp_path / "file" / "runs")
    assert cli.main(["run", *OPTIONS, "--folder", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# A full disk


@pytest.fixture(params=["tmpfs", "refused writes"])
def full(request, tmp_path, monkeypatch):
    """A folder; after ``full.fill()`` nothing more can be written to it, until ``full.empty()``."""
    folder = tmp_path / "disk"
    folder.mkdir()

    class Disk:
        path = folder

        @staticmethod
        def fill():
            if request.param == "tmpfs":
                with (folder / "filler").open("wb", buffering=0) as file:
                    for size in (2**16, 2**12, 1):
                        try:
                            while file.write(b"x" * size):
                                pass
                        except OSError:
                            pass
            else:
                monkeypatch.setattr("grsd.files.os.write", refuse)

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if request.param == "tmpfs":
        mounted = shutil.which("mount") and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, check=False
        )
        if not mounted or mounted.returncode:
            pytest.skip("no permission to mount a small disk")
    yield Disk
    if request.param == "tmpfs":
        subprocess.run(["umount", "-l", folder], check=True)


def claim(folder):
    rule = Rule("s", "at most", 1.0, "r")
    found = Claim("c", "a claim", "ours", "00_a", None, rule, "c")
    return found, judge(found, range(1000, 1008), [0.5] * 8, {})


def write_readme(folder):
    found, result = claim(folder)
    write_headlines(folder / "README.md", {"c": found}, {"c": result})


def bench_table():
    row = {"problem": "p", "samples": 1, "dtype": "float32", "method": "grsd", "cpu_s": 1.0, "peak_gib": 1.0}
    return pd.DataFrame([row | {"cpu_ratio": 1.0, "peak_ratio": 1.0, "note": ""}])


WRITERS = {
    "table": ("data/tables/00_a-b.csv", lambda folder: tables.save_table(xr.Dataset({"x": ("a", [1])}), "00_a-b")),
    "prediction": (
        "data/predictions/00_a-b.csv",
        lambda folder: tables.save_table(xr.Dataset({"x": ("a", [1])}), "00_a-b", "predictions"),
    ),
    "verdict": ("c.json", lambda folder: write_result(claim(folder)[1], folder)),
    "readme": ("README.md", write_readme),
    "figure": ("00_a-b.svg", lambda folder: savefig(plt.figure(), "00_a-b")),
    "second figure": ("00_a-b.png", lambda folder: savefig(plt.figure(), "00_a-b")),
    "benchmark": ("bench.svg", lambda folder: draw(bench_table(), folder / "bench.svg")),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_what_was_there(full, name, monkeypatch, capsys):
    mpl.use("Agg")
    monkeypatch.setattr(tables, "project", lambda: full.path)
    monkeypatch.setenv("GRSD_FIGURES", str(full.path))
    there, write = WRITERS[name]
    there = full.path / there
    there.parent.mkdir(parents=True, exist_ok=True)
    old = f"{MARKS[0]}\n{MARKS[1]}\n".encode()
    there.write_bytes(old)
    full.fill()
    with pytest.raises(OSError, match="No space left on device"):
        write(full.path)
    plt.close("all")
    assert ('"verdict": "holds"' in capsys.readouterr().out) == (name == "verdict"), "a measured verdict is printed"
    assert there.read_bytes() == old
    assert not [path for path in full.path.rglob("*") if UNFINISHED.fullmatch(path.name)]


def test_a_full_disk_loses_no_run(full, capsys):
    full.fill()
    result = grsd.run(SMALL, folder=full.path)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"grsd: train-\w+-\w+: the result is returned, but cannot be kept: .*No space left.*", line)
    xr.testing.assert_identical(result, grsd.run(SMALL, folder=full.path.parent / "elsewhere"))
    assert not list(full.path.glob("*.nc"))


def test_a_full_disk_stops_no_checkpointing_run(full, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules["grsd.runs.training"], "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    full.fill()
    result = grsd.run(SMALL, folder=full.path)
    assert result.sizes["time"] == 3
    first, second = capsys.readouterr().err.splitlines()
    assert "no checkpoint can be kept" in first
    assert "the result is returned, but cannot be kept" in second


def test_a_full_disk_of_the_command(full, capsys):
    """The table is printed where it cannot be written; other seeds' runs, kept before, stay."""
    command = ["run", *OPTIONS, "--workers", "1", "--folder", str(full.path / "runs")]
    assert cli.main([*command, "--seeds", "0"]) == 0
    before = sorted(path.name for path in (full.path / "runs").glob("*.nc"))
    full.fill()
    capsys.readouterr()
    assert cli.main([*command, "--seeds", "0-1", "--table", str(full.path / "t.csv")]) == 1
    said = capsys.readouterr()
    assert re.search(r"^seed 1: not kept, \d+\.\d s$", said.out, re.MULTILINE)
    header, *rows = said.out.splitlines()[2:]
    assert header.startswith("architecture,")
    assert len(rows) == 2
    kept_line, table_line = said.err.splitlines()
    assert "cannot be kept: [Errno 28] No space left on device" in kept_line
    assert table_line == f"grsd run: [Errno 28] No space left on device: '{full.path / 't.csv'}'"
    assert sorted(path.name for path in (full.path / "runs").glob("*.nc")) == before


def small_project(root, source="print(1)"):
    (root / "notebooks").mkdir(parents=True)
    (root / "notebooks" / "profiles.yaml").write_text("test: {}\ndefault: {}\nfull: {}\n")
    notebook = new_notebook(cells=[new_code_cell(source)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, root / "notebooks" / "00_first.ipynb")
    return root


def test_a_full_disk_of_an_executed_notebook(full, tmp_path, capsys):
    root = small_project(tmp_path / "project")
    output = full.path / "out"
    output.mkdir()
    (output / "00_first.ipynb").write_text("old")
    full.fill()
    (job,) = reproduce(where=root, output=output)
    assert job.failure.startswith("its executed copy: [Errno 28] No space left on device")
    assert (output / "00_first.ipynb").read_text() == "old"
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on the size of files here")
def test_workers_on_a_full_disk(tmp_path):
    """Files limited to 3000 bytes, in processes of their own: no crash, one line a run, every row of the table."""
    table = ["--folder", tmp_path / "f", "--table", tmp_path / "t.csv"]
    done = subprocess.run(
        [sys.executable, "-m", "grsd.cli", "run", *OPTIONS, "--seeds", "0-2", "--workers", "2", *table],
        capture_output=True, text=True, check=False, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 3, done.stderr
    assert all("cannot be kept: [Errno 27] File too large" in line for line in lines)
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 4


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


# Threads


def test_threads_are_decided_by_the_request(tmp_path):
    """One lost of three, computed again alone, with more cores than runs: the same bytes, one thread in the file."""
    specs = [{**DRAW, "seed": seed} for seed in range(3)]
    found = dict(members(specs, planted.threads_used, 2, None, tmp_path))
    before = sorted(path.name for path in tmp_path.glob("*.nc"))
    found[1].path.unlink()
    results = grsd.ensemble(specs, planted.threads_used, folder=tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.nc")) == before
    assert [result.attrs["threads"] for result in results] == [1, 1, 1]
    assert [int(result.torch) for result in results] == [1, 1, 1]
    assert all((result.blas == 1).all() for result in results)
    two = grsd.run(specs[0], planted.threads_used, threads=2, folder=tmp_path)
    assert (two.attrs["threads"], int(two.torch)) == (2, 2)
    assert len(list(tmp_path.glob("*.nc"))) == 4, "another number of threads is another run"
    assert int(grsd.run(specs[0], planted.threads_used, folder=tmp_path).torch) == 1


# What is left behind


def checkpoint(folder, stem):
    scratch = Scratch(folder / ".work" / stem, {})
    scratch.save("state", xr.Dataset({"x": 1}))
    (folder / ".work" / f"{stem}.lock").touch()
    return scratch.folder


def test_the_next_run_removes_what_is_left(tmp_path, capsys):
    """Of its finished run, and of the same experiment by other code; not of another experiment."""
    grsd.run(DRAW, planted.planted, folder=tmp_path)
    stem, _ = identity(DRAW, planted.planted)
    own, old = checkpoint(tmp_path, stem), checkpoint(tmp_path, f"{stem[:-16]}{'0' * 16}")
    other = checkpoint(tmp_path, f"planted-{'1' * 16}-{'0' * 16}")
    grsd.run(DRAW, planted.planted, folder=tmp_path)
    assert capsys.readouterr().err.splitlines() == [
        f"grsd: {old}: checkpoint of other code; removed",
        f"grsd: {own}: checkpoint of a finished run; removed",
    ]
    assert sorted((tmp_path / ".work").iterdir()) == [other, other.with_name(f"{other.name}.lock")]


def test_clean_removes_what_is_dead_and_nothing_else(tmp_path, capsys):
    from filelock import FileLock

    path, _, _ = obtain(SMALL, folder=tmp_path)
    stem, _ = identity(SMALL, train)
    finished = checkpoint(tmp_path, stem)
    old = checkpoint(tmp_path, f"train-{'1' * 16}-{'0' * 16}")
    held = checkpoint(tmp_path, f"train-{'2' * 16}-{'0' * 16}")
    waiting = checkpoint(tmp_path, f"planted-{'3' * 16}-{'0' * 16}")
    dead, foreign = tmp_path / f".grsd-{'0' * 16}.part", tmp_path / ".work" / "notes.txt"
    dead.write_text("x")
    foreign.write_text("not ours")
    (old / "notes.txt").write_text("not ours")
    with FileLock(held.with_name(f"{held.name}.lock")):
        assert cli.main(["clean", "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{dead}: unfinished file of a killed process",
        f"{old}: checkpoint of other code",
        f"{finished}: checkpoint of a finished run",
    ]
    left = {found.relative_to(tmp_path).as_posix() for found in tmp_path.rglob("*") if found.is_file()}
    assert {path.name, ".work/notes.txt", f".work/{old.name}/notes.txt"} <= left
    assert list(held.glob("state-*.nc"))
    assert list(waiting.glob("state-*.nc"))
    assert clean(tmp_path, unfinished=True)
    assert not list(tmp_path.glob(".work/*/state-*.nc"))
    assert cli.main(["clean", "--folder", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out == "grsd clean: nothing to remove\n"
