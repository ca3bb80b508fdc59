"""What is around a run: things in its way, who shares the machine, what killed runs leave behind."""

import os

import planted
import pytest
import xarray as xr
from test_runs_kept import OPTIONS, SMALL

import grsd
from grsd import cli
from grsd.runs import Scratch, clean, members, obtain, train
from grsd.runs.compute import identity

DRAW = {"exponent": 0.5, "draws": 3, "seed": 0}


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
    (tmp_path / "empty").mkdir()
    assert cli.main(["clean", "--folder", str(tmp_path / "empty")]) == 0
    assert capsys.readouterr().out == "grsd clean: nothing to remove\n"
    assert cli.main(["clean", "--folder", str(tmp_path / "none")]) == 2
    assert "there is no folder" in capsys.readouterr().err
