"""A module as a function of its trainable parameters, on a private copy: the user's module is never written to."""

from __future__ import annotations

import copy
import sys
import types
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize

from grsd.jacobian.composed import Composed
from grsd.jacobian.copies import copy_and_attributes
from grsd.jacobian.kept import Attributes, forget

Parameters = dict[str, Tensor]


def unwrapped(module: nn.Module) -> tuple[nn.Module, str]:
    """The module that a wrapper for several devices holds, and what it puts in front of the names of parameters."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return (module.module, "module.") if isinstance(module, wrappers) else (module, "")


@contextmanager
def _without_checkpoints() -> Iterator[None]:
    """Within: nothing is recomputed backwards; what ``torch.utils.checkpoint`` gives is the same."""
    places = {
        "CheckpointFunction": types.SimpleNamespace(apply=lambda function, _, *args: function(*args)),
        "_checkpoint_without_reentrant_generator": lambda *_, **__: iter((None,)),
    }
    before = {name: getattr(torch.utils.checkpoint, name) for name in places if hasattr(torch.utils.checkpoint, name)}
    try:
        for name in before:
            setattr(torch.utils.checkpoint, name, places[name])
        yield
    finally:
        for name, value in before.items():
            setattr(torch.utils.checkpoint, name, value)


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Within: 10-bit products on NVIDIA GPUs, or none; by the old switches where torch has no others."""
    backends = torch.backends
    parts = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn] if hasattr(backends.cudnn, "conv") else []
    name, value = ("fp32_precision", "tf32" if allowed else "ieee") if parts else ("allow_tf32", allowed)
    parts = parts or [backends.cuda.matmul, backends.cudnn]
    before = [getattr(part, name) for part in parts]
    try:
        for part in parts:
            setattr(part, name, value)
        yield
    finally:
        for part, old in zip(parts, before, strict=True):
            setattr(part, name, old)


@contextmanager
def exact_derivatives(tf32: bool = False) -> Iterator[None]:
    """Within: attention by its formula, full precision, nothing kept by parametrizations, nothing compiled, gradients.

    Fused attention has no forward mode, TF32 has 10 bits, ``parametrize.cached()`` would keep a tensor of the first
    evaluation for all others, and under ``no_grad`` forward derivatives of some backward passes are silently lost.
    Afterwards all is as it was.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    cache = parametrize._cache_enabled, parametrize._cache
    compiled = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        parametrize._cache_enabled, parametrize._cache = 0, {}
        with (
            compiled,
            _without_checkpoints(),
            _tf32(tf32) if torch.cuda.is_available() else nullcontext(),
            sdpa_kernel(SDPBackend.MATH),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        parametrize._cache_enabled, parametrize._cache = cache


class Network:
    """f as a function of (parameters, inputs). ``parameters``: the trainable ones; ``fixed``: the rest and buffers.

    ``prefix``: what the user's names of parameters have before these.

    Each call starts from the attributes that the module had at first: what it keeps of one call does not reach the
    next, so that a tensor computed from parameters and kept is a function of them in every call. ``functional``:
    whether other tensors can stand in for the module's parameters while it is differentiated. ``composed``: whether
    its calls are watched for functions that others must stand in for; ``shares``: as in ``LayerCallRecorder``, of any call.
    ``keeps``: whether a call has changed attributes.
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
        """f(inputs); ``tangents``: composed of functions that forward mode and second derivatives are right for."""
        with self.precision(), self._composed(tangents):
            return self.plain(parameters, inputs)

    def _composed(self, tangents: bool) -> AbstractContextManager:
        return Composed(self.dtype, tangents=tangents) if self.composed or tangents else nullcontext()

    def plain(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """The call under whatever ``TorchFunctionMode`` is in force."""
        try:
            if self.functional:
                return self._with(parameters, inputs)
            with torch.no_grad(), self.own(parameters):
                return self.module(inputs)
        finally:
            self.restore()

    def _with(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """The module's own call, with other tensors in the place of its parameters."""
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
        """Whether two calls in a row, with what the module keeps of the first one, give the same."""
        with torch.no_grad(), self.precision(), Composed(self.dtype):
            first, second = (self.module(inputs) for _ in range(2))
        self.restore()
        return torch.equal(first, second)

    @contextmanager
    def own(self, parameters: Parameters) -> Iterator[Parameters]:
        """The module's own parameters, with these values."""
        own = self._trainable
        before = {name: p.detach().clone() for name, p in own.items()}
        try:
            for name, p in own.items():
                p.data.copy_(parameters[name])
            yield own
        finally:
            for name, p in own.items():
                p.data.copy_(before[name])

    def moved(self, direction: Parameters, step: float) -> Network:
        """The same network at parameters + step * direction."""
        return self.at({name: p + step * direction[name] for name, p in self.parameters.items()})

    def at(self, parameters: Parameters) -> Network:
        """The same network at other parameters."""
        there = copy.copy(self)
        there.parameters = parameters
        return there

    def trainable_module(self) -> nn.Module:
        """A copy of the module, its trainable parameters with requires_grad as the user's have."""
        module = copy.deepcopy(self.module)
        for name, p in module.named_parameters():
            p.requires_grad_(name in self.parameters)
        return module

    def in_float64(self) -> Network:
        """The same network in float64; itself where it is."""
        if self.dtype == torch.float64:
            return self
        return Network(self.trainable_module(), torch.float64, self.device)

    def restore(self) -> None:
        """Put the module's attributes back as they were before its first call."""
        self.keeps |= self.attributes.restore()

    @contextmanager
    def precision(self) -> Iterator[None]:
        """Tensors that the module makes are made in the network's own precision, whatever the default is."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)

    def forget(self, inputs: Tensor) -> None:
        """Drop what the module kept of calls before this one, as far as it makes it anew from its parameters."""
        if not self.attributes.tensors:
            return
        leaves = {name: p.detach().requires_grad_() for name, p in self.parameters.items()}

        def call() -> None:
            with self.precision(), Composed(self.dtype):
                self._with(leaves, inputs)

        forget(self.anatomy, call)
        self.attributes = Attributes(self.anatomy)
