"""Data sets that are fetched only on asking: their formats, their hashes, and one true line for whatever is wrong."""

import gzip
import io
import json
import os
import re
import socket
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from archives import SAMPLES, cifar, cifar5m, contents, entries, idx, npz, pictures, served, tar

import grsd
from grsd import cli
from grsd.commands.data import FETCH
from grsd.datasets import DataNotFound, cifar10, dataset, fetch, readers, reads, remote
from grsd.datasets.readers import BATCHES, PIXELS
from grsd.runs import fingerprint

ROOT = Path(__file__).resolve().parents[1]
SPEC = {"task": "parity", "width": 4, "depth": 2, "samples": 6, "times": (0.1, 1.0, 2)}


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """An empty place for data sets, tiny published files, and no connection but to this machine."""
    monkeypatch.setattr(remote, "SETS", entries())
    for module in ("grsd.datasets.fetched", "grsd.datasets.download"):
        monkeypatch.setattr(f"{module}.SETS", remote.SETS)
    monkeypatch.setenv("GRSD_DATA", str(tmp_path / "kept"))
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    connect = socket.socket.connect

    def near(self, address):
        assert address[0] == "127.0.0.1", address
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", near)
    return tmp_path / "kept"


def at(address, monkeypatch):
    sets = entries(address)
    monkeypatch.setattr(remote, "SETS", sets)
    for module in ("grsd.datasets.fetched", "grsd.datasets.download"):
        monkeypatch.setattr(f"{module}.SETS", sets)


def pages():
    published = entries()
    return {
        f"/{name}/{file.name}": payload
        for name, payloads in contents().items()
        for file, payload in zip(published[name].files, payloads, strict=True)
    }


