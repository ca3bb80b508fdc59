"""The registry of data sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from grsd.support.registry import Registry
from grsd.support.values import instance

dataset = Registry("grsd.datasets", "dataset", ("samples",), ("task", "seed"), tasks=(), most=0)


class DataNotFound(FileNotFoundError):
    """Raised if a data set is not on this machine; the one line says what gets it."""


@runtime_checkable
class Source(Protocol):
    """What a data set reads beside the code of this package."""

    def content(self) -> str:
        """Return text that identifies what would be read, without failing; the key of every run covers it."""
        ...

    def require(self) -> None:
        """Return if it is there. Errors: ``DataNotFound``, before anything is computed."""
        ...


def reads(source: Source) -> Callable[[Callable], Callable]:
    """Mark a data set as one that reads ``source``; the decorator stands below ``@dataset``.

    Errors: ``TypeError`` for a source without ``content()`` and ``require()``.
    """
    instance("reads", "source", source, Source, "an object with content() and require()")

    def mark(function: Callable) -> Callable:
        function.source = source
        return function

    return mark


def require(*functions: Callable) -> None:
    """Refuse functions whose sources are not on this machine. Errors: ``DataNotFound``."""
    for function in functions:
        if source := getattr(function, "source", None):
            source.require()
