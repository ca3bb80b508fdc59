"""Figures that a reader can move, and that stand still where nobody looks."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets

from grsd.support.progress import headless


def explore(draw: Callable[..., object], **controls: object) -> object:
    """Sliders for the arguments of ``draw``, as ``ipywidgets.interact`` makes them.

    A control is a list of choices or a (low, high, step) range of numbers. Headless there is one drawing, with the
    first of each choice and the middle of each range.
    """
    if headless():
        return draw(**{name: _first(control) for name, control in controls.items()})
    ipywidgets.interact(draw, **controls)
    return None


def _first(control: object) -> object:
    if isinstance(control, tuple):
        low, high, step = control
        return low + step * round((high - low) / step / 2)
    return next(iter(control))
