import re
from dataclasses import dataclass

import pytest

from grsd.support.records import check_record


@dataclass
class Inner:
    name: str


@dataclass
class Outer:
    title: str
    count: int = 0
    rate: float = 0.5
    inner: Inner | None = None
    seeds: tuple[int, ...] = ()
    more: dict[str, object] | None = None


@pytest.mark.parametrize(
    "entry",
    [
        {"title": "a"},
        {"title": "a", "count": 2, "rate": 3, "inner": {}, "seeds": [1, 2], "more": {"x": None}},
        {"title": "a", "inner": None, "more": None, "seeds": []},
    ],
)
def test_good(entry):
    check_record("file", entry, Outer, {"title"})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (None, "file: expected a mapping, got None"),
        ([1], "file: expected a mapping, got [1]"),
        ({}, "file: expected title and fields of ['count', 'inner',"),
        ({"title": "a", "titel": "b"}, "file: expected title and fields of"),
        ({"title": 3}, "file: title: expected text, got 3"),
        ({"title": None}, "file: title: expected text, got None"),
        ({"title": "a", "count": 0.5}, "file: count: expected a whole number, got 0.5"),
        ({"title": "a", "count": True}, "file: count: expected a whole number, got True"),
        ({"title": "a", "rate": "fast"}, "file: rate: expected a number, got 'fast'"),
        ({"title": "a", "rate": 10**400}, "file: rate: expected a number, got 1000"),
        ({"title": "a", "inner": []}, "file: inner: expected a mapping or nothing, got []"),
        ({"title": "a", "seeds": 3}, "file: seeds: expected a list, got 3"),
        ({"title": "a", "seeds": [1, "two"]}, "file: seeds: expected a whole number, got 'two'"),
        ({"title": "a", "more": "x" * 999}, "file: more: expected a mapping or nothing, got 'xxx"),
    ],
)
def test_refused_in_one_line(entry, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        check_record("file", entry, Outer, {"title"})
    assert len(str(caught.value)) < 200
