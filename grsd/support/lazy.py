"""Faces of packages whose names are imported when they are first used (PEP 562): torch takes seconds."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec


def face(package: str, *more: str) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of ``package``, from the imports that its ``__init__.py`` has for type checkers.

    Those stand under ``if TYPE_CHECKING:``, as ordinary lines that editors, and whoever asks which code computes, can
    read. A name must not be that of a submodule as well: whoever imports the submodule would put it there instead.
    Submodules are attributes too; those of ``more`` are listed, as is ``__version__`` if it is among them.
    """
    tree = ast.parse(find_spec(package).loader.get_source(package))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    source = {alias.asname or alias.name: (node.module, alias.name) for node in imports for alias in node.names}

    def get(name: str) -> object:
        if name in source and name in sys.modules[package].__all__:
            module, original = source[name]
            return getattr(import_module(module), original)
        if name == "__version__" and name in more:
            return version(package)
        if not name.startswith("_") and find_spec(f"{package}.{name}"):
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted([*sys.modules[package].__all__, *more])

    return get, names
