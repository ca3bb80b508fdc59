"""Which code computes: a run made by other code is never reused in silence."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
LIBRARIES = ("torch", "numpy", "scipy", "xarray", "scikit-learn")


def fingerprint(*functions: Callable) -> str:
    """sha256 over the functions' names, their files, the files of grsd that these import, and the libraries' versions.

    What pins the numbers of a run (``grsd.support.pinned``) counts for every function. Its own file may be anywhere; of
    what it imports, only grsd counts, directly or not.

    Errors: ``TypeError`` for a function that other processes cannot import by its name; ``RuntimeError`` where a file
    has changed since it was imported, so that nobody can say which code would compute.
    """
    paths = [path for function in functions for path in sources(_file(function))]
    names = "".join(f"{function.__qualname__}\n" for function in functions)
    digest = hashlib.sha256(names.encode())
    for name in LIBRARIES:
        digest.update(f"{name} {_version(name)}\n".encode())
    for path in dict.fromkeys([*paths, PACKAGE / "support" / "pinned.py"]):
        found = _digest(path)
        if _imported.setdefault(path, found) != found:
            raise RuntimeError(f"run(spec): {path} has changed since it was imported; restart Python")
        name = path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else path.name
        digest.update(f"{name} {found}\n".encode())
    return digest.hexdigest()


@cache
def sources(start: Path, package: Path = PACKAGE) -> tuple[Path, ...]:
    """``start`` and the files of ``package`` that it imports, directly or not, in a fixed order."""
    found: set[Path] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += (file for name in _imports(path) if (file := _source(name, package)))
    return (start, *sorted(found - {start}))


def _imports(path: Path) -> Iterator[str]:
    """Dotted names that may be modules: ``from a import b`` gives a and a.b."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _source(name: str, package: Path) -> Path | None:
    first, *rest = name.split(".")
    if first != package.name:
        return None
    base = package.joinpath(*rest)
    file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    return file if file.is_file() else None


def _file(function: Callable) -> Path:
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    file = getattr(module, "__file__", None)
    if file is None or getattr(module, getattr(function, "__qualname__", ""), None) is not function:
        raise TypeError(
            f"run(spec, function): expected a function at the top level of a file, which other processes can import, "
            f"got {function!r:.80}"
        )
    return Path(file).resolve()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def _version(library: str) -> str:
    return version(library)


_imported = {path: _digest(path) for path in PACKAGE.rglob("*.py")}
