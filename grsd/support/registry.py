"""Functions registered by a decorator. They are found in the source of a package, since imports may take seconds."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from grsd.support.values import said


@dataclass(frozen=True)
class Entry:
    """One registered function: its module, its name, and the facts that its decorator states."""

    name: str
    module: str
    function: str
    facts: dict[str, object]

    def load(self) -> Callable:
        """Import the function."""
        return getattr(import_module(self.module), self.function)


class Registry:
    """A decorator for functions, and the table of all functions that carry it.

    Functions in the files of ``package`` are found in their source, so that they are known before anything is
    imported; any other file registers its functions when it is imported. The decorator's arguments must be literals
    or constants of the same file.

    Args:
        package: dotted name of the package whose files are read.
        decorator: the name of this object in those files.
        defaults: default values of the facts that a decorator may state.
    """

    def __init__(self, package: str, decorator: str, **defaults: object) -> None:
        self._package, self._decorator, self._defaults = package, decorator, defaults
        self._entries: dict[str, Entry] | None = None

    def __call__(self, name: str, **facts: object) -> Callable[[Callable], Callable]:
        """Register a function. Errors: ``ValueError`` if another function has the name, or if a fact is unknown."""
        if unknown := facts.keys() - self._defaults.keys():
            raise ValueError(f"{self._decorator}({sorted(unknown)[0]}=...): known are {', '.join(self._defaults)}")

        def register(function: Callable) -> Callable:
            entry = Entry(name, function.__module__, function.__qualname__, self._defaults | facts)
            known = self.entries.get(name)
            if known is not None and (known.module, known.function) != (entry.module, entry.function):
                raise ValueError(f"{self._decorator}({name!r}): it is the name of {known.module}.{known.function}")
            self.entries[name] = entry
            return function

        return register

    @property
    def entries(self) -> dict[str, Entry]:
        """All entries by name: files in alphabetical order, functions in the order of their file."""
        if self._entries is None:
            self._entries = {}
            folder = Path(find_spec(self._package).submodule_search_locations[0])
            for path in sorted(folder.glob("*.py")):
                for entry in self._written(path):
                    self._entries[entry.name] = entry
        return self._entries

    def __getitem__(self, name: str) -> Entry:
        if not isinstance(name, str) or name not in self.entries:
            raise ValueError(f"{self._decorator}: expected one of {', '.join(self.entries)}, got {said(name)}")
        return self.entries[name]

    def names(self, **facts: object) -> tuple[str, ...]:
        """Return the names of all entries that have these facts."""
        return tuple(name for name, entry in self.entries.items() if facts.items() <= entry.facts.items())

    def _written(self, path: Path) -> Iterator[Entry]:
        tree = ast.parse(path.read_bytes())
        constants: dict[str, object] = {}
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                try:
                    constants[node.targets[0].id] = ast.literal_eval(node.value)
                except ValueError:
                    continue
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            for call in node.decorator_list:
                if isinstance(call, ast.Call) and getattr(call.func, "id", None) == self._decorator:
                    facts = {item.arg: _value(item.value, constants) for item in call.keywords}
                    module = f"{self._package}.{path.stem}"
                    yield Entry(_value(call.args[0], constants), module, node.name, self._defaults | facts)


def _value(node: ast.expr, constants: dict[str, object]) -> object:
    return constants[node.id] if isinstance(node, ast.Name) else ast.literal_eval(node)
