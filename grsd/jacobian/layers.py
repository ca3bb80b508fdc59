r"""The features that multiply the backprops of each known layer.

For a call ``out = layer(input, weight, bias)`` with delta = df/d(out) the Jacobian of the weight is a sum over
positions t of delta_t times features_t: an outer product for linear layers and convolutions (after unfolding) and for
embeddings (one-hot tokens), an elementwise product for the scales of normalizations. A call is recognised by its
function of ``torch.nn.functional``, in whatever module it is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from grsd.jacobian.norms import BatchNorm, GroupNorm, LayerNorm, RMSNorm

OUTER, SCALE = "outer", "scale"
LINEAR, ELEMENTWISE = ("linear",), ("elementwise",)


@dataclass(frozen=True)
class Call:
    """One recognised call of a layer.

    ``lead``: the number of leading dimensions of the output, one of which contains the samples. ``features(input)``:
    these dimensions, then (groups, positions, p) for OUTER and (positions, *weight.shape) for SCALE.
    ``arrange(delta)``: the backprops likewise, (groups, positions, q) or (positions, *weight.shape) after the lead.
    ``input`` is kept instead of the features, since it is smaller; None if the trace has no graph. Calls of the same
    ``form`` may be added position by position.
    """

    kind: str
    weight: Tensor | None
    bias: Tensor | None
    lead: int
    input: Tensor | None
    features: Callable[[Tensor], Tensor]
    arrange: Callable[[Tensor], Tensor]
    form: tuple
    tokens: Tensor | None = None


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Call | None:
    if input.ndim < 2:
        return None
    lead = input.ndim - 1
    return Call(
        OUTER,
        weight,
        bias,
        lead,
        input,
        lambda x: x[..., None, None, :],
        lambda delta: delta[..., None, None, :],
        LINEAR,
    )


def _convolution(dimensions: int) -> Callable[..., Call | None]:
    def call(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | tuple[int, ...] = 1,
        padding: int | str | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
    ) -> Call | None:
        if input.ndim != dimensions + 2:
            return None
        kernel = weight.shape[2:]
        stride, dilation = _each(stride, dimensions), _each(dilation, dimensions)
        if padding == "same":
            total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
            around = [(t // 2, t - t // 2) for t in total]
        else:
            around = [(p, p) for p in _each(0 if padding == "valid" else padding, dimensions)]

        def features(input: Tensor) -> Tensor:
            patches = F.pad(input, [p for pair in reversed(around) for p in pair])
            for axis, (size, step, gap) in enumerate(zip(kernel, stride, dilation, strict=True), 2):
                patches = patches.unfold(axis, gap * (size - 1) + 1, step)[..., ::gap]
            places = range(2, 2 + dimensions)  # last, so that contiguous numbers are copied together
            patches = patches.permute(0, 1, *(axis + dimensions for axis in places), *places)
            return patches.reshape(input.shape[0], groups, weight[0].numel(), -1).transpose(2, 3)

        def arrange(delta: Tensor) -> Tensor:
            return delta.reshape(delta.shape[0], groups, weight.shape[0] // groups, -1).transpose(2, 3)

        return Call(OUTER, weight, bias, 1, input, features, arrange, ("convolution", groups))

    return call


def _each(value: int | tuple[int, ...], dimensions: int) -> tuple[int, ...]:
    many = (value,) if isinstance(value, int) else tuple(value)
    return many * dimensions if len(many) == 1 else many


def _trailing(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, lead: int, normalized: Callable[[Tensor], Tensor]
) -> Call:
    """The call of a normalization whose scales multiply the dimensions after the first ``lead``."""
    return Call(
        SCALE,
        weight,
        bias,
        lead,
        input,
        lambda x: normalized(x).unsqueeze(lead),
        lambda delta: delta.unsqueeze(lead),
        ("scale",),
    )


def _layer_norm(*args: object, **kwargs: object) -> Call:
    norm = LayerNorm(*args, **kwargs)
    shape, eps = norm.normalized_shape, norm.eps  # not ``norm``, which would keep the input alive as long as the call
    lead = norm.input.ndim - len(shape)
    return _trailing(norm.input, norm.weight, norm.bias, lead, lambda x: F.layer_norm(x, shape, eps=eps))


def _rms_norm(*args: object, **kwargs: object) -> Call:
    norm = RMSNorm(*args, **kwargs)
    shape, eps = norm.normalized_shape, norm.eps
    lead = norm.input.ndim - len(shape)
    return _trailing(norm.input, norm.weight, None, lead, lambda x: F.rms_norm(x, shape, eps=eps))


def _channels(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, normalized: Callable[[Tensor], Tensor]
) -> Call:
    def last(delta: Tensor) -> Tensor:
        return delta.flatten(2).transpose(1, 2) if delta.ndim > 2 else delta[:, None]

    return Call(SCALE, weight, bias, 1, input, lambda x: last(normalized(x)), last, ("scale",))


def _group_norm(*args: object, **kwargs: object) -> Call:
    norm = GroupNorm(*args, **kwargs)
    groups, eps = norm.num_groups, norm.eps
    return _channels(norm.input, norm.weight, norm.bias, lambda x: F.group_norm(x, groups, eps=eps))


def _batch_norm(*args: object, **kwargs: object) -> Call | None:
    norm = BatchNorm(*args, **kwargs)
    if norm.uses_batch_statistics:
        return None
    mean, var, eps = norm.running_mean, norm.running_var, norm.eps
    return _channels(norm.input, norm.weight, norm.bias, lambda x: F.batch_norm(x, mean, var, eps=eps))


def _embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Call | None:
    if max_norm is not None or scale_grad_by_freq or sparse or input.ndim < 1:
        return None
    skip = -1 if padding_idx is None else padding_idx % weight.shape[0]
    tokens = torch.where(input == skip, -1, input)
    return Call(
        OUTER,
        weight,
        None,
        input.ndim,
        tokens,
        lambda x: x[..., None, None, None],
        lambda delta: delta[..., None, None, :],
        ("embedding",),
        tokens,
    )


def _prelu(input: Tensor, weight: Tensor) -> Call:
    def negative(x: Tensor) -> Tensor:
        return torch.where(x > 0, 0, x)

    if weight.numel() > 1:
        return _channels(input, weight, None, negative)
    return Call(
        SCALE,
        weight,
        None,
        1,
        input,
        lambda x: negative(x).reshape(len(x), -1, 1),
        lambda delta: delta.reshape(len(delta), -1, 1),
        ("scale",),
    )


def elementwise(input: Tensor, parameter: Tensor, *, product: bool) -> Call | None:
    """``input + parameter`` or ``input * parameter``, the parameter broadcast over the samples."""
    size, shape = parameter.ndim, input.shape
    lead = input.ndim - size
    fits = lead > 0 and all(own in (1, whole) for own, whole in zip(parameter.shape, shape[lead:], strict=True))
    if not fits or input.dtype != parameter.dtype:
        return None
    repeated = [axis for axis in range(size) if parameter.shape[axis] == 1 and shape[lead + axis] > 1]

    def arrange(x: Tensor) -> Tensor:
        x = x.movedim([lead + axis for axis in repeated], list(range(lead, lead + len(repeated))))
        return x.reshape(*x.shape[:lead], -1, parameter.numel())

    if product:
        return Call(SCALE, parameter, None, lead, input, arrange, arrange, ELEMENTWISE)
    return Call(SCALE, None, parameter, lead, parameter, arrange, arrange, ELEMENTWISE)


OPERATORS = {
    function: name == "mul"
    for name in ("add", "mul")
    for function in (getattr(torch, name), *(getattr(Tensor, n) for n in (name, f"__{name}__", f"__r{name}__")))
}
RECOGNISED: dict[Callable, Callable[..., Call | None]] = {
    F.linear: _linear,
    F.conv1d: _convolution(1),
    F.conv2d: _convolution(2),
    F.conv3d: _convolution(3),
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.batch_norm: _batch_norm,
    F.embedding: _embedding,
    F.prelu: _prelu,
}
