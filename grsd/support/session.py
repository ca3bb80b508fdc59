"""Set up a notebook of the companion: refusals show as one line, parameters are checked, torch takes one thread."""

from __future__ import annotations

import os
import re
import sys
from types import TracebackType
from typing import TYPE_CHECKING

from grsd.support.faults import raised_here
from grsd.support.folders import one_line
from grsd.support.values import THREADS

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

REFUSALS = (TypeError, ValueError)
_begun: set[int] = set()


def begin() -> None:
    """Show refusals in one line, check parameters, and set one thread unless OMP_NUM_THREADS is set; once per notebook.

    ``torch.set_num_threads`` changes the number later. Outside a notebook this does nothing.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or id(shell) in _begun:
        return
    _begun.add(id(shell))
    from grsd.support.parameter_cell import ParameterCell  # needs IPython, which only notebooks have

    shell.set_custom_exc(REFUSALS, _show)
    shell.ast_transformers.append(ParameterCell())
    if THREADS not in os.environ:
        import torch

        torch.set_num_threads(1)


def is_refusal(error: BaseException, at: TracebackType | None) -> bool:
    """Return whether grsd itself refused a call: the message starts with the call, as in ``Spec(depth=...): ``."""
    return raised_here(at) and isinstance(error, REFUSALS) and bool(re.match(r"[\w.]+\(", str(error)))


def _show(
    shell: InteractiveShell,
    kind: type[BaseException],
    error: BaseException,
    at: TracebackType,
    tb_offset: int | None = None,
) -> None:
    """Show a refusal as one line and any other error as usual; %tb and %debug show the rest."""
    if not is_refusal(error, at):
        shell.showtraceback((kind, error, at), tb_offset=tb_offset, running_compiled_code=True)
        return
    sys.last_type, sys.last_value, sys.last_traceback = kind, error, at
    shell._showtraceback(kind, error, [f"{kind.__name__}: {one_line(error, 1000)}  (%tb shows where)"])