def folder_of_files(folder):
    for path, payload in pages().items():
        (folder / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        (folder / path[1:]).write_bytes(payload)
    return folder


def one_line(capsys):
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_readers_give_back_what_was_written():
    images, labels = pictures(PIXELS)
    found = readers.read_cifar(cifar(images, labels))
    assert np.array_equal(found[0], images)
    assert np.array_equal(found[1], labels)
    grey, labels = pictures(784)
    found = readers.read_idx(idx(grey.reshape(-1, 28, 28)), idx(labels))
    assert np.array_equal(found[0], grey)
    assert np.array_equal(found[1], labels)
    for kind in (np.uint8, np.int64, ">i4"):
        found = readers.read_cifar5m(io.BytesIO(cifar5m(images, labels.astype(kind))), 30)
        assert np.array_equal(found[0], images[:30])
        assert np.array_equal(found[1], labels[:30])
    assert np.array_equal(readers.read_subset(readers.write_subset(*found))[0], found[0])
    assert readers.write_subset(*found) == readers.write_subset(*found)


class Executed:
    def __reduce__(self):
        return os.mkdir, ("executed",)


IMAGES, LABELS = pictures(PIXELS)
UPRIGHT = np.zeros((40, 32, 32, 3), np.uint8)
LINK = tarfile.TarInfo(BATCHES[0])
LINK.type, LINK.linkname = tarfile.SYMTYPE, "../../../etc/passwd"
LINKED = io.BytesIO()
with tarfile.open(fileobj=LINKED, mode="w:gz") as _archive:
    _archive.addfile(LINK)


@pytest.mark.parametrize(
    ("read", "line"),
    [
        (lambda: readers.read_cifar(b"no archive"), "expected CIFAR-10's binary version, a tar.gz with cifar-10-b"),
        (lambda: readers.read_cifar(cifar(IMAGES, LABELS)[:-900]), "expected CIFAR-10's binary version, a tar.gz with"),
        (lambda: readers.read_cifar(tar({"cifar-10-batches-py/data_batch_1": b"x"})), "expected CIFAR-10's binary v"),
        (lambda: readers.read_cifar(LINKED.getvalue()), "expected CIFAR-10's binary version, a tar.gz with"),
        (lambda: readers.read_cifar(tar(dict.fromkeys(BATCHES, bytes(3072)))), "expected records of 3073 bytes in "),
        (lambda: readers.read_cifar(cifar(IMAGES, LABELS + 1)), "expected labels from 0 to 9, found 1 to 10"),
        (lambda: readers.read_idx(b"text", b"text"), "expected a gzip file of the idx format: Not a gzipped file"),
        (lambda: readers.read_idx(gzip.compress(b"text"), b""), "expected the idx format with 3 dimensions of bytes, "),
        (lambda: readers.read_idx(idx(LABELS), idx(LABELS)), "expected the idx format with 3 dimensions of bytes, it"),
        (
            lambda: readers.read_idx(gzip.compress(gzip.decompress(idx(UPRIGHT[..., 0]))[:-5]), idx(LABELS)),
            "expected 40960 bytes after the sizes [40, 32, 32], found 40955",
        ),
        (lambda: readers.read_idx(idx(UPRIGHT[:9, ..., 0]), idx(LABELS)), "expected a label for each of 9 images, fo"),
        (lambda: readers.read_cifar5m(io.BytesIO(b"no zip"), 5), "expected a part of CIFAR-5M, an npz with X and Y: F"),
        (lambda: readers.read_cifar5m(io.BytesIO(npz(X=UPRIGHT)), 5), "expected a part of CIFAR-5M, an npz with X a"),
        (lambda: readers.read_cifar5m(io.BytesIO(npz(X=IMAGES, Y=LABELS)), 5), "expected X of shape (n, 32, 32, 3) a"),
        (lambda: readers.read_cifar5m(io.BytesIO(npz(X=UPRIGHT, Y=LABELS)), 50), "expected at least 50 images, found"),
        (lambda: readers.read_cifar5m(io.BytesIO(npz(X=UPRIGHT, Y=LABELS / 1)), 5), "expected Y of at least 5 whole"),
        (
            lambda: readers.read_cifar5m(io.BytesIO(npz(X=UPRIGHT, Y=np.array([Executed()] * 40, object))), 5),
            "expected Y of at least 5 whole numbers, found (40,) and object",
        ),
    ],
)
def test_other_bytes_are_refused_and_nothing_is_executed_or_unpacked(read, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^{re.escape(line)}") as caught:
        read()
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    trap, place = Executed().__reduce__()
    trap(*place)
    assert (tmp_path / "executed").is_dir()


@pytest.mark.parametrize("name", remote.SETS)
def test_fetched_once_then_read_as_published(name, kept, monkeypatch, capsys):
    with served(pages()) as (address, asked):
        at(address, monkeypatch)
        for _ in range(2):
            assert cli.main(["data", "fetch", name]) == 0
        assert len(asked) == len(remote.SETS[name].files)
    shown = capsys.readouterr().out.splitlines()
    assert (
        shown[0] == f"{name}: downloading {remote.SETS[name].files[0].url} ({'3 GB' if name == 'cifar5m' else '0 MB'})"
    )
    assert shown[-1] == f"{name}: in {kept / name}"
    assert len(list((kept / name).iterdir())) == len(remote.SETS[name].files)
    data = dataset[name].load()(SAMPLES, seed=3)
    pixels = {"cifar10": pictures(PIXELS), "mnist": pictures(784), "fashion-mnist": pictures(784, 1)}
    images, labels = pixels.get(name) or [part[:SAMPLES] for part in pictures(PIXELS, 1, SAMPLES + 7)]
    order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(3))
    expected = torch.from_numpy(images).double()
    expected = expected - expected.mean(0)
    expected = expected / expected.square().mean().sqrt()
    assert (data.inputs - expected[order]).abs().max() < 1e-12
    assert torch.equal(data.targets.argmax(1), torch.from_numpy(labels)[order])
    assert torch.equal(dataset[name].load()(7, seed=3, task="parity").inputs, data.inputs[:7])
    assert torch.equal(grsd.Spec(data=name, **SPEC).batch().targets, dataset[name].load()(6, task="parity").targets)


def test_files_that_lie_somewhere_are_taken(kept, tmp_path, capsys):
    """From a folder of all sets or of one; no connection is made."""
    elsewhere = folder_of_files(tmp_path / "elsewhere")
    assert cli.main(["data", "fetch", "cifar10", "--from", str(elsewhere)]) == 0
    assert cli.main(["data", "fetch", "mnist", "--from", str(elsewhere / "mnist")]) == 0
    assert cli.main(["data", "fetch", "cifar5m", "--from", str(elsewhere)]) == 0
    assert (elsewhere / "cifar5m" / "part0.npz").is_file()
    assert "downloading" not in capsys.readouterr().out
    assert cifar10(9).inputs.shape == (9, 3072)
    assert cli.main(["data", "fetch"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition(": ")[2] for line in lines[:4]] == ["here", "here", "here", "not here"]
    assert lines[4] == f"kept in {kept}"


def test_nothing_is_downloaded_unasked(kept, capsys, tmp_path, monkeypatch):
    """Absent: one line, before anything is computed or made, whoever asks."""
    kept.mkdir()
    monkeypatch.setattr("pooch.core.stream_download", None)
    runs = tmp_path / "runs"
    path = kept / "cifar10" / "cifar-10-binary.tar.gz"
    line = f"cifar10: it is not on this machine, there is no {path}; fetch it with: grsd data fetch cifar10"
    spec = grsd.Spec(data="cifar10", **SPEC)
    for call in (
        lambda: cifar10(5),
        spec.batch,
        lambda: grsd.run(spec, folder=runs),
        lambda: grsd.ensemble([spec, grsd.Spec(data="cifar10")], folder=runs, workers=2),
    ):
        with pytest.raises(DataNotFound, match=f"^{re.escape(line)}$"):
            call()
    assert cli.main(["run", "--data", "cifar10", "--seeds", "0-9", "--folder", str(runs)]) == 2
    assert one_line(capsys) == f"grsd run: {line}\n"
    assert not runs.exists()
    assert list(kept.iterdir()) == []


def test_a_stored_run_needs_no_data(kept, tmp_path):
    fetch("cifar10", folder_of_files(tmp_path / "elsewhere"))
    spec = grsd.Spec(data="cifar10", **SPEC)
    stored = grsd.run(spec, folder=tmp_path, progress=False)
    (kept / "cifar10" / "cifar-10-binary.tar.gz").unlink()
    assert grsd.run(spec, folder=tmp_path, progress=False).identical(stored)


def test_the_key_of_a_run_covers_the_file(kept, tmp_path, monkeypatch):
    """Of published files and of the subset, which has no published sha256; digits read no file."""
    elsewhere = folder_of_files(tmp_path / "elsewhere")

    def keys():
        return [fingerprint.fingerprint(dataset[name].load()) for name in ("cifar10", "cifar5m", "prose", "digits")]

    absent = keys()
    fetch("cifar5m", elsewhere)
    first = keys()
    other = pictures(PIXELS, 5, SAMPLES)
    (elsewhere / "cifar5m" / "part0.npz").write_bytes(cifar5m(*other))
    for path in (kept / "cifar5m").iterdir():
        path.unlink()
    fetch("cifar5m", elsewhere)
    second = keys()
    monkeypatch.setitem(remote.SETS, "cifar10", remote.Remote("cifar10", "", SAMPLES, (remote.File("x/y", "0" * 64),)))
    monkeypatch.setattr("grsd.datasets.text.text", lambda: "another text")
    third = keys()
    assert len({absent[1], first[1], second[1]}) == 3
    assert absent[0] == second[0] != third[0]
    assert second[2] != third[2]
    assert absent[3] == third[3]


def spoilt(path, kind):
    content = path.read_bytes()
    if kind == "cut":
        path.write_bytes(content[:-100])
    elif kind == "damaged":
        path.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    else:
        path.unlink()
        path.mkdir() if kind == "a folder" else path.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("cifar10", "cut", r" is cut: it has \d+ of \d+ bytes; fetch it again with: grsd data fetch cifar10"),
        ("cifar10", "damaged", r" is damaged: its sha256 is \w{12}\.\.\., not \w{12}\.\.\.; fetch it again with: .*"),
        ("cifar5m", "cut", r"-\w{64}\.npz is damaged: its sha256 is .*; fetch it again with: grsd data fetch cifar5m"),
        (
            "mnist",
            "damaged",
            r"train-images-idx3-ubyte\.gz is damaged: its sha256 is .*; fetch it again with: .* mnist",
        ),
        ("mnist", "a folder", r": it is not on this machine, there is no .*idx3-ubyte\.gz; fetch it with: .* mnist"),
        ("fashion-mnist", "moved", r": it is not on this machine, there is no .*; fetch it with: .* fashion-mnist"),
    ],
)
def test_a_copy_that_is_not_whole(name, kind, said, kept, tmp_path, capsys):
    """One line at each use, and fetching again mends it."""
    elsewhere = folder_of_files(tmp_path / "elsewhere")
    fetch(name, elsewhere)
    path = remote.SETS[name].paths()[0]
    spoilt(path, kind)
    command = ["run", "--data", name, "--samples", "6", "--folder", str(tmp_path / "runs"), "--workers", "1"]
    assert cli.main(command) in {1, 2}
    assert re.fullmatch(rf"grsd run: .*{name}.*{said}\n", one_line(capsys))
    if kind == "a folder":
        path.rmdir()
    assert cli.main(["data", "fetch", name, "--from", str(elsewhere)]) == 0
    assert dataset[name].load()(5).inputs.shape[0] == 5


