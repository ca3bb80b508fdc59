"""Watches a forward pass for the calls that use parameters, and perturbs their outputs by zeros to reach backprops.

No hook is put on any module: the functions of ``torch.nn.functional`` are seen where they are called.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from grsd.tangents.layers import CHEAPER, RECOGNISED, Call
from grsd.tangents.network import Parameters

METADATA = {
    getattr(Tensor, name).__get__
    for name in ("shape", "dtype", "device", "ndim", "requires_grad", "is_cuda", "is_nested", "is_leaf", "layout")
} | {Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.is_complex, Tensor.stride}


def _seen_through(function: Callable) -> Callable:
    """The same function without its first lines' dispatch on modes, so that the calls inside it are seen."""
    unseen = function.__globals__ | {"has_torch_function": lambda _: False}
    copied = types.FunctionType(function.__code__, unseen, function.__name__, function.__defaults__)
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


THROUGH = {F.multi_head_attention_forward: _seen_through(F.multi_head_attention_forward)}


class Tap(TorchFunctionMode):
    """``calls``: the recognised calls, with their outputs' shapes. ``elsewhere``: parameters used in any other way.

    ``perturbations``: what to add to the outputs of some calls, by index. ``keep``: the calls hold on to their inputs.
    """

    def __init__(
        self, parameters: Parameters, perturbations: Mapping[int, Tensor] | None = None, *, keep: bool = True
    ) -> None:
        super().__init__()
        self.keep = keep
        self.names = {id(p): name for name, p in parameters.items()}
        self.perturbations = perturbations or {}
        self.calls: list[Call] = []
        self.shapes: list[torch.Size] = []
        self.elsewhere: set[str] = set()

    def __torch_function__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        kwargs = kwargs or {}
        if func in THROUGH:
            with self:
                return THROUGH[func](*args, **kwargs)
        used = {self.names[id(value)] for value in _flat((args, kwargs)) if id(value) in self.names}
        if not used or func in METADATA:
            return func(*args, **kwargs)
        call = RECOGNISED[func](*args, **kwargs) if func in RECOGNISED else None
        inside = call is not None and len(self.calls) in self.perturbations
        out = (CHEAPER.get(func, func) if inside else func)(*args, **kwargs)
        mine = set() if call is None else {self.name(call.weight), self.name(call.bias)} - {None}
        self.elsewhere |= used - mine
        if not mine:
            return out
        index = len(self.calls)
        self.calls.append(call if self.keep else replace(call, input=None))
        self.shapes.append(out.shape)
        return out + self.perturbations[index] if index in self.perturbations else out

    def name(self, tensor: Tensor | None) -> str | None:
        return self.names.get(id(tensor))


def _flat(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        yield value
        return
    for part in value:
        yield from _flat(part)
