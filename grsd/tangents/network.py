"""A module as a function of its trainable parameters, on a private copy: the user's module is never written to."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

Parameters = dict[str, Tensor]


def private_copy(module: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A deep copy in ``dtype`` on ``device``, gradients dropped. Cached tensors with a graph are copied detached."""
    cached = (v for part in module.modules() for v in vars(part).values() if isinstance(v, Tensor) and not v.is_leaf)
    private = copy.deepcopy(module, {id(tensor): tensor.detach().clone() for tensor in cached})
    return private.to(device=device, dtype=dtype).requires_grad_(False)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))


class Composed(TorchFunctionMode):
    """Puts compositions in the place of fused functions that have no forward mode."""

    FUSED: ClassVar = {torch._weight_norm: _weight_norm}

    def __torch_function__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        return self.FUSED.get(func, func)(*args, **(kwargs or {}))


@contextmanager
def exact_derivatives(tf32: bool = False):
    """Within: attention that has a forward mode, full precision, and gradients; afterwards all as it was.

    Fused attention has no forward mode, TF32 has 10 bits, and under ``no_grad`` forward derivatives of
    some backward passes are silently lost.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        with sdpa_kernel(SDPBackend.MATH), torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


class Network:
    """f as a function of (parameters, inputs). ``parameters``: the trainable ones; ``fixed``: the rest and buffers."""

    def __init__(self, module: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
        self.module = private_copy(module, dtype, device)
        trainable = {name for name, p in module.named_parameters() if p.requires_grad}
        everything = {name: p.detach() for name, p in self.module.named_parameters()}
        self.parameters = {name: p for name, p in everything.items() if name in trainable}
        self.fixed = {name: p for name, p in everything.items() if name not in trainable}
        self.fixed |= {name: buffer.detach() for name, buffer in self.module.named_buffers()}

    def __call__(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        with Composed():
            return functional_call(self.module, parameters | self.fixed, (inputs,))

    def pullback(self, inputs: Tensor, cotangent: Tensor) -> Parameters:
        """J^T cotangent; cotangent has the output's shape."""
        _, pull = vjp(lambda parameters: self(parameters, inputs), self.parameters)
        return pull(cotangent)[0]

    def pullback_and_rate(
        self, inputs: Tensor, cotangent: Tensor, direction: Parameters, rate: Tensor | None = None
    ) -> tuple[Parameters, Parameters]:
        """J^T cotangent and its derivative along ``direction``, while the cotangent changes by ``rate`` (None: not)."""

        def gradient(parameters: Parameters, cotangent: Tensor) -> Parameters:
            return vjp(lambda p: self(p, inputs), parameters)[1](cotangent)[0]

        if rate is None:
            return jvp(lambda parameters: gradient(parameters, cotangent), (self.parameters,), (direction,))
        return jvp(gradient, (self.parameters, cotangent), (direction, rate))

    def pushforward(self, inputs: Tensor, vector: Parameters) -> Tensor:
        """J vector, of the output's shape, as the transpose of ``pullback``: right where forward mode is not."""
        _, pull = vjp(lambda parameters: self(parameters, inputs), self.parameters)
        _, transpose = vjp(lambda cotangent: pull(cotangent)[0], self._nothing(inputs))
        return transpose(vector)[0]

    def pushforward_and_rate(
        self, inputs: Tensor, vector: Parameters, direction: Parameters, rate: Parameters
    ) -> tuple[Tensor, Tensor]:
        """J vector and its derivative along ``direction``, while the vector changes by ``rate``.

        The transpose of ``pullback_and_rate``.
        """
        _, transpose = vjp(lambda u: self.pullback_and_rate(inputs, u, direction), self._nothing(inputs))
        still = {name: torch.zeros_like(part) for name, part in vector.items()}
        return transpose((vector, still))[0], transpose((rate, vector))[0]

    def forward_twice(
        self, inputs: Tensor, vector: Parameters, direction: Parameters, rate: Parameters
    ) -> tuple[Tensor, Tensor]:
        """The same by forward mode inside forward mode: three times cheaper, silently wrong for layer normalization."""

        def push(parameters: Parameters, vector: Parameters) -> Tensor:
            return jvp(lambda p: self(p, inputs), (parameters,), (vector,))[1]

        return jvp(push, (self.parameters, vector), (direction, rate))

    def _nothing(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.zeros_like(self(self.parameters, inputs))