@pytest.mark.parametrize("number", range(6))
def test_a_folder_without_the_files(number, kept, tmp_path, capsys):
    elsewhere = folder_of_files(tmp_path / "elsewhere")
    spoilt(elsewhere / "cifar10" / "cifar-10-binary.tar.gz", "cut")
    spoilt(elsewhere / "mnist" / "train-labels-idx1-ubyte.gz", "damaged")
    spoilt(elsewhere / "cifar5m" / "part0.npz", "cut")
    (elsewhere / "fashion-mnist" / "train-images-idx3-ubyte.gz").unlink()
    arguments, line = [
        (["cifar10", "--from", str(elsewhere / "none")], f"--from: there is no folder {elsewhere / 'none'}\n"),
        (["cifar10", "--from", str(tmp_path)], f"--from: there is no cifar-10-binary.tar.gz in {tmp_path}; it comes f"),
        (["cifar10", "--from", str(elsewhere)], f"--from: {elsewhere}/cifar10/cifar-10-binary.tar.gz is cut: it has "),
        (["mnist", "--from", str(elsewhere)], f"--from: {elsewhere}/mnist/train-labels-idx1-ubyte.gz is damaged: its"),
        (["cifar5m", "--from", str(elsewhere)], f"cifar5m: {elsewhere}/cifar5m/part0.npz: expected a part of CIFAR-5M"),
        (["fashion-mnist", "--from", str(elsewhere)], "--from: there is no train-images-idx3-ubyte.gz in "),
    ][number]
    assert cli.main(["data", "fetch", *arguments]) == 2
    assert one_line(capsys).startswith(f"grsd data: {line}")
    assert not [path for path in kept.rglob("*") if path.is_file() and "images" not in path.name]
    with pytest.raises(DataNotFound):
        dataset[arguments[0]].load()(5)


