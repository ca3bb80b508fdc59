"""Lazy packages: a name is imported when it is first used (PEP 562), since importing torch takes seconds."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec


def face(package: str, *more: str) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of ``package``, built from the imports in its ``__init__.py``.

    Those imports stand under ``if TYPE_CHECKING:``, so that editors, type checkers and the fingerprint of the code
    read them as ordinary lines. No exported name may equal the name of a submodule: importing the submodule would
    replace it. Submodules are attributes too; ``dir`` lists those of ``more``,
    and ``__version__`` if it is among them.
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
        if name.isidentifier() and not name.startswith("_") and find_spec(f"{package}.{name}"):
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted([*sys.modules[package].__all__, *more])

    return get, names
