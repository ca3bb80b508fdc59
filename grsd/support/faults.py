"""Tell faults of this package's own code from what torch, a model or a file is refused for."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import ModuleType, TracebackType

PACKAGE = Path(__file__).resolve().parents[1]
SLIPS = (NameError, ImportError)


def is_slip(error: BaseException) -> bool:
    """Return whether a frame of this package raised an error that no model and no file can cause.

    These are unknown names, failed imports, and attributes that a module or an object of this package lacks.
    """
    owner = getattr(error, "obj", None) if isinstance(error, AttributeError) else None
    ours = isinstance(owner, ModuleType) or type(owner).__module__.partition(".")[0] == PACKAGE.name
    return (isinstance(error, SLIPS) or ours) and raised_here(error.__traceback__)


def is_mistake(error: BaseException) -> bool:
    """Return whether a frame of this package raised a programming error while it computed with checked values.

    What torch cannot do it says by a ``RuntimeError``, or in a frame of its own. Python's own two kinds of
    ``RuntimeError``, endless recursion and an iterator that ends early in a generator, are mistakes too.
    """
    of_torch = isinstance(error, RuntimeError) and not isinstance(error, RecursionError)
    if of_torch and isinstance(error.__cause__, StopIteration):
        of_torch = False
    return not of_torch and raised_here(error.__traceback__)


def raised_here(at: TracebackType | None) -> bool:
    """Return whether the last frame of a traceback belongs to this package."""
    frames = list(traceback.walk_tb(at))
    return bool(frames) and Path(frames[-1][0].f_code.co_filename).resolve().is_relative_to(PACKAGE)
