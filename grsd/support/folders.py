"""Where the companion's notebooks, data and figures are, and whether a folder can be read and written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PROJECT, FIGURES = "GRSD_PROJECT", "GRSD_FIGURES"


class ProjectNotFound(FileNotFoundError):
    """The package is installed without the companion's repository around it."""


def project(where: str | os.PathLike | None = None) -> Path:
    """The repository's root: ``where``, else $GRSD_PROJECT, else the folder around this package or the current one.

    Raises ``ProjectNotFound`` in one line where that folder has no notebooks/profiles.yaml.
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
    """Where figures are written: $GRSD_FIGURES (set by ``grsd reproduce``), else build/figures in the project.

    A notebook run by hand therefore never overwrites the committed figures.
    """
    named = os.environ.get(FIGURES)
    folder = Path(named) if named else project() / "build" / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def writable(call: str, folder: str | os.PathLike) -> Path:
    """``folder``, which can be written to or can be made; nothing is made here.

    Errors: ``ValueError`` in one line that starts with ``call``: a file, a loop of links, a place that is read-only.
    """
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
    """``file``, which can be written or written anew in a folder that is there; nothing is written here.

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
    """The text of a file of the project. Errors: ``ValueError`` in one line where it cannot be read as UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{one_line(path)}: expected UTF-8 text, found another byte at {error.start}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{one_line(path)}: cannot be read: {_reason(error)}") from None


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """These environment variables while the block runs, for the processes that it starts."""
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
    """``text`` fit for a refusal: without line breaks or other characters that a terminal obeys, and not endless."""
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
    return plain if len(plain) <= most else f"{plain[: most - 3]}..."


def _is_there(path: Path) -> bool:
    """Also a link to nothing. Errors: those of the system for a name that cannot be one."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _reason(error: Exception) -> str:
    return one_line(getattr(error, "strerror", None) or error)
