"""Figures that a reader can move, and that stand still where nobody looks."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from grsd.support.progress import headless


def explore(draw: Callable[..., object], **controls: object) -> object:
    """Sliders for the arguments of ``draw``, as ``ipywidgets.interact`` makes them.

    A control is a list of choices or a (low, high, step) range of numbers. Sliders start at the defaults of ``draw``;
    where an argument has none, at the first choice or the middle of the range. Headless there is one drawing, of the
    same start: what a stored notebook shows is what sliders show before anybody moves them.
    """
    if headless():
        return draw(**start(draw, **controls))
    from ipywidgets import interact  # only notebooks have it

    interact(draw, **controls)
    return None


def start(draw: Callable[..., object], **controls: object) -> dict[str, object]:
    """Return the values at which the sliders of ``explore`` stand before anybody moves them."""
    declared = inspect.signature(draw).parameters
    given = {name: declared[name].default for name in controls if name in declared}
    return {
        name: _first(control) if given.get(name, inspect.Parameter.empty) is inspect.Parameter.empty else given[name]
        for name, control in controls.items()
    }


def _first(control: object) -> object:
    if isinstance(control, tuple):
        low, high, step = control
        return low + step * round((high - low) / step / 2)
    return next(iter(control))
