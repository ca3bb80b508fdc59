"""Fingerprint the code that computes, so that a run made by other code is never reused silently.

The fingerprint is taken of the syntax tree: docstrings, comments and layout can change without any run being computed
again; names, defaults and statements cannot. The tree is written without the empty fields in which Python's minor
versions differ. Their parsers still matter: if a version parses the same text to another tree, as 3.12 did with some
f-strings, the code counts as other code there.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Callable, Iterator
from functools import cache, lru_cache, partial
from importlib.metadata import version
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
LIBRARIES = ("torch", "numpy", "scipy", "xarray", "scikit-learn")
UNKNOWN = "unknown"
WITHOUT_MEANING = {"ctx", "kind", "type_comment", "type_ignores"}


def fingerprint(*functions: Callable) -> str:
    """Return sha256 of the functions' names, their files, the files of grsd that these import, and library versions.

    ``grsd.support.pinned``, which every run uses, counts for every function. A function's own file may be anywhere; of
    its imports only files of grsd count, directly or indirectly imported. A data set that reads other files counts
    with what these hold (``grsd.datasets.registry.reads``).

    Errors: ``TypeError`` for a function that other processes cannot import by its name; ``RuntimeError`` if the code of
    a file has changed since it was imported, so that it is unknown which code would compute.
    """
    files = [_file(function) for function in functions]
    names = "".join(f"{function.__qualname__}\n{content(function)}" for function in functions)
    return _fingerprint("run(spec)", names, *files)


def code_of(measure: Callable) -> str:
    """Return the fingerprint of a function that need not be importable: a lambda, a closure, a ``functools.partial``.

    Return ``"unknown"`` if no file defines it. Errors: ``RuntimeError`` as for ``fingerprint``.
    """
    while isinstance(measure, partial):
        measure = measure.func
    file = getattr(sys.modules.get(getattr(measure, "__module__", None) or ""), "__file__", None)
    name = getattr(measure, "__qualname__", type(measure).__qualname__)
    return UNKNOWN if file is None else _fingerprint("Measurement(measure=...)", f"{name}\n", Path(file).resolve())


def content(function: Callable) -> str:
    """Return what the files hold that a data set reads; empty for any other function."""
    source = getattr(function, "source", None)
    return "" if source is None else f"{source.content()}\n"


def _fingerprint(call: str, names: str, *starts: Path) -> str:
    digest = hashlib.sha256(names.encode())
    for library in LIBRARIES:
        digest.update(f"{library} {_version(library)}\n".encode())
    paths = [path for start in starts for path in sources(start)]
    for path in dict.fromkeys([*paths, PACKAGE / "support" / "pinned.py"]):
        content = path.read_bytes()
        imported = _imported.setdefault(path, content)
        found = _tree(content)[0]
        if content != imported and found != _tree(imported)[0]:
            raise RuntimeError(f"{call}: {path} has changed since it was imported; restart Python")
        shown = path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else path.name
        digest.update(f"{shown} {found}\n".encode())
    return digest.hexdigest()


@cache
def sources(start: Path, package: Path = PACKAGE) -> tuple[Path, ...]:
    """Return ``start`` and the files of ``package`` that it imports, directly or indirectly, in a fixed order."""
    found: set[Path] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += (file for name in _tree(path.read_bytes())[1] if (file := _source(name, package)))
    return (start, *sorted(found - {start}))


@lru_cache(maxsize=1024)
def _tree(content: bytes) -> tuple[str, tuple[str, ...]]:
    """Return (sha256 of the syntax tree, imported names) of a file; sha256 of its bytes if they are no Python."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return hashlib.sha256(content).hexdigest(), ()
    return hashlib.sha256(_written(tree).encode("utf-8", "surrogatepass")).hexdigest(), tuple(_imports(tree))


def _written(tree: ast.AST) -> str:
    """Return the tree as text, without positions, empty fields and docstrings (or other string statements)."""
    written: list[str] = []
    waiting: list[ast.AST | list | str] = [tree]  # no recursion: long sums are trees a thousand levels deep
    while waiting:
        node = waiting.pop()
        if isinstance(node, str):
            written.append(node)
            continue
        parts: list[ast.AST | list | str] = []
        if isinstance(node, list):
            for item in node:
                if not _is_text_alone(item):
                    parts += (_part(item), ",")
            waiting += ("]", *reversed(parts), "[")
            continue
        for name in node._fields:
            value = getattr(node, name, None)
            absent = (value is None and not isinstance(node, ast.Constant)) or value == []
            if not absent and name not in WITHOUT_MEANING:
                parts += (f"{name}=", _part(value))
        waiting += (")", *reversed(parts), f"{type(node).__name__}(")
    return "".join(written)


def _part(value: object) -> ast.AST | list | str:
    return value if isinstance(value, ast.AST | list) else repr(value)


def _is_text_alone(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _imports(tree: ast.AST) -> Iterator[str]:
    """Yield dotted names that may be modules: ``from a import b`` gives a and a.b."""
    for node in ast.walk(tree):
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


@cache
def _version(library: str) -> str:
    return version(library)


# Kept as bytes: reading takes milliseconds, parsing half a second, and only the files that a run needs are parsed.
_imported = {path: path.read_bytes() for path in PACKAGE.rglob("*.py")}
