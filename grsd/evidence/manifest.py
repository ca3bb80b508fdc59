"""data/manifest.yaml: the command or function that makes each committed file under data/ and figures/."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path, PurePosixPath

import yaml

from grsd.evidence.seconds import seconds_of
from grsd.support.folders import one_line, project, read
from grsd.support.records import check_record

FILE = "data/manifest.yaml"
FOLDERS = ("data", "figures")
NOT_COMMITTED = ("data/runs",)
PLAIN = re.compile(r"\w[\w.-]*")
MAKERS = ("command", "makes", "otherwise")


@dataclass(frozen=True)
class Entry:
    """The origin of all files that match a pattern; exactly one of ``command``, ``makes`` and ``otherwise`` is given.

    Attributes:
        files: pattern of paths relative to the repository's root; "*" does not match "/".
        command: a ``grsd`` command; ``{stem}`` in it is the file's name without suffix, ``{number}`` its first two
            characters, the notebook's number.
        makes: ``grsd.MODULE:FUNCTION``, called without arguments, or ``grsd.MODULE:FUNCTION({stem})``, with the stem.
        otherwise: the origin in words, for files that no command makes.
        seconds: that it takes, if the files do not record it (``grsd.evidence.seconds``).
    """

    files: str
    command: str | None = None
    makes: str | None = None
    otherwise: str | None = None
    seconds: float | None = None

    def matches(self, path: str) -> bool:
        pattern, parts = PurePosixPath(self.files), PurePosixPath(path)
        return len(pattern.parts) == len(parts.parts) and parts.match(self.files)

    def shown(self, path: str) -> str:
        """Return the origin of the file ``path`` in one line."""
        if self.command is not None:
            return self.command_for(path)
        if self.makes is None:
            return self.otherwise
        name, argument = self._made_by()
        return f"{name}({PurePosixPath(path).stem!r})" if argument else f"{name}()"

    def _made_by(self) -> tuple[str, bool]:
        """Return the function's name, and whether it takes the stem."""
        return self.makes.removesuffix("({stem})"), self.makes.endswith("({stem})")

    def command_for(self, path: str) -> str:
        """Return the command. Errors: ``ValueError`` for a name that a command line would not take as one word."""
        stem = PurePosixPath(path).stem
        if not PLAIN.fullmatch(stem):
            raise ValueError(
                f"{one_line(path)}: expected a name of letters, digits and any of ._-, got {one_line(stem)!r}"
            )
        return self.command.replace("{stem}", stem).replace("{number}", stem[:2])

    def function(self, path: str) -> Callable[[], object]:
        """Return the function that makes the file ``path``.

        Errors: ``ValueError`` if there is no such function; ``ModuleNotFoundError`` if its module needs a package that
        is not installed.
        """
        dotted, argument = self._made_by()
        module, name = dotted.split(":")
        try:
            made = getattr(import_module(module), name, None)
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise
            made = None
        if not callable(made):
            raise ValueError(f"{FILE}: {self.files}: makes: there is no function {self.makes}")
        return partial(made, PurePosixPath(path).stem) if argument else made


def manifest(path: Path | None = None) -> tuple[Entry, ...]:
    """Return the entries of data/manifest.yaml. Errors: ``ValueError`` in one line naming file and entry."""
    path = path or project() / FILE
    try:
        content = yaml.safe_load(read(path))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path.name}: cannot be read as YAML: {one_line(' '.join(str(error).split()))}") from None
    listed = content.get("entries") if isinstance(content, dict) else None
    if not isinstance(listed, list):
        raise ValueError(f"{path.name}: expected a list under 'entries:', each with files and what makes them")
    return tuple(_entry(path, number, item) for number, item in enumerate(listed, 1))


