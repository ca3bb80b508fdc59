"""Records the calls of a forward pass that use parameters, and the graph edges of their outputs.

No module gets a hook: a ``TorchFunctionMode`` sees the functions of ``torch.nn.functional``. The place of a call's
output in the graph is recorded as an edge, which later changes in place do not move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import GradientEdge, get_gradient_edge

from grsd.jacobian.composed import OPENED, Composed, still_batch_norm
from grsd.jacobian.layers import OPERATORS, RECOGNISED, Call, elementwise
from grsd.jacobian.network import Parameters
from grsd.jacobian.recurrent import CELLS, LAYERS

METADATA = {
    getattr(Tensor, name).__get__
    for name in ("shape", "dtype", "device", "ndim", "requires_grad", "is_cuda", "is_nested", "is_leaf", "layout")
} | {Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.is_complex, Tensor.stride}

SHARING = frozenset(getattr(F, f"conv{kind}{d}d") for kind in ("", "_transpose") for d in (1, 2, 3)) | set(CELLS)


READS = {Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.item, Tensor.tolist, Tensor.numpy}
NOT_VMAPPABLE = READS | {Tensor.nonzero, torch.nonzero, torch.unique, torch.cdist, *LAYERS}


class LayerCallRecorder(Composed):
    """``calls``: the recognised calls, with the ``shapes`` of their outputs. ``elsewhere``: parameters used otherwise.

    ``graph``: also record the ``edges`` of the outputs (for ``duals`` the second of each pair is that of the tangent)
    and keep the inputs. ``operations``: number of functions called. ``vmappable``: whether ``torch.vmap`` has a correct
    rule for all of them. ``shares``: whether any is slow or wrong under ``torch.vmap`` if each sample has weights of
    its own. ``tangents``: as in ``Composed``.
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
        self.operations, self.vmappable, self.shares = 0, True, False

    def __torch_function__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        kwargs = kwargs or {}
        self.operations += 1
        if func in NOT_VMAPPABLE or (func is torch.where and len(args) == 1):
            self.vmappable = False
        self.shares |= func in SHARING or (func is F.embedding and _has_padding(*args, **kwargs))
        used = self._used(args)
        if kwargs:
            used |= self._used(kwargs.values())
        if not used or func in METADATA or func in self.opened:
            return self.called(func, args, kwargs)
        call = self._call(func, args, kwargs)
        if call is not None and func is F.batch_norm:
            out = still_batch_norm(*args, **kwargs)
        else:
            out = self.called(func, args, kwargs)
        mine = set() if call is None else {self.name(call.weight), self.name(call.bias)} - {None}
        self.elsewhere |= used - mine
        if mine:
            self._record(call, out)
        return out

    def _call(self, func: Callable, args: tuple, kwargs: dict) -> Call | None:
        """The call if it is recognised, else None."""
        if func in RECOGNISED:
            return RECOGNISED[func](*args, **kwargs)
        if func not in OPERATORS or len(args) != 2 or kwargs:
            return None
        own, other = args if id(args[0]) in self.names else args[::-1]
        if not isinstance(other, Tensor) or id(other) in self.names:
            return None
        return elementwise(other, own, product=OPERATORS[func])

    def _record(self, call: Call, out: Tensor) -> None:
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
            if type(value) is Tensor or id(value) in names:
                name = names.get(id(value))
                if name is not None:
                    found.add(name)
            elif isinstance(value, (list, tuple)) and type(value) is not torch.Size:
                found |= self._used(value)
        return found

    def name(self, tensor: Tensor | None) -> str | None:
        return self.names.get(id(tensor))


def _has_padding(input: Tensor, weight: Tensor, padding_idx: int | None = None, *_: object, **__: object) -> bool:
    return padding_idx is not None
