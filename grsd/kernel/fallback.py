"""What torch or a model cannot do, so that another strategy is tried; faults of this package are raised as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from grsd.support.faults import is_mistake


class CannotDifferentiate(RuntimeError):
    """Torch or the model's own backward pass has failed; the message says how, in one line."""


@contextmanager
def asking_torch(call: str) -> Iterator[None]:
    """Raise as ``CannotDifferentiate`` what torch or the model raises inside.

    Refusals by the call itself, exceptions of the system and programming errors of this package pass unchanged.
    """
    try:
        yield
    except (CannotDifferentiate, torch.OutOfMemoryError, MemoryError, OSError):
        raise
    except Exception as error:  # a backward pass of the model may raise anything
        if is_mistake(error) or (isinstance(error, ValueError) and str(error).startswith(call)):
            raise
        raise CannotDifferentiate(said(call, error)) from error


def said(call: str, error: Exception) -> str:
    """The problem in one line, without the call's name."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    own = f"{call}(model, ...): "
    if isinstance(error, CannotDifferentiate) or text.startswith(own):
        return text.removeprefix(own)
    return f"torch cannot differentiate it here: {text}"
