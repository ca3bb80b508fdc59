"""A module as a function of its trainable parameters. It is a private copy: the user's module is never changed."""

from __future__ import annotations

import copy
import sys
import types
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn.utils import parametrize

from grsd.jacobian.composed import Composed
from grsd.jacobian.copies import copy_and_attributes
from grsd.jacobian.kept import Attributes, forget
from grsd.support.allocator import keep_freed_memory
from grsd.support.switches import DTYPE, GRADIENTS, Switch, Switched, attribute

Parameters = dict[str, Tensor]


def unwrapped(module: nn.Module) -> tuple[nn.Module, str]:
    """(the module inside a wrapper for several devices, the prefix that the wrapper adds to names of parameters)."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return (module.module, "module.") if isinstance(module, wrappers) else (module, "")


CHECKPOINTS = {
    "CheckpointFunction": types.SimpleNamespace(apply=lambda function, _, *args: function(*args)),
    "_checkpoint_without_reentrant_generator": lambda *_, **__: iter((None,)),
}


def _attention(name: str) -> Switch:
    cuda = torch.backends.cuda
    return Switch(getattr(cuda, f"{name}_sdp_enabled"), getattr(cuda, f"enable_{name}_sdp"))


SWITCHES: list[tuple[Switch, Any]] = [
    (Switch(torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled), False),
    *((_attention(name), name == "math") for name in ("flash", "mem_efficient", "math", "cudnn")),
    *(
        (attribute(torch.utils.checkpoint, name), plain)
        for name, plain in CHECKPOINTS.items()
        if hasattr(torch.utils.checkpoint, name)
    ),
    (GRADIENTS, True),
]


def _tf32(allowed: bool) -> list[tuple[Switch, Any]]:
    """Whether 10-bit products on NVIDIA GPUs are allowed; by the old switches if torch has no new ones."""
    backends = torch.backends
    parts = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn] if hasattr(backends.cudnn, "conv") else []
    name, value = ("fp32_precision", "tf32" if allowed else "ieee") if parts else ("allow_tf32", allowed)
    return [(attribute(part, name), value) for part in parts or [backends.cuda.matmul, backends.cudnn]]


def exact_derivatives(tf32: bool = False) -> Switched:
    """Inside, attention is unfused, products have full precision, gradients are on; nothing is cached or compiled.

    Fused attention has no forward mode, TF32 has 10 bits, ``torch.utils.checkpoint`` would compute again in backward
    passes, ``parametrize.cached()`` would keep a tensor of the first evaluation for all others, and under ``no_grad``
    forward derivatives of some backward passes are silently lost. All switches are restored at the end.
    """
    keep_freed_memory()
    cache = [(attribute(parametrize, "_cache_enabled"), 0), (attribute(parametrize, "_cache"), {})]
    compiled = [torch.compiler.set_stance("force_eager")] if "torch._dynamo" in sys.modules else []
    products = _tf32(tf32) if torch.cuda.is_available() else []
    return Switched([*SWITCHES, *cache, *products], inside=[*compiled, torch.inference_mode(False)])


class Network:
    """f as a function of (parameters, inputs). ``parameters``: the trainable ones; ``fixed``: all others, and buffers.

    Each call starts from the attributes that the module had at first: no call passes a tensor on to the next one, so
    that a kept tensor computed from parameters is a function of them in every call.

    ``prefix``: of the user's names of parameters. ``functional``: whether the module can be differentiated with other
    tensors in place of its parameters. ``composed``: whether functions must be replaced in its calls (``Composed``).
    ``shares``: as in ``LayerCallRecorder``, over all calls. ``keeps``: whether a call has changed attributes.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
        module, self.prefix = unwrapped(module)
        self.module, anatomy, self.attributes, before = copy_and_attributes(module, dtype, device)
        self.dtype, self.device, self.anatomy = dtype, device, anatomy
        self.functional = not any(isinstance(part, torch.jit.ScriptModule) for _, part in anatomy.parts)
        theirs = before.parameters if self.functional else dict(module.named_parameters())
        own = anatomy.parameters if self.functional else dict(self.module.named_parameters())
        self.theirs = {id(p): name for name, p in theirs.items()}
        self._trainable = {name: own[name] for name, p in theirs.items() if p.requires_grad}
        self.parameters = {name: p.detach() for name, p in self._trainable.items()}
        buffers = anatomy.buffers if self.functional else dict(self.module.named_buffers())
        self.fixed = {name: p.detach() for name, p in own.items() if name not in self.parameters}
        self.fixed |= {name: buffer.detach() for name, buffer in buffers.items()}
        self.composed, self.shares, self.keeps = True, False, False
        names = {id(p): name for name, p in self._trainable.items()}
        self._places = [(held, key, names[id(p)]) for held, key, p in anatomy.places if id(p) in names]
        self._marked = {name: dict(vars(p)) for name, p in self._trainable.items() if vars(p)}
        self._own = [(d, dict(d)) for _, part in anatomy.parts for d in (part._parameters, part._buffers) if d]

    def __call__(self, parameters: Parameters, inputs: Tensor, *, tangents: bool = False) -> Tensor:
        """f(inputs); ``tangents``: by functions whose forward mode and second derivatives are right (``Composed``)."""
        with self.precision(), self._composed(tangents):
            return self.plain(parameters, inputs)

    def _composed(self, tangents: bool) -> AbstractContextManager:
        return Composed(self.dtype, tangents=tangents) if self.composed or tangents else nullcontext()

    def plain(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """f(inputs) under the present ``TorchFunctionMode``, without ``Composed``."""
        try:
            if self.functional:
                return self._with(parameters, inputs)
            with torch.no_grad(), self.own(parameters):
                return self.module(inputs)
        finally:
            self.restore()

    def _with(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """Call the module with other tensors in place of its parameters."""
        try:
            for held, key, name in self._places:
                held[key] = parameters[name]
                if name in self._marked:
                    vars(parameters[name]).update(self._marked[name])
            return self.module(inputs)
        finally:
            for held, own in self._own:
                held.clear()
                held.update(own)

    def repeats(self, inputs: Tensor) -> bool:
        """Whether two calls in a row, attributes not restored in between, have the same outputs."""
        with torch.no_grad(), self.precision(), Composed(self.dtype):
            first, second = (self.module(inputs) for _ in range(2))
        self.restore()
        return torch.equal(first, second)

    @contextmanager
    def own(self, parameters: Parameters) -> Iterator[Parameters]:
        """Inside, the module's own parameters have the values ``parameters``."""
        own = self._trainable
        before = {name: p.detach().clone() for name, p in own.items()}
        try:
            for name, p in own.items():
                p.data.copy_(parameters[name])
            yield own
        finally:
            for name, p in own.items():
                p.data.copy_(before[name])

    def only(self, names: Collection[str]) -> None:
        """Make all parameters but the named ones fixed, as if they did not require gradients."""
        self.fixed |= {name: p for name, p in self.parameters.items() if name not in names}
        self._trainable = {name: p for name, p in self._trainable.items() if name in names}
        self.parameters = {name: p for name, p in self.parameters.items() if name in names}
        self._places = [place for place in self._places if place[2] in names]
        self._marked = {name: marks for name, marks in self._marked.items() if name in names}

    def moved(self, direction: Parameters, step: float) -> Network:
        """The same network at parameters + step * direction."""
        return self.at({name: p + step * direction[name] for name, p in self.parameters.items()})

    def at(self, parameters: Parameters) -> Network:
        """The same network at other parameters."""
        there = copy.copy(self)
        there.parameters = parameters
        return there

    def trainable_module(self) -> nn.Module:
        """A copy of the module with ``requires_grad`` as in the user's module."""
        module = copy.deepcopy(self.module)
        for name, p in module.named_parameters():
            p.requires_grad_(name in self.parameters)
        return module

    def in_float64(self) -> Network:
        """The same network in float64; itself if it is in float64."""
        if self.dtype == torch.float64:
            return self
        return Network(self.trainable_module(), torch.float64, self.device)

    def restore(self) -> None:
        """Restore the module's attributes to their values before its first call."""
        self.keeps |= self.attributes.restore()

    def precision(self) -> Switched:
        """Inside, the default dtype is that of the network, so that tensors that the module creates have it."""
        return Switched([(DTYPE, self.dtype)])

    def forget(self, inputs: Tensor) -> None:
        """Drop the tensors kept from earlier calls that the module computes again from its parameters."""
        if not self.attributes.tensors:
            return
        leaves = {name: p.detach().requires_grad_() for name, p in self.parameters.items()}

        def call() -> None:
            with self.precision(), Composed(self.dtype):
                self._with(leaves, inputs)

        forget(self.anatomy, call)
        self.attributes = Attributes(self.anatomy)
