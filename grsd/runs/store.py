"""Labelled files that are whole or are not there, and are checked when read.

A file is netCDF 4 (through h5netcdf and h5py) named STEM-SHA256.nc, SHA256 that of its bytes: a truncated, changed or
misnamed file is found out at every byte, a complete one appears under its name at once, and nothing else is needed to
open it. What it is (``marks``) also stands in its attributes, so that a sound file of another experiment is refused.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import xarray as xr
from filelock import FileLock, Timeout

from grsd.folders import project

VARIABLE = "GRSD_RUNS"
ENGINE = "h5netcdf"


def runs_folder(folder: str | os.PathLike | None = None) -> Path:
    """Where results live: ``folder``, else $GRSD_RUNS, else data/runs in the project. Not created here."""
    named = folder or os.environ.get(VARIABLE)
    return Path(named) if named else project() / "data" / "runs"


def save(folder: Path, stem: str, dataset: xr.Dataset, marks: Mapping[str, str]) -> Path:
    """Write ``dataset`` as the one file of ``stem`` in ``folder``, atomically; equal datasets give equal bytes.

    The caller holds the lock of ``stem``. A process killed in between leaves the file that was there before.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f"{stem}.part"
    try:
        dataset.drop_encoding().assign_attrs(marks).to_netcdf(scratch, engine=ENGINE)
        with scratch.open("rb+") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
            os.fsync(file.fileno())
        path = folder / f"{stem}-{digest}.nc"
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    _sync(folder)
    for other in _files(folder, stem):
        if other != path:
            other.unlink(missing_ok=True)
    return path


def load(folder: Path, stem: str, marks: Mapping[str, str]) -> tuple[Path, xr.Dataset] | None:
    """The file of ``stem`` and what is in it, or ``None``; a bad file is said on stderr in one line and passed over."""
    for path in sorted(_files(folder, stem), key=_age):
        try:
            return path, _checked(path, stem, marks)
        except FileNotFoundError:
            continue
        except _BadFile as error:
            print(f"grsd: {path}: {error}; it is not used", file=sys.stderr, flush=True)
    return None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock at ``path``; the system releases it when its holder ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"grsd: {path.stem}: another process is computing it; waiting", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class Scratch:
    """Where one computation keeps what it needs to go on after an interruption: files checked like results."""

    folder: Path
    marks: Mapping[str, str]

    def save(self, part: str, dataset: xr.Dataset) -> None:
        """Keep ``dataset`` as ``part``, instead of what was kept as that before."""
        save(self.folder, part, dataset, {**self.marks, "part": part})

    def load(self, part: str) -> xr.Dataset | None:
        """What was kept as ``part``; ``None`` where there is nothing, or nothing sound."""
        found = load(self.folder, part, {**self.marks, "part": part})
        return None if found is None else found[1]

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class _BadFile(Exception):
    pass


def _checked(path: Path, stem: str, marks: Mapping[str, str]) -> xr.Dataset:
    """The dataset from the very bytes whose digest was compared."""
    payload = path.read_bytes()
    if path.stem.removeprefix(f"{stem}-") != hashlib.sha256(payload).hexdigest():
        raise _BadFile("its bytes are not those its name promises (truncated, changed or foreign)")
    try:
        dataset = _decoded(payload).copy(deep=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _BadFile(f"it cannot be read as netCDF ({str(error).splitlines()[0]:.100})") from None
    for name, value in marks.items():
        if dataset.attrs.get(name) != value:
            raise _BadFile(f"its {name} is not the one asked for (a foreign file)")
    return dataset


@lru_cache(maxsize=64)
def _decoded(payload: bytes) -> xr.Dataset:
    """Decoding takes a hundred times as long as reading and hashing, and an ensemble's runs are asked for again."""
    with xr.open_dataset(io.BytesIO(payload), engine=ENGINE) as file:
        return file.load().drop_encoding()


def kept(folder: Path, stem: str) -> bool:
    """Whether there is a file of this name, good or damaged."""
    return bool(_files(folder, stem))


def _files(folder: Path, stem: str) -> list[Path]:
    return list(folder.glob(f"{stem}-*.nc"))


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _sync(folder: Path) -> None:
    """Make the new name last through a power failure, where the system can sync a folder."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
