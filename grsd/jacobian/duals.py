"""Forward mode that uses only torch's compiled kernels.

If a dual meets a plain tensor, torch calls a Python kernel for the shape of the missing tangent: this takes a third of
a millisecond per call, and one second for imports at the first call. An explicit tangent of zeros avoids both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

T = TypeVar("T")

aten = torch.ops.aten
WITH_NUMBERS = {"add": "add", "sub": "sub", "subtract": "sub", "mul": "mul", "multiply": "mul"}
WITH_NUMBERS |= dict.fromkeys(["div", "divide", "true_divide"], "div")
OTHERS = ["maximum", "minimum", "dot", "outer", "ger", "kron", "atan2", "hypot", "logaddexp", "pow", "prelu"]
OTHERS += ["addr", "addcmul", "addcdiv"]


def _functions(name: str) -> list[Callable]:
    return [getattr(place, name) for place in (torch, Tensor, F) if hasattr(place, name)]


NUMBERS: dict[Callable, Callable] = {  # the same function for a Python number
    function: getattr(aten, kind + end).Scalar
    for name, kind in WITH_NUMBERS.items()
    for end in ("", "_")
    for function in _functions(name + end)
}
FIRST: dict[Callable, int] = {  # the first argument that may be given a tangent: none that is written to
    **{function: 0 for name in [*WITH_NUMBERS, *OTHERS] for function in _functions(name)},
    **{function: 1 for name in WITH_NUMBERS for function in _functions(name + "_")},
    F.linear: 2,  # zero tangents of its factors would cost a product each
}
RECIPROCAL = frozenset({Tensor.__rdiv__, Tensor.__rtruediv__})


class ZeroTangents(TorchFunctionMode):
    """Gives the plain operands of duals a tangent of zeros, in the functions for which torch needs one."""

    def __torch_function__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        first, kwargs = FIRST.get(func), kwargs or {}
        if first is not None and len(args) > 1:
            number = type(args[1]) in {int, float}
            if number and func in NUMBERS and len(args) == 2 and not kwargs and _is_float(args[0]):
                return NUMBERS[func](*args)
            if not number:
                args = _completed(args, first)
        elif func in RECIPROCAL and type(args[1]) in {int, float} and _is_float(args[0]):
            return aten.mul.Scalar(args[0].reciprocal(), args[1])
        return func(*args, **kwargs)


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _completed(args: tuple, first: int) -> tuple:
    tensors = {place: value for place, value in enumerate(args) if isinstance(value, Tensor)}
    plain = {place for place, value in tensors.items() if forward_ad.unpack_dual(value).tangent is None}
    if not plain or len(plain) == len(tensors):
        return args
    like = next(value for place, value in tensors.items() if place not in plain)

    def completed(value: Tensor) -> Tensor:
        value = value if _is_float(value) else value.to(like.dtype)
        return dual(value, torch.zeros_like(value))

    return tuple(completed(value) if place in plain and place >= first else value for place, value in enumerate(args))


def dual(primal: Tensor, tangent: Tensor) -> Tensor:
    """``forward_ad.make_dual`` at level 0, without registering torch's decompositions, which takes long."""
    return aten._make_dual.default(primal, tangent, level=0)


def in_forward_mode(run: Callable[[], T]) -> T:
    """``run()`` at a dual level; if a function has no tangent, again with torch's decompositions registered."""
    try:
        with forward_ad.dual_level(), ZeroTangents():
            return run()
    except NotImplementedError:
        with forward_ad.dual_level(), ZeroTangents():
            nothing = torch.zeros((), dtype=torch.float64, device="cpu")
            forward_ad.make_dual(nothing, nothing)  # registers the decompositions
            return run()
