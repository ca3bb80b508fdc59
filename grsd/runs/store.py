"""Labelled files that are whole or are not there, and are checked when read.

A file is netCDF 4 (through h5netcdf and h5py) named STEM-SHA256.nc, SHA256 that of its bytes: a truncated, changed or
misnamed file is found out at every byte, and a complete one appears under its name at once. What it is (``marks``) also
stands in its attributes, so that a sound file of another experiment is refused.

The digest proves integrity, not authorship: these are the bytes that somebody named so. Whoever may write to the folder
can put numbers of their own under a name that fits, and no check here can tell; only let those write whom you believe.
What a stranger's file cannot do is reach outside: links, numbers in other files and packed numbers are refused, and
nothing is read that declares more than the file holds (``grsd.runs.netcdf``). HDF5 itself is not hardened against
files made to break it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import xarray as xr
from filelock import FileLock, Timeout

from grsd.runs.netcdf import BadFile, from_bytes, to_bytes
from grsd.runs.values import Unstorable
from grsd.support.files import UNFINISHED, read_file, write_atomically
from grsd.support.folders import project

VARIABLE = "GRSD_RUNS"
LARGEST = 2**32
OWN = re.compile(r".+-[0-9a-f]{64}\.nc")

_said: set[Path] = set()


def runs_folder(folder: str | os.PathLike | None = None) -> Path:
    """Where results live: ``folder``, else $GRSD_RUNS, else data/runs in the project. Not created here."""
    named = folder or os.environ.get(VARIABLE)
    return Path(named) if named else project() / "data" / "runs"


def save(folder: Path, stem: str, payload: bytes) -> Path:
    """Write ``payload`` (``grsd.runs.netcdf.to_bytes``) as the one file of ``stem`` in ``folder``, atomically.

    A process killed in between leaves the file that was there before. Errors: ``OSError`` naming the file.
    """
    path = folder / f"{stem}-{hashlib.sha256(payload).hexdigest()}.nc"
    if len(payload) > LARGEST:
        raise OSError(f"{path}: it has {len(payload)} bytes, more than {LARGEST}")
    write_atomically(path, payload)
    for other in _files(folder, stem):
        if other != path:
            with contextlib.suppress(OSError):
                other.unlink()
    return path


def load(folder: Path, stem: str, marks: Mapping[str, str]) -> tuple[Path, xr.Dataset] | None:
    """The file of ``stem`` and what is in it, or ``None``; a bad file is said on stderr in one line and passed over."""
    for path in sorted(_files(folder, stem), key=_age):
        try:
            return path, _checked(path, stem, marks)
        except FileNotFoundError:
            continue
        except (BadFile, OSError) as error:
            reason = error if isinstance(error, BadFile) else f"it cannot be read ({error.strerror})"
            say(f"{path}: {reason}; it is not used")
    return None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock at ``path``; the system releases it when its holder ends, however it ends.

    Where it cannot be had (another user's file, a folder or a link under its name, a full disk) that is said in one
    line, and the block runs without it: at worst two processes compute the same bytes.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"{path.stem}: another process is computing it; waiting")
            lock.acquire()
    except OSError as error:
        say(f"{path}: cannot be locked ({error.strerror or error}); computing without a lock")
    try:
        yield
    finally:
        release(lock, path)


@contextmanager
def unheld(path: Path) -> Iterator[bool]:
    """Whether nobody holds the lock at ``path``; it is held inside the block, and gone after it."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except OSError:  # filelock's Timeout is one
        yield False
        return
    try:
        yield True
    finally:
        release(lock, path)


def release(lock: FileLock, path: Path) -> None:
    """Let go, if it is held, and remove its file: whoever waits makes a new one."""
    if lock.is_locked:
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


@dataclass(frozen=True)
class Scratch:
    """Where one computation keeps what it needs to go on after an interruption: files checked like results."""

    folder: Path
    marks: Mapping[str, str]

    def save(self, part: str, dataset: xr.Dataset) -> None:
        """Keep ``dataset`` as ``part``, instead of what was kept as that before.

        Where that cannot be done (a full disk) it is said once, and the computation goes on without.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save(self.folder, part, to_bytes(dataset.assign_attrs({**self.marks, "part": part})))
        except (OSError, Unstorable) as error:
            if self.folder not in _said:
                _said.add(self.folder)
                say(f"{self.folder.name}: no checkpoint can be kept ({error}); going on without")

    def load(self, part: str) -> xr.Dataset | None:
        """What was kept as ``part``; ``None`` where there is nothing, or nothing sound."""
        found = load(self.folder, part, {**self.marks, "part": part})
        return None if found is None else found[1]

    def clear(self) -> bool:
        """Remove what was kept, and nothing else; whether there was something."""
        there = False
        with contextlib.suppress(OSError):
            if self.folder.is_symlink():
                return False
            for path in self.folder.iterdir():
                if OWN.fullmatch(path.name) or UNFINISHED.fullmatch(path.name):
                    path.unlink()
                    there = True
            self.folder.rmdir()
        return there


def say(text: str) -> None:
    """One line on stderr."""
    print(f"grsd: {text}", file=sys.stderr, flush=True)


def _checked(path: Path, stem: str, marks: Mapping[str, str]) -> xr.Dataset:
    """The dataset from the very bytes whose digest was compared."""
    payload = read_file(path, LARGEST)
    if path.stem.removeprefix(f"{stem}-") != hashlib.sha256(payload).hexdigest():
        raise BadFile("its bytes are not those its name promises (truncated, changed or foreign)")
    dataset = _decoded(payload).copy(deep=True)
    for name, value in marks.items():
        found = dataset.attrs.get(name)
        if not isinstance(found, str) or found != value:
            raise BadFile(f"its {name} is not the one asked for (a foreign file)")
    return dataset


@lru_cache(maxsize=64)
def _decoded(payload: bytes) -> xr.Dataset:
    """Decoding takes a hundred times as long as reading and hashing, and an ensemble's runs are asked for again."""
    return from_bytes(payload)


def kept(folder: Path, stem: str) -> bool:
    """Whether there is a file of this name, good or damaged."""
    return bool(_files(folder, stem))


def _files(folder: Path, stem: str) -> list[Path]:
    return list(folder.glob(f"{stem}-*.nc"))


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0
