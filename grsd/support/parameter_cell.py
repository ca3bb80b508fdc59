"""What a notebook asks before it runs a cell: do the parameters written there make sense?"""

from __future__ import annotations

import ast

from IPython.core.error import InputRejected

from grsd.support.parameters import MARK, sensible


class Nonsense(InputRejected):
    """Raised instead of running a cell; a notebook shows it as one line."""

    def _render_traceback_(self) -> list[str]:
        return [f"ValueError: {self}"]


class ParameterCell(ast.NodeTransformer):
    """Reads two kinds of cells, and leaves all as they are: the tagged cell of parameters, and papermill's after it.

    The tagged cell has only lines ``name: type = value``, ``device`` among them; papermill's assigns to such names.
    Errors: ``Nonsense`` for a value that makes no sense. Values that are computed in the cell are not looked at.
    """

    def __init__(self) -> None:
        self.declared: dict[str, str] = {}

    def visit_Module(self, cell: ast.Module) -> ast.Module:
        """Return the cell, or raise ``Nonsense``; the name is what ``ast`` calls for a whole cell."""
        given = [(_name(line), line) for line in cell.body]
        typed = {name: ast.unparse(line.annotation) for name, line in given if name and isinstance(line, ast.AnnAssign)}
        if MARK in typed and all(name in typed for name, _ in given):
            self.declared = typed
        elif typed or not {name for name, _ in given} <= self.declared.keys():
            return cell
        for name, line in given:
            try:
                value = ast.literal_eval(line.value)
            except (ValueError, TypeError):
                continue
            try:
                sensible(name, self.declared[name], value)
            except (ValueError, TypeError) as error:
                raise Nonsense(str(error)) from None
        return cell


def _name(line: ast.stmt) -> str | None:
    """Return the name that a line gives a value to; None if it does anything else."""
    targets = [line.target] if isinstance(line, ast.AnnAssign) else getattr(line, "targets", [])
    return targets[0].id if len(targets) == 1 and isinstance(targets[0], ast.Name) and line.value else None
