"""Write files atomically, and remove the unfinished files of killed writers.

Every file of this package is written here: to a fresh file with a random name in the same folder, which is forced to
the disk and then renamed. So a full disk, a kill or a symbolic link never tears or redirects a file. A living writer
keeps its unfinished file locked; an unfinished file without a lock was left by a killed writer and is removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: without locks, abandoned files look like files under way, so none is removed
    fcntl = None

UNFINISHED = re.compile(r"\.grsd-[0-9a-f]{16}\.part")
FRESH = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
ATTEMPTS = 100


def write_atomically(path: str | os.PathLike, payload: bytes) -> Path:
    """Write ``payload`` as the file ``path``, whole or not at all, with the mode from the umask; return the path.

    A symbolic link at ``path`` is replaced, not followed.

    Errors: ``OSError`` naming ``path`` if the disk is full, permission is missing, or ``path`` is not a file (a
    folder, a pipe, a device). An earlier file at ``path`` then stays as it was.
    """
    path = Path(path)
    _refuse_other_kinds(path)
    scratch, descriptor = None, -1
    try:
        scratch, descriptor = _fresh(path.parent, lambda name: os.open(name, FRESH, 0o666))
        view = memoryview(payload)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
        if fcntl is None:
            os.close(descriptor)
            descriptor = -1
        os.replace(scratch, path)
        scratch = None
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        if scratch is not None:
            with contextlib.suppress(OSError):
                scratch.unlink()
        if descriptor >= 0:
            os.close(descriptor)
    _sync(path.parent)
    return path


@contextlib.contextmanager
def unfinished_folder(parent: Path) -> Iterator[Path]:
    """Make a fresh folder in ``parent`` and remove it after the block; after a kill, ``sweep`` removes it."""
    scratch, descriptor = _fresh(parent, _make_folder)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if descriptor >= 0:
            os.close(descriptor)


def sweep(folder: Path) -> list[Path]:
    """Remove the unfinished files of killed writers in ``folder`` and return their paths.

    Files that a living process has locked stay.
    """
    removed = []
    if fcntl is None:
        return removed
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if UNFINISHED.fullmatch(entry.name) and _abandoned(path := Path(entry.path)):
                removed.append(path)
    return sorted(removed)


def say_swept(*folders: Path) -> None:
    """``sweep`` each of ``folders`` and report each folder that had unfinished files in one line on stderr."""
    for folder in folders:
        if removed := sweep(folder):
            count = f"{len(removed)} unfinished file{'s' if len(removed) > 1 else ''}"
            print(f"grsd: {folder}: removed {count} of killed processes", file=sys.stderr, flush=True)


def read_file(path: Path, largest: int) -> bytes:
    """Return the bytes of a regular file without ever blocking.

    Errors: ``OSError``; also for a folder, a pipe, a device, or a file of more than ``largest`` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, f"it is {_kind(found.st_mode)}, no file", str(path))
        if found.st_size > largest:
            raise OSError(errno.EFBIG, f"it has {found.st_size} bytes, more than {largest}", str(path))
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def _refuse_other_kinds(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"expected a file or nothing there, found {_kind(mode)}", str(path))


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
    return next((name for test, name in kinds.items() if test(mode)), "a device")


def _make_folder(path: Path) -> int:
    path.mkdir()
    return os.open(path, FOLDER) if fcntl is not None else -1


def _fresh(parent: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """Make a locked file or folder in ``parent`` and return (path, descriptor).

    Another process may sweep it away before it is locked; then make another.
    """
    for _ in range(ATTEMPTS):
        path = parent / f".grsd-{secrets.token_hex(8)}.part"
        try:
            descriptor = make(path)
        except FileExistsError:
            continue
        held = None if fcntl is None else _lock(descriptor)
        if held is None or (held and _is_still(path, descriptor)):
            return path, descriptor
        os.close(descriptor)
    raise FileExistsError(errno.EEXIST, "no free name for a temporary file", str(parent))


def _lock(descriptor: int) -> bool | None:
    """Try to take the lock: True if it was free, False if it is held, ``None`` if the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except OSError:
        return False


def _abandoned(path: Path) -> bool:
    """Remove ``path`` if nobody has locked it; return whether it was removed."""
    try:
        folder = stat.S_ISDIR(path.lstat().st_mode)
        descriptor = os.open(path, FOLDER if folder else os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if not _lock(descriptor) or not _is_still(path, descriptor):
            return False
        shutil.rmtree(path) if folder else path.unlink()
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _sync(folder: Path) -> None:
    """Sync the folder, if the system can, so that the new name survives a power failure."""
    if hasattr(os, "O_DIRECTORY"):
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
