"""A progress bar that shows only on a terminal or in Jupyter."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from tqdm.auto import tqdm

VARIABLE = "GRSD_PROGRESS"


def headless() -> bool:
    """Return whether GRSD_PROGRESS=0, which ``grsd reproduce`` and the tests set: nobody is watching."""
    return os.environ.get(VARIABLE) == "0"


def bar(items: Iterable, *, show: bool | None = None, **labels: object) -> tqdm:
    """Iterate over ``items`` behind a bar.

    ``show=None``: show it on a terminal or in Jupyter, unless GRSD_PROGRESS=0 (headless runs).
    """
    if show is None:
        show = not headless() and (sys.stderr.isatty() or "ipykernel" in sys.modules)
    return tqdm(items, disable=not show, leave=False, dynamic_ncols=True, **labels)
