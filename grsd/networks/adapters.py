"""Modules of one input tensor and one output tensor, made from models that take or return several."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from grsd.support.values import instance, said


class OutputOf(nn.Module):
    """The ``key`` of what ``model`` returns; see ``output``."""

    def __init__(self, model: nn.Module, key: str | int) -> None:
        super().__init__()
        self.model, self.key = model, key

    def forward(self, inputs: Tensor) -> Tensor:
        found = self.model(inputs)
        if isinstance(self.key, int) or isinstance(found, Mapping):
            return found[self.key]
        return getattr(found, self.key)


def output(model: nn.Module, key: str | int) -> nn.Module:
    """Return a module of one tensor from a model that returns several: dict, tuple, or an object such as ModelOutput.

    Args:
        model: shared with the module, not copied; names of its parameters begin with "model.".
        key: a key of the dict, the name of an attribute, or a place in the tuple.
    """
    instance("output", "model", model, nn.Module, "a torch.nn.Module")
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise TypeError(f"output(key=...): expected a key, the name of an attribute or a place, got {said(key)}")
    return OutputOf(model, key)


class Packed(nn.Module):
    """Unpacks the columns of its input, then calls ``model`` by keywords; see ``packed``."""

    def __init__(self, model: nn.Module, parts: list[tuple[str, torch.Size, torch.dtype]]) -> None:
        super().__init__()
        self.model, self.parts = model, parts

    def forward(self, inputs: Tensor) -> object:
        given, start = {}, 0
        for name, shape, dtype in self.parts:
            part = inputs[:, start : start + shape.numel()].reshape(len(inputs), *shape)
            given[name] = part if dtype.is_floating_point else part.to(dtype)
            start += shape.numel()
        return self.model(**given)


def packed(model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[nn.Module, Tensor]:
    """Return (module, tensor) for a model that takes several inputs by keyword, such as tokens and a mask.

    Args:
        model: shared with the module, not copied; names of its parameters begin with "model.".
        inputs: tensors (N, ...) by keyword. They become the columns of one tensor (N, P): float64, in which whole
            numbers up to 2^53 are exact, and each call of the module turns them into what they were.

    Everything here that takes ``model, inputs`` takes this pair; for a batch of its own, call it again.
    """
    instance("packed", "model", model, nn.Module, "a torch.nn.Module")
    given = dict(inputs) if isinstance(inputs, Mapping) else {}
    fit = all(isinstance(name, str) and isinstance(x, Tensor) and x.ndim > 0 for name, x in given.items())
    if (
        not given
        or not fit
        or len({len(x) for x in given.values()}) != 1
        or any(x.is_complex() for x in given.values())
    ):
        raise TypeError(f"packed(inputs=...): expected real tensors (N, ...) of one N by keyword, got {said(inputs)}")
    parts = [(name, x.shape[1:], x.dtype) for name, x in given.items()]
    columns = [x.reshape(len(x), -1).to(torch.float64) for x in given.values()]
    return Packed(model, parts), torch.cat(columns, 1)
