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
        typed = {line.target.id: line for line in cell.body if _names(line) and isinstance(line, ast.AnnAssign)}
        plain = {line.targets[0].id: line for line in cell.body if _names(line) and isinstance(line, ast.Assign)}
        if MARK in typed and len(typed) == len(cell.body):
            self.declared = {name: ast.unparse(line.annotation) for name, line in typed.items()}
        elif len(plain) < len(cell.body) or not plain.keys() <= self.declared.keys():
            return cell
        for name, line in (typed | plain).items():
            try:
                value = ast.literal_eval(line.value)
            except (ValueError, TypeError):
                continue
            try:
                sensible(name, self.declared[name], value)
            except (ValueError, TypeError) as error:
                raise Nonsense(str(error)) from None
        return cell


def _names(line: ast.stmt) -> bool:
    if isinstance(line, ast.AnnAssign):
        return isinstance(line.target, ast.Name) and line.value is not None
    return isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name)
