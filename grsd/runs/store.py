"""Store labelled files atomically, and check them when they are read.

A file is netCDF 4 (through h5netcdf and h5py) named STEM-SHA256.nc, where SHA256 is the digest of its bytes: a change
of any byte, a truncation or a wrong name is detected, and a complete file appears under its name at once. Its
attributes also hold ``marks`` of the experiment, so that an intact file of another experiment is refused.

The digest proves integrity, not authorship. Whoever can write to the folder can store other numbers under a matching
name, and no check here detects that; give write access only to people you trust. A foreign file cannot reach outside
itself: links, numbers in other files and packed numbers are refused, and so is a file that declares more numbers than
it holds (``grsd.runs.netcdf``). HDF5 itself is not hardened against malicious files.
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
from grsd.support.values import said

VARIABLE = "GRSD_RUNS"
LARGEST = 2**32
OWN = re.compile(r".+-[0-9a-f]{64}\.nc")

_said: set[Path] = set()


def runs_folder(folder: str | os.PathLike | None = None, call: str = "run") -> Path:
    """Return the folder of results: ``folder``, else $GRSD_RUNS, else data/runs in the project. It is not created."""
    if folder is not None and not isinstance(folder, str | os.PathLike):
        raise TypeError(f"{call}(folder=...): expected a folder's path, got {said(folder)}")
    named = folder or os.environ.get(VARIABLE)
    return Path(named) if named else project() / "data" / "runs"


def save(folder: Path, stem: str, payload: bytes) -> Path:
    """Write ``payload`` (``grsd.runs.netcdf.to_bytes``) as the one file of ``stem`` in ``folder``, atomically.

    If the process is killed in between, the earlier file stays. Errors: ``OSError`` naming the file.
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
    """Return the file of ``stem`` and its dataset, or ``None``; a corrupt file is reported on stderr and skipped."""
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
    """Hold the lock at ``path`` during the block; the system releases it when this process ends in any way.

    If the lock cannot be taken (another user's file, a folder or a link under its name, a full disk), one line reports
    it and the block runs without the lock: at worst two processes compute the same bytes.
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
    """Yield whether the lock at ``path`` was free; if so, hold it during the block and remove it afterwards."""
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
    """Release the lock, if it is held, and remove its file; a waiting process makes a new one."""
    if lock.is_locked:
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


@dataclass(frozen=True)
class Scratch:
    """The checkpoints of one computation, from which it resumes after an interruption; files checked like results."""

    folder: Path
    marks: Mapping[str, str]

    def save(self, part: str, dataset: xr.Dataset) -> None:
        """Store ``dataset`` as ``part`` in place of an earlier one.

        If it cannot be stored (a full disk), one line reports that once, and the computation goes on without it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save(self.folder, part, to_bytes(dataset.assign_attrs({**self.marks, "part": part})))
        except (OSError, Unstorable) as error:
            if self.folder not in _said:
                _said.add(self.folder)
                say(f"{self.folder.name}: no checkpoint can be kept ({error}); going on without")

    def load(self, part: str) -> xr.Dataset | None:
        """Return the stored ``part``, or ``None`` if it is missing or corrupt."""
        found = load(self.folder, part, {**self.marks, "part": part})
        return None if found is None else found[1]

    def clear(self) -> bool:
        """Remove all stored parts, and nothing else; return whether there were any."""
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
    """Print one line on stderr."""
    print(f"grsd: {text}", file=sys.stderr, flush=True)


def _checked(path: Path, stem: str, marks: Mapping[str, str]) -> xr.Dataset:
    """Check the digest of the file's bytes and return the dataset decoded from these very bytes."""
    payload = read_file(path, LARGEST)
    if path.stem.removeprefix(f"{stem}-") != hashlib.sha256(payload).hexdigest():
        raise BadFile("its bytes are not those its name promises (truncated, changed or foreign)")
    dataset = decoded(payload).copy(deep=True)
    for name, value in marks.items():
        found = dataset.attrs.get(name)
        if not isinstance(found, str) or found != value:
            raise BadFile(f"its {name} is not the one asked for (a foreign file)")
    return dataset


@lru_cache(maxsize=64)
def decoded(payload: bytes) -> xr.Dataset:
    """Decode a payload, with a cache: decoding takes a hundred times as long as reading and hashing."""
    return from_bytes(payload)


def kept(folder: Path, stem: str) -> bool:
    """Return whether there is a file of this name, intact or damaged."""
    return bool(_files(folder, stem))


def _files(folder: Path, stem: str) -> list[Path]:
    return list(folder.glob(f"{stem}-*.nc"))


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0
