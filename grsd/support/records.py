"""Check a mapping read from a file against the dataclass it becomes: the names of its fields and their types."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import get_args, get_origin, get_type_hints

from grsd.support.folders import one_line

SAID = {str: "text", int: "a whole number", float: "a number", list: "a list", dict: "a mapping", NoneType: "nothing"}
LARGEST = 1e300


def check_record(where: str, entry: object, kind: type, needed: Set[str]) -> None:
    """Refuse an entry whose fields do not fit the dataclass ``kind``, in one line that starts with ``where``.

    ``needed``: fields that must be there. In a file tuples are lists; dataclasses and dictionaries are mappings.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: expected a mapping, got {_shown(entry)}")
    known = {field.name for field in fields(kind)}
    if not needed <= set(entry) <= known:
        raise ValueError(f"{where}: expected {', '.join(sorted(needed))} and fields of {sorted(known)}")
    for name, annotated in get_type_hints(kind).items():
        if name in entry:
            _check(f"{where}: {name}", entry[name], annotated)


def _check(where: str, value: object, annotated: object) -> None:
    allowed = [_plain(item) for item in (get_args(annotated) if isinstance(annotated, UnionType) else [annotated])]
    if not any(_is(value, item) for item in allowed):
        raise ValueError(f"{where}: expected {' or '.join(SAID[item] for item in allowed)}, got {_shown(value)}")
    if get_origin(annotated) is tuple:
        for item in value:
            _check(where, item, get_args(annotated)[0])


def _plain(annotated: object) -> type:
    """Return the type that an annotated field has in a file."""
    if get_origin(annotated) is tuple:
        return list
    return dict if get_origin(annotated) is dict or is_dataclass(annotated) else annotated


def _is(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return False
    if kind is float:
        return isinstance(value, float) or (isinstance(value, int) and abs(value) < LARGEST)
    return isinstance(value, kind)


def _shown(value: object) -> str:
    return one_line(repr(value), 60)
