"""Check plain values; none of these checks imports torch."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from numbers import Integral, Real

ACTIVATIONS = ("tanh", "erf", "gelu", "relu", "identity")
SEEDS = 2**63
THREADS = "OMP_NUM_THREADS"
MOST_THREADS, EACH_THREAD = 1024, "more than any machine's cores are slower than one"


def said(value: object) -> str:
    """Return a value as an error message quotes it: one line, at most 80 characters; arrays by shape and dtype."""
    if getattr(value, "shape", ()) and hasattr(value, "dtype"):
        return f"{type(value).__name__} of shape {tuple(value.shape)} and {value.dtype}"
    if hasattr(value, "data_vars"):
        return f"{type(value).__name__} with {', '.join(map(str, value.data_vars)) or 'no variables'}"[:80]
    if isinstance(value, int) and abs(value) >= 10**30:  # Python itself refuses to write 4300 digits
        return "a longer number"
    return " ".join(repr(value).split())[:80]


def positive(call: str, name: str, value: float, low: float = 0.0, high: float = math.inf) -> float:
    """Return ``value`` as a float if it is positive, finite and in [low, high]; raise ``ValueError`` otherwise."""
    if not 0 < real(value) < math.inf:
        raise ValueError(f"{call}({name}=...): expected a positive finite number, got {said(value)}")
    return number(call, name, value, low, high)


def number(call: str, name: str, value: float, low: float = -math.inf, high: float = math.inf) -> float:
    """Return ``value`` as a float if it is finite and from ``low`` to ``high``; raise ``ValueError`` otherwise."""
    if not (math.isfinite(real(value)) and low <= real(value) <= high):
        limits = "" if low == -math.inf else f" of at least {low:g}"
        if high < math.inf and not real(value) < low:
            limits = f" from {low:g} to {high:g}"
        raise ValueError(f"{call}({name}=...): expected a finite number{limits}, got {said(value)}")
    return real(value)


def level_of(call: str, value: float) -> float:
    """Return a confidence level, a number between 0 and 1; raise ``ValueError`` otherwise."""
    if not 0 < real(value) < 1:
        raise ValueError(f"{call}(level=...): expected a number between 0 and 1, got {said(value)}")
    return real(value)


def choice(call: str, name: str, value: str, allowed: Sequence[str]) -> str:
    """Return ``value`` if it is one of the texts ``allowed``; raise ``ValueError`` otherwise."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{call}({name}=...): expected one of {tuple(allowed)}, got {said(value)}")
    return value


def flag(call: str, name: str, value: bool) -> bool:
    """Return ``value`` if it is True or False; raise ``TypeError`` otherwise."""
    if not isinstance(value, bool):
        raise TypeError(f"{call}({name}=...): expected True or False, got {said(value)}")
    return value


def optional_flag(call: str, name: str, value: bool | None) -> bool | None:
    """Return ``flag`` of the value, or None for None."""
    return None if value is None else flag(call, name, value)


def instance(call: str, name: str, value: object, kind: type | tuple[type, ...], wanted: str) -> None:
    """Refuse ``value`` unless it is a ``kind``; ``wanted`` describes that kind in the error message."""
    if not isinstance(value, kind):
        raise TypeError(f"{call}({name}=...): expected {wanted}, got {said(value)}")


def fits_memory(call: str, name: str, numbers: int, width: int = 8) -> None:
    """Refuse ``numbers`` numbers of ``width`` bytes if they need more than a quarter of the memory; copies are made."""
    held = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**40
    if 4 * numbers * width > held:
        raise MemoryError(
            f"{call}({name}=...): this needs more than a quarter of this machine's memory, {held / 2**30:.3g} GiB; ask "
            "for less"
        )


def real(value: object) -> float:
    """Return a real number as a float; NaN for anything else, and for a number too large for a float."""
    try:
        return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return math.nan


def seed_of(call: str, name: str, value: int) -> int:
    """Return ``value`` if both torch and numpy accept it as a seed; raise ``ValueError`` otherwise."""
    if whole_number(call, name, value, 0) >= SEEDS:
        raise ValueError(f"{call}({name}=...): expected a seed less than 2^63, got {said(value)}")
    return int(value)


def whole_number(call: str, name: str, value: int, least: int) -> int:
    """Return ``value`` if it is an int of at least ``least``; raise ``ValueError`` otherwise."""
    return _at_least(f"{call}({name}=...)", value, least)


def between(where: str, value: int, least: int, most: int, why: str) -> int:
    """Return ``value`` if it is a whole number from ``least`` to ``most``; ``why`` gives the reason for ``most``.

    Errors: ``ValueError`` in one line that starts with ``where``, such as ``--threads`` or ``Spec(depth=...)``.
    """
    if _at_least(where, value, least) > most:
        raise ValueError(f"{where}: expected at most {most} ({why}), got {said(value)}")
    return int(value)


def _at_least(where: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{where}: expected a whole number of at least {least}, got {said(value)}")
    return int(value)


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
