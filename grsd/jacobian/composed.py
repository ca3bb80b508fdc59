"""Replaces fused functions by compositions, and casts to a lower precision by the network's own precision.

Some fused functions have no derivative in forward mode, none of second order, or a wrong one (layer and instance
normalization, linear solves); the elementary functions that they consist of have correct derivatives.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from grsd.jacobian.norms import BatchNorm, GroupNorm, LayerNorm, RMSNorm
from grsd.jacobian.recurrent import CELLS, LAYERS, without_cudnn

LOW = frozenset({torch.float32, torch.float16, torch.bfloat16})
NAMES = {"torch.FloatTensor", "torch.HalfTensor", "torch.BFloat16Tensor", "float32", "float16", "bfloat16"}
NAMES |= {name.replace("torch.", "torch.cuda.") for name in NAMES if name.startswith("torch.")}


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    others = [axis for axis in range(v.ndim) if axis != dim]
    return v * (g / (v.norm() if dim == -1 else torch.linalg.vector_norm(v, 2, others, keepdim=True)))


def _standardized(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(dims, keepdim=True)
    return centred * (centred.square().mean(dims, keepdim=True) + eps).rsqrt()


def _layer_norm(*args: object, **kwargs: object) -> Tensor:
    norm = LayerNorm(*args, **kwargs)
    shape = (norm.normalized_shape,) if isinstance(norm.normalized_shape, int) else norm.normalized_shape
    out = _standardized(norm.input, tuple(range(-len(shape), 0)), norm.eps)
    out = out if norm.weight is None else out * norm.weight
    return out if norm.bias is None else out + norm.bias


def _rms_norm(*args: object, **kwargs: object) -> Tensor:
    norm = RMSNorm(*args, **kwargs)
    dims = tuple(range(-len(norm.normalized_shape), 0))
    eps = torch.finfo(norm.input.dtype).eps if norm.eps is None else norm.eps
    out = norm.input * (norm.input.square().mean(dims, keepdim=True) + eps).rsqrt()
    return out if norm.weight is None else out * norm.weight


def _channels(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 2))


def _group_norm(*args: object, **kwargs: object) -> Tensor:
    norm = GroupNorm(*args, **kwargs)
    grouped = norm.input.reshape(norm.input.shape[0], norm.num_groups, -1)
    out = _standardized(grouped, (-1,), norm.eps).reshape(norm.input.shape)
    out = out if norm.weight is None else out * _channels(norm.weight, norm.input)
    return out if norm.bias is None else out + _channels(norm.bias, norm.input)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        return still_batch_norm(input, running_mean, running_var, weight, bias, eps=eps)
    return _group_norm(input, input.shape[1], weight, bias, eps)


def still_batch_norm(*args: object, **kwargs: object) -> Tensor:
    """``F.batch_norm`` in evaluation mode; backwards it takes one product per cotangent, torch's own takes four."""
    norm = BatchNorm(*args, **kwargs)
    scale = (norm.running_var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    out = (norm.input - _channels(norm.running_mean, norm.input)) * _channels(scale, norm.input)
    return out if norm.bias is None else out + _channels(norm.bias, norm.input)


def _batch_norm(*args: object, **kwargs: object) -> Tensor:
    norm = BatchNorm(*args, **kwargs)
    return F.batch_norm(*norm) if norm.uses_batch_statistics else still_batch_norm(*norm)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if dropout_p > 0:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    weights = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(weights.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None:
        weights = weights.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else weights + attn_mask
    return _softmax(weights, -1) @ value


def _elementwise(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Adds torch's option ``inplace``; backward passes then use a copy of the input that is overwritten."""

    def called(input: Tensor, *args: float, inplace: bool = False, **options: float) -> Tensor:
        return input.copy_(function(input.clone(), *args, **options)) if inplace else function(input, *args, **options)

    return called


def _shifted(x: Tensor, dim: int) -> Tensor:
    return x - x.detach().amax(dim, keepdim=True).nan_to_num(neginf=0.0)


def _usual_dim(x: Tensor, dim: int | None) -> int:
    """The dimension that torch chooses if none is given."""
    return (0 if x.ndim in {0, 1, 3} else 1) if dim is None else dim


def _softmax(x: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    dim = _usual_dim(x, dim)
    weights = _shifted(x if dtype is None else x.to(dtype), dim).exp()
    return weights / weights.sum(dim, keepdim=True)


def _log_softmax(x: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    dim = _usual_dim(x, dim)
    shifted = _shifted(x if dtype is None else x.to(dtype), dim)
    return shifted - shifted.exp().sum(dim, keepdim=True).log()


def _with_dim(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``torch.softmax`` and ``Tensor.softmax`` take (x, dim, dtype)."""
    return lambda x, dim, dtype=None: function(x, dim, dtype=dtype)


def _logsumexp(x: Tensor, dim: int | tuple[int, ...], keepdim: bool = False) -> Tensor:
    top = x.detach().amax(dim, keepdim=True).nan_to_num(neginf=0.0)
    out = (x - top).exp().sum(dim, keepdim=True).log() + top
    return out if keepdim else out.sum(dim)


def _glu(x: Tensor, dim: int = -1) -> Tensor:
    half, gate = x.chunk(2, dim)
    return half * torch.sigmoid(gate)


def _cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str | None = None) -> Tensor:
    return torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)


def _solve(A: Tensor, B: Tensor, *, left: bool = True) -> Tensor:
    inverse = torch.linalg.inv(A)
    if not left:
        return B @ inverse
    vector = B.ndim == 1 or B.shape == A.shape[:-1]
    return (inverse @ B.unsqueeze(-1)).squeeze(-1) if vector else inverse @ B


def _hardswish(x: Tensor) -> Tensor:
    return torch.where(x >= 3, x, torch.where(x > -3, x * (x + 3) / 6, torch.zeros_like(x)))


def _hardtanh(x: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """Its derivative is zero at its kinks, as torch's is; that of ``clamp`` is not."""
    return torch.where((x > min_val) & (x < max_val), x, x.detach().clamp(min_val, max_val))


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """``F.embedding_bag`` of a matrix of tokens, one bag per row, from ``F.embedding``."""
    if input.ndim != 2:
        options = (max_norm, norm_type, scale_grad_by_freq, mode, sparse, per_sample_weights, include_last_offset)
        with torch._C.DisableTorchFunction():
            return F.embedding_bag(input, weight, offsets, *options, padding_idx)
    rows = F.embedding(input, weight)
    kept = torch.ones_like(input, dtype=torch.bool) if padding_idx is None else input != padding_idx % len(weight)
    if mode == "max":
        rows = rows.masked_fill(~kept[..., None], -math.inf).max(1).values  # the first of ties, as in torch
        return rows.masked_fill(~kept.any(1, keepdim=True), 0.0)
    factors = kept.to(weight.dtype)
    out = (rows * (factors if per_sample_weights is None else factors * per_sample_weights)[..., None]).sum(1)
    return out / factors.sum(1, keepdim=True).clamp(min=1) if mode == "mean" else out


def _grouped_mm(
    mat_a: Tensor, mat_b: Tensor, offs: Tensor | None = None, bias: Tensor | None = None, **options: object
) -> Tensor:
    if offs is None:
        return mat_a @ mat_b
    ends = offs.tolist()
    spans = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    if mat_a.ndim == 2 and mat_b.ndim == 3:
        return torch.cat([mat_a[span] @ mat_b[i] for i, span in enumerate(spans)])
    if mat_a.ndim == 3:
        return torch.cat([mat_a[i] @ mat_b[:, span] for i, span in enumerate(spans)], -1)
    return torch.stack([mat_a[:, span] @ mat_b[span] for span in spans])


ALWAYS: dict[Callable, Callable[..., Tensor]] = {torch._weight_norm: _weight_norm}
ALWAYS |= {
    function: _grouped_mm
    for place in (F, torch)
    for name in ("grouped_mm", "_grouped_mm")
    if (function := getattr(place, name, None)) is not None
}
TANGENT: dict[Callable, Callable[..., Tensor]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
    F.batch_norm: _batch_norm,
    F.scaled_dot_product_attention: _attention,
    F.silu: _elementwise(lambda x: x * torch.sigmoid(x)),
    F.softmax: _softmax,
    F.log_softmax: _log_softmax,
    torch.softmax: _with_dim(_softmax),
    Tensor.softmax: _with_dim(_softmax),
    torch.log_softmax: _with_dim(_log_softmax),
    Tensor.log_softmax: _with_dim(_log_softmax),
    torch.logsumexp: _logsumexp,
    Tensor.logsumexp: _logsumexp,
    F.glu: _glu,
    torch.cdist: _cdist,
    torch.linalg.solve: _solve,
    F.hardtanh: _elementwise(_hardtanh),
    F.relu6: _elementwise(lambda x: _hardtanh(x, 0.0, 6.0)),
    F.hardsigmoid: _elementwise(lambda x: _hardtanh(x, -3.0, 3.0) / 6 + 0.5),
    F.hardswish: _elementwise(_hardswish),
}
# On CUDA torch divides by six in float32, and cuDNN's layers have no backward pass in evaluation mode.
ON_CUDA: dict[Callable, Callable] = {function: TANGENT[function] for function in (F.hardsigmoid, F.hardswish)}
ON_CUDA |= {layer: without_cudnn(layer) for layer in LAYERS}
CASTS = frozenset({Tensor.float, Tensor.half, Tensor.bfloat16})
TO = frozenset({Tensor.to, Tensor.type, Tensor.type_as})


def _is_written_in_python(function: Callable) -> bool:
    """Whether a function of ``torch.nn.functional`` is Python code that dispatches on modes itself."""
    if type(function) is not types.FunctionType or function.__module__ != F.__name__ or function.__closure__:
        return False
    return "handle_torch_function" in function.__code__.co_names and getattr(F, function.__name__, None) is function


@cache
def _seen_through(function: Callable) -> Callable:
    """The same function without its dispatch on modes, so that the calls inside it are seen."""
    names = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    unseen = function.__globals__ | dict.fromkeys(names, lambda *_: False)
    copied = types.FunctionType(
        function.__code__, unseen, function.__name__, function.__defaults__, function.__closure__
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


def _is_on_cuda(args: tuple) -> bool:
    return bool(args) and isinstance(args[0], Tensor) and args[0].is_cuda


OPENED: dict[Callable, Callable] = {
    F.embedding_bag: embedding_bag,
    F.multi_head_attention_forward: _seen_through(F.multi_head_attention_forward),
    **LAYERS,
}


class Composed(TorchFunctionMode):
    """Replaces fused functions by compositions, and in float64 passes casts to lower precision by casts to ``dtype``.

    ``tangents``: also replace functions whose first derivatives by backward passes are correct. ``intervened``: whether
    any function or cast has been replaced.
    """

    def __init__(self, dtype: torch.dtype, *, tangents: bool = False) -> None:
        super().__init__()
        self.replaced = ALWAYS | TANGENT if tangents else ALWAYS
        self.lower = LOW if dtype == torch.float64 else frozenset()
        self.dtype, self.tangents = dtype, tangents
        self.opened = OPENED | CELLS if tangents else {F.embedding_bag: embedding_bag}
        self.intervened = False

    def __torch_function__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        return self.called(func, args, kwargs or {})

    def called(self, func: Callable, args: tuple, kwargs: dict) -> object:
        """The result of the function or of its replacement."""
        if self.lower:
            if func in CASTS:
                self.intervened = True
                return args[0].to(self.dtype)
            if func in TO or torch.dtype in map(type, args):
                args = (*args[:1], *(self._raised(value) for value in args[1:]))
            if "dtype" in kwargs:
                kwargs = {**kwargs, "dtype": self._raised(kwargs["dtype"])}
        if func in self.replaced:
            self.intervened = True
            return self.replaced[func](*args, **kwargs)
        special = func in ON_CUDA and _is_on_cuda(args)
        self.intervened |= special
        if func in self.opened or (self.tangents and _is_written_in_python(func)):
            self.intervened |= func is F.embedding_bag  # the others are opened only to record the calls inside
            with self:
                return (self.opened.get(func) or _seen_through(func))(*args, **kwargs)
        return (ON_CUDA[func] if special else func)(*args, **kwargs)

    def _raised(self, value: object) -> object:
        if isinstance(value, Tensor):
            low = value.dtype in self.lower
        else:
            low = value in self.lower if isinstance(value, torch.dtype) else isinstance(value, str) and value in NAMES
        self.intervened |= low
        if not low:
            return value
        return value.to(self.dtype) if isinstance(value, Tensor) else self.dtype
