"""Refusals of plain values, and the names a ``Spec`` knows: what can be said before torch is imported."""

from __future__ import annotations

import os
import sys
from numbers import Integral, Real

ACTIVATIONS = ("tanh", "erf", "gelu", "relu", "identity")
TASKS = ("one-hot", "parity")
DIGITS = 1797
THREADS = "OMP_NUM_THREADS"
MOST_THREADS, EACH_THREAD = 1024, "more than any machine's cores are slower than one"


def positive(call: str, name: str, value: float) -> float:
    """Return ``value`` as a float if it is positive and finite; raise ``ValueError`` otherwise."""
    number = not isinstance(value, bool) and isinstance(value, Real)
    if not number or not 0 < value <= sys.float_info.max:
        raise ValueError(f"{call}({name}=...): expected a positive finite number, got {_shown(value)}")
    return float(value)


def whole(call: str, name: str, value: int, least: int) -> int:
    """Return ``value`` if it is an int of at least ``least``; raise ``ValueError`` otherwise."""
    return _at_least(f"{call}({name}=...)", value, least)


def between(where: str, value: int, least: int, most: int, why: str) -> int:
    """Return ``value`` if it is a whole number from ``least`` to ``most``; ``why`` says what ``most`` comes from.

    Errors: ``ValueError`` in one line that starts with ``where``, such as ``--threads`` or ``Spec(depth=...)``.
    """
    if _at_least(where, value, least) > most:
        raise ValueError(f"{where}: expected at most {most} ({why}), got {_shown(value)}")
    return int(value)


def _at_least(where: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{where}: expected a whole number of at least {least}, got {_shown(value)}")
    return int(value)


def _shown(value: object) -> str:
    """Python itself refuses to write numbers of more than 4300 digits."""
    return "a longer number" if isinstance(value, int) and abs(value) >= 10**30 else f"{value!r:.80}"


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