@pytest.mark.parametrize(
    ("page", "line"),
    [
        (
            404,
            "cannot be downloaded: the server answered 404 Not Found; download it elsewhere, then: grsd data fetch mn",
        ),
        (500, "cannot be downloaded: the server answered 500 Internal Server Error; download it elsewhere, then: grsd"),
        (
            (b"half", 9000),
            "cannot be downloaded: the connection broke on the way; download it elsewhere, then: grsd da",
        ),
        (
            b"another file",
            "is not the published file (its sha256 differs: cut on the way, or another file); nothing wa",
        ),
        (
            None,
            "cannot be downloaded: no connection; download it elsewhere, then: grsd data fetch mnist --from FOLDER\n",
        ),
    ],
)
def test_a_download_that_fails(page, line, kept, monkeypatch, capsys):
    """Tried three times, said once, and nothing is left; a copy that was there before is not touched."""
    with served({"/mnist/train-images-idx3-ubyte.gz": page}) as (address, asked):
        if page is not None:
            at(address, monkeypatch)
        assert cli.main(["data", "fetch", "mnist"]) == 1
        assert len(asked) == (0 if page is None else 3)
    said = one_line(capsys)
    assert said.startswith("grsd data: mnist: ")
    assert f"{remote.SETS['mnist'].files[0].url} {line}" in said
    assert list((kept / "mnist").iterdir()) == []


