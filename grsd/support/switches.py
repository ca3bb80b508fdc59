"""Switches of torch that hold for a whole process or thread: put inside, and put back whenever an interrupt comes.

Ctrl-C may be raised inside ``__enter__`` or ``__exit__`` of any context manager that is written in Python. What a
generator then holds is put back late, by the garbage collector and in the wrong order; what a mode has pushed stays.
So these managers are objects, and each also puts back what the managers inside it have left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, NamedTuple

import torch
from torch.autograd import forward_ad
from torch.utils import _python_dispatch


class Switch(NamedTuple):
    """How a switch is read and put."""

    get: Callable[[], Any]
    put: Callable[[Any], object]


def attribute(owner: object, name: str) -> Switch:
    """Return the switch that is an attribute of a module or an object."""
    return Switch(lambda: getattr(owner, name), lambda value: setattr(owner, name, value))


def _down_to(depth: Callable[[], int], pop: Callable[[], object]) -> Switch:
    """Return the switch that is the height of a stack; it is only ever lowered."""

    def put(before: int) -> None:
        while depth() > before:
            pop()

    return Switch(depth, put)


DTYPE = Switch(torch.get_default_dtype, torch.set_default_dtype)
GRADIENTS = Switch(torch.is_grad_enabled, torch.set_grad_enabled)
LEFT = (
    DTYPE,
    GRADIENTS,
    _down_to(torch._C._len_torch_function_stack, torch._C._pop_torch_function_stack),
    _down_to(torch._C._len_torch_dispatch_stack, _python_dispatch._pop_mode),
    _down_to(lambda: forward_ad._current_level, forward_ad.exit_dual_level),
)


class Switched(AbstractContextManager[None]):
    """Inside, switches have other values and the managers ``inside`` are entered.

    At the end the old values come back. If an exception ends it, so do the default dtype, whether gradients are on, and
    the modes and the level of forward derivatives of before, in case the exception came while one was entered or left.
    A generator that is closed, maybe late and elsewhere, is no such exception.
    Only an interrupt at the first instruction of the outermost ``__exit__`` is not dealt with.
    """

    def __init__(
        self, wanted: Iterable[tuple[Switch, Any]], inside: Iterable[AbstractContextManager[Any]] = ()
    ) -> None:
        self._wanted, self._inside = tuple(wanted), tuple(inside)
        self._stack = ExitStack()
        self._before: list[tuple[Switch, Any]] = []
        self._left: list[tuple[Switch, Any]] = []

    def __enter__(self) -> None:
        self._left = [(switch, switch.get()) for switch in LEFT]
        self._before = [(switch, switch.get()) for switch, _ in self._wanted]
        try:
            for switch, value in self._wanted:
                switch.put(value)
            for manager in self._inside:
                self._stack.enter_context(manager)
        except BaseException:
            self._leave(failed=True)
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._leave(failed=kind not in (None, GeneratorExit))
        except BaseException:
            self._leave(failed=True)
            raise

    def _leave(self, failed: bool) -> None:
        self._stack.close()
        for switch, value in reversed([*self._left, *self._before] if failed else self._before):
            switch.put(value)
