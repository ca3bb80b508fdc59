"""Parameters chosen by patterns of their names or of their layers."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from grsd.support.values import said

LISTED = 8  # names in an error message


def matching(call: str, model: nn.Module, patterns: object) -> list[str]:
    """Return the first names of the trainable parameters that a pattern matches; tied ones match by any name.

    A pattern is the name of a parameter or of a module that holds some, "*", "?" and "[...]" as in file names. Errors:
    ``TypeError`` or ``ValueError`` for what is no sequence of texts, and for a pattern that matches nothing.
    """
    where = f"{call}(parameters=...)"
    wanted = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(wanted, Sequence) or not wanted or not all(isinstance(pattern, str) for pattern in wanted):
        raise TypeError(f"{where}: expected names or patterns such as 'head.*', got {said(patterns)}")
    names: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(name)
    trainable = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    chosen = set()
    for pattern in wanted:
        found = {key for key, own in names.items() if any(_matches(name, pattern) for name in own)}
        if not found & set(trainable):
            known = list(trainable.values())
            more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
            why = "only parameters that do not require gradients" if found else "no parameter"
            raise ValueError(f"{where}: {said(pattern)} matches {why}; expected {', '.join(known[:LISTED])}{more}")
        chosen |= found
    return [name for key, name in trainable.items() if key in chosen]


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
