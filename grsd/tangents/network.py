"""A module as a function of its trainable parameters, on a private copy: the user's module is never written to."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize

from grsd.tangents.composed import Composed
from grsd.tangents.kept import Kept, forget, hidden_modules, kept_tensors

Parameters = dict[str, Tensor]


def private_copy(module: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A deep copy in ``dtype`` on ``device``, tensors that the module keeps as attributes included; nothing trainable.

    Kept tensors with a graph are copied as leaves, so that a graph that ends in them can be told.
    """
    stale = [kept.tensor for kept in kept_tensors(module) if not kept.tensor.is_leaf]
    memo = {id(tensor): tensor.detach().clone().requires_grad_() for tensor in stale}
    private = copy.deepcopy(module, memo).to(device=device, dtype=dtype)
    for kept in kept_tensors(private):
        if kept.tensor.layout == torch.strided:
            kept.tensor.data = kept.tensor.data.to(device, dtype if kept.tensor.is_floating_point() else None)
    for hidden in hidden_modules(private).values():
        hidden.to(device=device, dtype=dtype)
    return private.requires_grad_(False)


@contextmanager
def exact_derivatives(tf32: bool = False) -> Iterator[None]:
    """Within: attention by its formula, full precision, nothing kept by parametrizations, nothing compiled, gradients.

    Fused attention has no forward mode, TF32 has 10 bits, ``parametrize.cached()`` would keep a tensor of the first
    evaluation for all others, and under ``no_grad`` forward derivatives of some backward passes are silently lost.
    Afterwards all is as it was.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    cache = parametrize._cache_enabled, parametrize._cache
    compiled = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        parametrize._cache_enabled, parametrize._cache = 0, {}
        with compiled, sdpa_kernel(SDPBackend.MATH), torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
        parametrize._cache_enabled, parametrize._cache = cache


class Network:
    """f as a function of (parameters, inputs). ``parameters``: the trainable ones; ``fixed``: the rest and buffers.

    Each call starts from the attributes that the module had at first: what it keeps of one call does not reach the
    next, so that a tensor computed from parameters and kept is a function of them in every call. ``functional``:
    whether other tensors can stand in for the module's parameters while it is differentiated. ``composed``: whether
    its calls are watched for functions that others must stand in for.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
        self.module, self.dtype, self.device = private_copy(module, dtype, device), dtype, device
        trainable = {name for name, p in module.named_parameters() if p.requires_grad}
        everything = {name: p.detach() for name, p in self.module.named_parameters()}
        self.parameters = {name: p for name, p in everything.items() if name in trainable}
        self.fixed = {name: p for name, p in everything.items() if name not in trainable}
        self.fixed |= {name: buffer.detach() for name, buffer in self.module.named_buffers()}
        self.functional = not any(isinstance(part, torch.jit.ScriptModule) for part in self.module.modules())
        self.composed = True
        self._kept = Kept(self.module)

    def __call__(self, parameters: Parameters, inputs: Tensor, *, tangents: bool = False) -> Tensor:
        """f(inputs); ``tangents``: composed of functions that forward mode and second derivatives are right for."""
        with self.precision(), Composed(self.dtype, tangents=tangents) if self.composed else nullcontext():
            return self.plain(parameters, inputs)

    def plain(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """The call under whatever ``TorchFunctionMode`` is in force."""
        try:
            if self.functional:
                return functional_call(self.module, parameters | self.fixed, (inputs,))
            with torch.no_grad(), self._values(parameters):
                return self.module(inputs)
        finally:
            self.restore()

    @contextmanager
    def _values(self, parameters: Parameters) -> Iterator[None]:
        """The module's own parameters with these values."""
        own = {name: p for name, p in self.module.named_parameters() if name in self.parameters}
        before = {name: p.detach().clone() for name, p in own.items()}
        try:
            for name, p in own.items():
                p.copy_(parameters[name])
            yield
        finally:
            for name, p in own.items():
                p.copy_(before[name])

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
        self._kept.restore()

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
        leaves = {name: p.detach().requires_grad_() for name, p in self.parameters.items()}

        def call() -> None:
            with self.precision(), Composed(self.dtype):
                functional_call(self.module, leaves | self.fixed, (inputs,))

        forget(self.module, call)
        self._kept = Kept(self.module)