def test_a_place_that_cannot_be_written(kept, capsys, monkeypatch):
    kept.write_text("a file")
    assert cli.main(["data", "fetch", "mnist"]) == 2
    assert one_line(capsys) == f"grsd data: GRSD_DATA: cannot write to {kept / 'mnist'}: {kept} is not a folder\n"
    assert cli.main(["run", "--data", "mnist"]) == 2
    assert one_line(capsys) == f"grsd run: mnist: GRSD_DATA names {kept}, which is not a folder\n"
    kept.unlink()
    kept.mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert cli.main(["data", "fetch", "mnist"]) == 2
    assert one_line(capsys) == f"grsd data: GRSD_DATA: cannot write to {kept / 'mnist'}: {kept} is read-only here\n"


def test_a_full_disk(kept, tmp_path, capsys, monkeypatch):
    def full(path, payload):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("grsd.datasets.download.write_atomically", full)
    path = kept / "cifar10" / "cifar-10-binary.tar.gz"
    assert cli.main(["data", "fetch", "cifar10", "--from", str(folder_of_files(tmp_path / "elsewhere"))]) == 1
    assert one_line(capsys) == f"grsd data: cifar10: {path} cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["fetch", "digits"],
            "fetch: expected one of cifar10, cifar5m, mnist, fashion-mnist (others need no fetching)",
        ),
        (["fetch", "cifar"], "fetch: expected one of cifar10, cifar5m, mnist, fashion-mnist (others need no fetching)"),
        (["fetch", "--from", "."], "--from: expected a data set's name after fetch; grsd data fetch lists them"),
        (["fetch", "mnist", "--show"], "--show: not with fetch"),
        (["cuda.csv", "mnist"], "SET: mnist: only after fetch, as in: grsd data fetch cifar10"),
        (["cuda.csv", "--from", "."], "--from: .: only after fetch, as in: grsd data fetch cifar10"),
    ],
)
def test_refusals(arguments, line, kept, capsys):
    assert cli.main(["data", *arguments]) == 2
    assert one_line(capsys).startswith(f"grsd data: {line}")


@pytest.mark.usefixtures("as_users_run_it")
def test_a_source_says_what_it_holds():
    with pytest.raises(
        TypeError, match=r"^reads\(source=...\): expected an object with content\(\) and require\(\), got"
    ):
        reads("a path")


def test_published_files_are_as_published():
    """Every set has an entry, whole sha256 and a secure address; no file of the project is called fetch."""
    marked = {name for name in dataset.names() if hasattr(dataset[name].load(), "source")}
    assert marked == {*remote.SETS, "prose"}
    for name, entry in remote.SETS.items():
        assert dataset[name].facts["most"] == entry.samples
        for file in entry.files:
            assert file.url.startswith("https://")
            assert name == "cifar5m" or (re.fullmatch("[0-9a-f]{64}", file.sha256) and file.size > 1000)
    assert not [path for folder in ("data", "figures") for path in (ROOT / folder).rglob("*") if path.stem == FETCH]


def test_figures_are_complete_without_any_download():
    """No notebook, profile, claim or study names a set that must be fetched; the same search finds the digits."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    texts = [
        ROOT / path for path in listed if path.startswith(("grsd/studies/", "grsd/plotting/", "notebooks/", "data/"))
    ]
    texts = [path for path in texts if path.suffix in {".py", ".ipynb", ".yaml", ".json"}]
    named = {}
    for path in texts:
        text = path.read_text()
        if path.suffix == ".ipynb":
            text = "\n".join(
                "".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"
            )
        for name in (*remote.SETS, "patches"):
            words = rf"""["']{name}["']|: {name}$|\b{name.replace("-", "_")}\("""
            if re.search(words, text, re.MULTILINE):
                named.setdefault(name, []).append(path.name)
    assert not listed or set(named) == {"patches"}, named
