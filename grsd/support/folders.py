"""Find the companion's notebooks, data and figures, and check that folders and files can be read and written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from grsd.support.values import said

PROJECT, FIGURES = "GRSD_PROJECT", "GRSD_FIGURES"


class ProjectNotFound(FileNotFoundError):
    """Raised if the companion's repository cannot be found, for example because only the package is installed."""


def project(where: str | os.PathLike | None = None) -> Path:
    """Return the repository's root: ``where``, else $GRSD_PROJECT, else a parent of this package or the current folder.

    Raise ``ProjectNotFound`` in one line if that folder has no notebooks/profiles.yaml.
    """
    if where is not None and not isinstance(where, str | os.PathLike):
        raise TypeError(f"project(where=...): expected a folder's path, got {type(where).__name__}")
    named = where or os.environ.get(PROJECT)
    here = Path.cwd()
    candidates = [Path(named)] if named else [Path(__file__).resolve().parents[2], here, *here.parents]
    for folder in candidates:
        if os.path.isfile(folder / "notebooks" / "profiles.yaml"):
            return folder.resolve()
    raise ProjectNotFound(
        f"no notebooks/profiles.yaml in {one_line(candidates[0])}: clone the companion's repository and run this "
        "inside it, or name it with --project or GRSD_PROJECT"
    )


def figures() -> Path:
    """Return the folder for figures: $GRSD_FIGURES (set by ``grsd reproduce``), else build/figures in the project.

    A notebook run by hand therefore never overwrites the committed figures.
    """
    named = os.environ.get(FIGURES)
    folder = Path(named) if named else project() / "build" / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def writable(call: str, folder: str | os.PathLike) -> Path:
    """Return ``folder`` if it can be written to or created; nothing is created here.

    Errors: in one line that starts with ``call``; ``TypeError`` for what is no path, ``ValueError`` for a file, a loop
    of links or a read-only place.
    """
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"{call}: expected the path of a folder, got {said(folder)}")
    shown = f"{call}: cannot write to {one_line(folder)}"
    there = Path(os.path.abspath(folder))
    try:
        while not _is_there(there):
            there = there.parent
        os.stat(there)
    except (OSError, ValueError) as error:
        raise ValueError(f"{shown}: {one_line(there)}: {_reason(error)}") from None
    if not os.path.isdir(there):
        raise ValueError(f"{shown}: {one_line(there)} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{shown}: {one_line(there)} is read-only here")
    return Path(folder)


def writable_file(call: str, file: str | os.PathLike) -> Path:
    """Return ``file`` if it can be written in an existing folder; nothing is written here.

    Errors: ``ValueError`` in one line that starts with ``call``, as for ``writable``; also for a folder or a device.
    """
    path, shown = Path(file), f"{call}: cannot write {one_line(file)}"
    parent = Path(os.path.abspath(path)).parent
    try:
        if not os.path.isdir(parent):
            raise ValueError(f"{call}: there is no folder {one_line(parent)}")
        if _is_there(path) and not (os.path.isfile(path) and os.access(path, os.W_OK)):
            os.stat(path)
            kind = "read-only here" if os.path.isfile(path) else "not a file"
            raise ValueError(f"{shown}: it is {kind}")
    except OSError as error:
        raise ValueError(f"{shown}: {_reason(error)}") from None
    writable(call, parent)
    return path


def read(path: Path) -> str:
    """Return the text of a file. Errors: ``ValueError`` in one line if it cannot be read as UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{one_line(path)}: expected UTF-8 text, found another byte at {error.start}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{one_line(path)}: cannot be read: {_reason(error)}") from None


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set these environment variables while the block runs, for the processes that it starts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def one_line(text: object, most: int = 200) -> str:
    """Return ``text`` for an error message: control characters escaped, at most ``most`` characters."""
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
    return plain if len(plain) <= most else f"{plain[: most - 3]}..."


def _is_there(path: Path) -> bool:
    """Return whether ``path`` exists; a broken link counts. Errors: ``OSError`` or ``ValueError`` for a bad name."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _reason(error: Exception) -> str:
    return one_line(getattr(error, "strerror", None) or error)
