"""Whole files or none: modes, links, things in the way, what killed writers leave."""

import os
import stat
import subprocess
import sys
import threading

import pytest

from grsd.support.files import UNFINISHED, read_file, say_swept, sweep, unfinished_folder, write_atomically

posix = pytest.mark.skipif(os.name != "posix", reason="links, modes and locks as POSIX has them")


def litter(folder):
    return [path for path in folder.iterdir() if UNFINISHED.fullmatch(path.name)]


def test_written_whole_and_replaced_whole(tmp_path):
    path = write_atomically(tmp_path / "a.csv", b"one")
    assert write_atomically(path, b"") == path
    assert path.read_bytes() == b""
    write_atomically(path, b"two" * 10**6)
    assert path.read_bytes() == b"two" * 10**6
    assert list(tmp_path.iterdir()) == [path]


@posix
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_mode_is_what_the_umask_gives(tmp_path, mask):
    before = os.umask(mask)
    try:
        path = write_atomically(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@posix
def test_links_are_replaced_never_followed(tmp_path):
    """At the name itself, at the name older versions used for their unfinished file, and as a random name guessed."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    folder = tmp_path / "shared"
    folder.mkdir()
    for name in ("a.csv", "a.csv.part", "a.part"):
        (folder / name).symlink_to(victim)
    write_atomically(folder / "a.csv", b"new")
    assert (folder / "a.csv").read_bytes() == b"new"
    assert not (folder / "a.csv").is_symlink()
    assert victim.read_bytes() == b"precious"


@posix
def test_a_guessed_name_is_not_used(tmp_path, monkeypatch):
    victim, guessed = tmp_path / "victim", iter(["0" * 16, "1" * 16])
    victim.write_bytes(b"precious")
    (tmp_path / f".grsd-{'0' * 16}.part").symlink_to(victim)
    monkeypatch.setattr("grsd.support.files.secrets.token_hex", lambda count: next(guessed))
    write_atomically(tmp_path / "a", b"new")
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "a").read_bytes() == b"new"


@posix
@pytest.mark.parametrize(
    ("make", "kind"),
    [(os.mkdir, "a folder"), (os.mkfifo, "a pipe"), (lambda path: path.symlink_to("/dev/null"), "a device")],
)
def test_what_is_no_file_is_refused_and_stays(tmp_path, make, kind):
    path = tmp_path / "a"
    make(path)
    for call in (lambda: write_atomically(path, b"x"), lambda: read_file(path, 10)):
        with pytest.raises(OSError, match=kind) as caught:
            call()
        assert str(path) in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode == path.stat().st_mode


def test_reading_is_bounded(tmp_path):
    path = write_atomically(tmp_path / "a", b"12345")
    assert read_file(path, 5) == b"12345"
    with pytest.raises(OSError, match="it has 5 bytes, more than 4"):
        read_file(path, 4)


@posix
@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_what_was_there_stays_when_writing_fails(tmp_path, monkeypatch, failing):
    path = write_atomically(tmp_path / "a", b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"grsd.support.files.os.{failing}", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_short_write_is_gone_on_with(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr("grsd.support.files.os.write", lambda descriptor, view: write(descriptor, view[:3]))
    assert write_atomically(tmp_path / "a", b"0123456789").read_bytes() == b"0123456789"


@posix
def test_only_what_nobody_holds_is_swept(tmp_path, capsys):
    """A killed writer's file and folder go; what a living process holds, another name and a link stay."""
    script = (
        "import os, sys, pathlib, grsd.support.files as f\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "with f.unfinished_folder(folder) as made:\n"
        "    (made / 'inside').write_text('x')\n"
        "    f.os.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        "    f.write_atomically(folder / 'a', b'x' * 1000)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], check=False)
    assert done.returncode == -9
    assert len(litter(tmp_path)) == 2
    others = [tmp_path / ".grsd-x.part", tmp_path / f".grsd-{'0' * 16}.part"]
    others[0].write_text("not ours")
    others[1].symlink_to(others[0])
    with unfinished_folder(tmp_path) as held:
        say_swept(tmp_path)
        assert capsys.readouterr().err == f"grsd: {tmp_path}: removed 2 unfinished files of killed processes\n"
        assert sorted(tmp_path.iterdir()) == sorted([held, *others])
    assert sweep(tmp_path) == []
    assert sorted(tmp_path.iterdir()) == sorted(others)


@posix
def test_writers_and_sweepers_at_once(tmp_path):
    """A sweeper never takes the file of a living writer, not even in the instant before its lock."""
    ending = threading.Event()

    def sweeping():
        while not ending.is_set():
            sweep(tmp_path)

    thread = threading.Thread(target=sweeping)
    thread.start()
    try:
        for number in range(300):
            write_atomically(tmp_path / "a", str(number).encode())
            assert (tmp_path / "a").read_text() == str(number)
    finally:
        ending.set()
        thread.join()
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
