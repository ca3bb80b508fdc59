"""The values of a notebook's parameters: what makes no sense is refused in one line, before anything is computed."""

from __future__ import annotations

import re

from grsd.support.values import SEEDS, between, flag, number, positive, said

MARK = "device"  # the parameter that every notebook has
DEVICES = r"auto|cpu|cuda(:\d{1,4})?"
FROM_ZERO = {"seed", "data_seed", "shown_networks"}
LOGARITHMS = {"log_loss"}
DIGITS = (1797, "digits has 1797 samples")
DEEPEST = (10**4, "each layer is a module of its own")
MOST = {
    "samples": DIGITS,
    "samples_ten": DIGITS,
    "width": (10**6, "a layer of that width has 8 TB of weights"),
    "depth": DEEPEST,
    "depths": DEEPEST,
}


def sensible(name: str, kind: str, value: object) -> None:
    """Refuse a parameter's value that no notebook can use; ``kind`` is its annotated type.

    Errors: ``ValueError`` or ``TypeError`` in one line that starts with ``parameters(NAME=...): ``.
    """
    if name == MARK:
        _device(value)
    elif kind == "bool":
        flag("parameters", name, value)
    elif kind == "int":
        _whole(name, value)
    elif kind == "float":
        _real(name, value)
    elif kind.startswith(("list", "tuple")):
        if not isinstance(value, list | tuple) or not value:
            raise ValueError(f"parameters({name}=...): expected a list of at least one number, got {said(value)}")
        for entry in value:
            (_real if isinstance(entry, float) else _whole)(name, entry)


def _device(value: object) -> None:
    if not isinstance(value, str) or not re.fullmatch(DEVICES, value):
        raise ValueError(f"parameters({MARK}=...): expected auto, cpu or cuda, got {said(value)}")
    if value.startswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            raise ValueError(f"parameters({MARK}=...): there is no CUDA device here, got {said(value)}")


def _whole(name: str, value: object) -> None:
    least, bounds = (0, (SEEDS - 1, "random generators take 63 bits")) if name in FROM_ZERO else (1, MOST.get(name))
    between(f"parameters({name}=...)", value, least, *(bounds or (10**6, "more than a notebook computes")))


def _real(name: str, value: object) -> None:
    (number if name in LOGARITHMS else positive)("parameters", name, value)