def committed(root: Path) -> list[str]:
    """Return the paths, relative to the root, of all files under data/ and figures/ but data/runs (ignored by git)."""
    found = (path for folder in FOLDERS for path in (root / folder).rglob("*") if path.is_file())
    paths = sorted(path.relative_to(root).as_posix() for path in found)
    return [path for path in paths if not path.startswith(NOT_COMMITTED) and "/." not in path]


def entry_of(path: str, entries: Sequence[Entry]) -> Entry:
    """Return the one entry that matches ``path``. Errors: ``ValueError`` if none or several match."""
    found = [entry for entry in entries if entry.matches(path)]
    if len(found) == 1:
        return found[0]
    said = f"the patterns {', '.join(entry.files for entry in found)} all match" if found else "no pattern matches"
    raise ValueError(f"{FILE}: {said} {one_line(path)}; expected exactly one")


def listing(root: Path, entries: Sequence[Entry]) -> list[str]:
    """Return one line per file: its path, the command that makes it, and the seconds that it took, if known."""
    lines = []
    for path in committed(root):
        try:
            entry = entry_of(path, entries)
        except ValueError as error:
            lines.append(str(error))
            continue
        seconds = seconds_of(path, root) if entry.seconds is None else entry.seconds
        took = "seconds unknown" if seconds is None else f"{seconds:g} s"
        lines.append(f"{path}: {entry.shown(path)}" + (f" ({took})" if entry.otherwise is None else ""))
    return lines


def named(name: str, root: Path, entries: Sequence[Entry]) -> str:
    """Return the path of the file that ``name`` means: a path relative to the root, a file's name, or its stem.

    A missing file can be named by its path. Errors: ``ValueError`` if ``name`` means no file, or several files of
    different origins.
    """
    if "/" in name:
        entry_of(name, entries)
        return name
    found = [path for path in committed(root) if name in (PurePosixPath(path).name, PurePosixPath(path).stem)]
    if not found:
        raise ValueError(
            f"no file {one_line(repr(name), 80)} under data/ or figures/; grsd data lists them, "
            "and one that is not made yet is named by its path"
        )
    if len({entry_of(path, entries).shown(path) for path in found}) > 1:
        raise ValueError(f"{one_line(repr(name), 80)} may be {' or '.join(found)}; name one of them by its path")
    return found[0]


def make(path: str, entry: Entry, root: Path, command: Callable[[Sequence[str]], int]) -> int:
    """Make the file ``path`` again, print how long that took, and return the exit code.

    ``command``: takes the arguments of a ``grsd`` command and returns its exit code.

    Errors: ``RuntimeError`` if the command succeeds but the file is missing.
    """
    begun = time.perf_counter()
    if entry.command is not None and (code := command(shlex.split(entry.command_for(path))[1:])):
        return code
    if entry.makes is not None:
        entry.function(path)()
    if not (root / path).is_file():
        raise RuntimeError(f"{path}: {entry.shown(path)} did not make it")
    print(f"{path}: made in {time.perf_counter() - begun:.0f} s by {entry.shown(path)}")
    return 0


def _entry(path: Path, number: int, item: object) -> Entry:
    named_so = item.get("files") if isinstance(item, dict) else None
    where = f"{path.name}: entry {number}" + (f" ({one_line(named_so, 80)})" if isinstance(named_so, str) else "")
    check_record(where, item, Entry, {"files"})
    if sum(item.get(name) is not None for name in MAKERS) != 1:
        raise ValueError(f"{where}: expected one of {', '.join(MAKERS)}, and only one")
    if not re.fullmatch(r"grsd(\.\w+)+:[a-z]\w*(\(\{stem\}\))?", item.get("makes") or "grsd.x:x"):
        raise ValueError(f"{where}: makes: expected grsd.MODULE:FUNCTION, got {one_line(repr(item['makes']), 80)}")
    if not (item.get("command") or "grsd ").startswith("grsd "):
        raise ValueError(f"{where}: command: expected a grsd command, got {one_line(repr(item['command']), 80)}")
    return Entry(**item)
