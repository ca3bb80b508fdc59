"""Functions registered by a decorator. They are found in the source of a package, since imports may take seconds."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from grsd.support.values import said

NAME = re.compile(r"\w[\w.+-]*")


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
        places, names: the arguments that a registered function gets by place, and those that it gets by name.
        defaults: default values of the facts that a decorator may state; an empty tuple or 0: it must state the fact.
    """

    def __init__(
        self, package: str, decorator: str, places: Sequence[str], names: Sequence[str], **defaults: object
    ) -> None:
        self._package, self._decorator, self._defaults = package, decorator, defaults
        self._places, self._names = tuple(places), tuple(names)
        self._entries: dict[str, Entry] | None = None

    def __call__(self, name: str, **facts: object) -> Callable[[Callable], Callable]:
        """Register a function.

        Errors: ``ValueError`` if another function has the name, or if a fact is unknown or missing; ``TypeError`` for a
        name that is no single word, a fact of another kind, or a function that cannot be imported or called.
        """
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise TypeError(
                f"{self._decorator}(name): expected a name of letters, digits and any of _.+-, got {said(name)}"
            )
        if unknown := facts.keys() - self._defaults.keys():
            raise ValueError(f"{self._decorator}({sorted(unknown)[0]}=...): known are {', '.join(self._defaults)}")

        for fact, default in self._defaults.items():
            self._check_fact(f"{self._decorator}({name!r}, {fact}=...)", facts.get(fact, default), default)

        def register(function: Callable) -> Callable:
            self._check_function(f"{self._decorator}({name!r})", function)
            entry = Entry(name, function.__module__, function.__qualname__, self._defaults | facts)
            known = self.entries.get(name)
            if known is not None and (known.module, known.function) != (entry.module, entry.function):
                raise ValueError(f"{self._decorator}({name!r}): it is the name of {known.module}.{known.function}")
            self.entries[name] = entry
            return function

        return register

    @staticmethod
    def _check_fact(call: str, value: object, default: object) -> None:
        kinds = {bool: "True or False", int: "a whole number of at least 1", tuple: "a tuple of texts"}
        fits = type(value) is type(default) and (isinstance(value, bool) or bool(value))
        if not fits or (isinstance(value, tuple) and not all(isinstance(item, str) for item in value)):
            raise TypeError(f"{call}: expected {kinds[type(default)]}, got {said(value)}")

    def _check_function(self, call: str, function: object) -> None:
        if not callable(function) or not getattr(function, "__qualname__", "<").isidentifier():
            raise TypeError(f"{call}: expected a function at the top level of a file, got {said(function)}")
        try:
            inspect.signature(function).bind(*self._places, **dict.fromkeys(self._names))
        except TypeError as error:
            taken = f"{', '.join(self._places)}, *, {', '.join(self._names)}"
            raise TypeError(f"{call}: expected {function.__qualname__} to take ({taken}): {error}") from None

    @property
    def entries(self) -> dict[str, Entry]:
        """All entries by name: files in alphabetical order, functions in the order of their file."""
        if self._entries is None:
            self._entries = {}
            folder = Path(find_spec(self._package).submodule_search_locations[0])
            for path in sorted(folder.glob("*.py")):
                for entry in self._written(path):
                    known = self._entries.setdefault(entry.name, entry)
                    if known is not entry:
                        self._entries = None
                        raise ValueError(f"{self._decorator}({entry.name!r}): in {known.module} and in {entry.module}")
        return self._entries

    def __getitem__(self, name: str) -> Entry:
        if not isinstance(name, str) or name not in self.entries:
            raise ValueError(f"{self._decorator}: expected one of {', '.join(self.entries)}, got {said(name)}")
        return self.entries[name]

    def names(self, **facts: object) -> tuple[str, ...]:
        """Return the names of all entries that have these facts."""
        return tuple(name for name, entry in self.entries.items() if facts.items() <= entry.facts.items())

    def _written(self, path: Path) -> Iterator[Entry]:
        where = f"{self._package}: {path.name}"
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"{where}: cannot be read as Python: {' '.join(str(error).split())}") from None
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
                    try:
                        facts = {item.arg: _value(item.value, constants) for item in call.keywords}
                        (name,) = (_value(item, constants) for item in call.args)
                    except (ValueError, KeyError):
                        raise ValueError(
                            f"{where}, line {call.lineno}: expected @{self._decorator}(name, fact=...) with literals "
                            f"or constants of this file, got {said(ast.unparse(call))}"
                        ) from None
                    yield Entry(name, f"{self._package}.{path.stem}", node.name, self._defaults | facts)


def _value(node: ast.expr, constants: dict[str, object]) -> object:
    return constants[node.id] if isinstance(node, ast.Name) else ast.literal_eval(node)
