"""Watches a forward pass for the calls that use parameters, and notes where the graph leaves them.

No hook is put on any module: the functions of ``torch.nn.functional`` are seen where they are called. Where a call's
output lies in the graph is noted as an edge, which later changes in place do not move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import GradientEdge, get_gradient_edge

from grsd.tangents.composed import OPENED, Composed, still_batch_norm
from grsd.tangents.layers import RECOGNISED, Call
from grsd.tangents.network import Parameters
from grsd.tangents.recurrent import CELLS

METADATA = {
    getattr(Tensor, name).__get__
    for name in ("shape", "dtype", "device", "ndim", "requires_grad", "is_cuda", "is_nested", "is_leaf", "layout")
} | {Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.is_complex, Tensor.stride}

SHARING = frozenset(getattr(F, f"conv{kind}{d}d") for kind in ("", "_transpose") for d in (1, 2, 3)) | set(CELLS)


class Tap(Composed):
    """``calls``: the recognised calls, with their outputs' ``shapes``. ``elsewhere``: parameters used in any other way.

    ``graph``: note also where their outputs are in the graph (``edges``; for ``duals`` in the second place that of the
    tangent) and keep their inputs. ``operations``: how many functions were called; ``shares``: whether any is
    slow or wrong under ``torch.vmap`` with weights of each sample's own. ``tangents``: as ``Composed``.
    """

    def __init__(
        self,
        parameters: Parameters,
        dtype: torch.dtype,
        *,
        graph: bool = False,
        duals: bool = False,
        tangents: bool = False,
    ) -> None:
        super().__init__(dtype, tangents=tangents)
        self.graph, self.duals = graph, duals
        self.opened = OPENED | self.opened
        self.names = {id(p): name for name, p in parameters.items()}
        self.calls: list[Call] = []
        self.shapes: list[torch.Size] = []
        self.edges: list[tuple[GradientEdge | None, GradientEdge | None]] = []
        self.elsewhere: set[str] = set()
        self.operations, self.shares = 0, False

    def __torch_function__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        kwargs = kwargs or {}
        self.operations += 1
        self.shares |= func in SHARING or (func is F.embedding and _has_padding(*args, **kwargs))
        used = self._used(args)
        if kwargs:
            used |= self._used(kwargs.values())
        if not used or func in METADATA or func in self.opened:
            return self.called(func, args, kwargs)
        call = RECOGNISED[func](*args, **kwargs) if func in RECOGNISED else None
        if call is not None and func is F.batch_norm:
            out = still_batch_norm(*args, **kwargs)
        else:
            out = self.called(func, args, kwargs)
        mine = set() if call is None else {self.name(call.weight), self.name(call.bias)} - {None}
        self.elsewhere |= used - mine
        if mine:
            self._note(call, out)
        return out

    def _note(self, call: Call, out: Tensor) -> None:
        self.calls.append(call if self.graph else replace(call, input=None))
        self.shapes.append(out.shape)
        if self.graph:
            tangent = forward_ad.unpack_dual(out).tangent if self.duals else None
            self.edges.append(
                tuple(None if t is None or not t.requires_grad else get_gradient_edge(t) for t in (out, tangent))
            )

    def _used(self, values: Iterable[object]) -> set[str]:
        """The parameters among the values, and in lists and tuples of them."""
        found, names = set(), self.names
        for value in values:
            if id(value) in names:
                found.add(names[id(value)])
            elif isinstance(value, (list, tuple)) and type(value) is not torch.Size:
                found |= self._used(value)
        return found

    def name(self, tensor: Tensor | None) -> str | None:
        return self.names.get(id(tensor))


def _has_padding(input: Tensor, weight: Tensor, padding_idx: int | None = None, *_: object, **__: object) -> bool:
    return padding_idx is not None
