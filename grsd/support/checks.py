"""Check models, batches and devices before any computing; raise errors of one line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real

import torch
from torch import Tensor, nn

from grsd.support.faults import is_slip
from grsd.support.host import changed
from grsd.support.values import said

UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
FEW = 8
KINDS = {"cpu", "cuda"}  # where it computes
PLAIN = [nn.Parameter, nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer]
DTYPES = {torch.float32: "torch.float32", torch.float64: "torch.float64"}


def floating_dtype(call: str, dtype: torch.dtype) -> torch.dtype:
    """Return ``dtype`` if it is float32 or float64; raise ``TypeError`` otherwise."""
    if not isinstance(dtype, torch.dtype) or dtype not in DTYPES:
        raise TypeError(f"{call}(dtype=...): expected torch.float32 or torch.float64, got {said(dtype)}")
    return dtype


def resolve_device(call: str, device: str | torch.device | None, model: nn.Module) -> torch.device:
    """Return the device a call computes on.

    ``None`` keeps the model's own device; ``"auto"`` takes CUDA if it is available and the CPU otherwise; any other
    value is taken as it is. Raise ``ValueError`` for MPS (no float64) and for CUDA if it is not available.
    """
    own = device is None
    if device is None:
        first = next(iter(model.parameters()), None)
        device = torch.device("cpu") if first is None else first.device
    elif isinstance(device, str) and device == "auto":
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError, ValueError, OverflowError):
        raise ValueError(f"{call}(device=...): expected 'auto', 'cpu' or 'cuda', got {said(device)}") from None
    if device.type == "mps":
        raise ValueError(f"{call}(device='mps'): MPS has no float64, which low shells need; use device='cpu'")
    if device.type not in KINDS and own:
        raise ValueError(f"{call}(model, ...): the model is on the device '{device}'; load it on 'cpu' or 'cuda' first")
    if device.type not in KINDS:
        raise ValueError(f"{call}(device=...): expected 'auto', 'cpu' or 'cuda', got '{device}'")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{call}(device='{device}'): no CUDA device here; use device='auto' or 'cpu'")
    return device


def check_inputs(call: str, model: nn.Module, inputs: Tensor) -> None:
    """Refuse a model that is no torch module or has no trainable parameter, and inputs that are no finite batch."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{call}(model, ...): expected a torch.nn.Module, got {type(model).__name__}")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(f"{call}(model, ...): the model has no parameter with requires_grad=True; nothing can learn")
    if not isinstance(inputs, Tensor):
        hint = "; use torch.as_tensor(inputs)" if hasattr(inputs, "__array__") else ""
        raise TypeError(f"{call}(..., inputs): expected a torch.Tensor, got {type(inputs).__name__}{hint}")
    if inputs.ndim == 0 or inputs.shape[0] == 0:
        raise ValueError(f"{call}(..., inputs): expected a batch of shape (N, ...), N >= 1, got {tuple(inputs.shape)}")
    if inputs.is_complex() or inputs.layout != torch.strided:
        what = str(inputs.dtype if inputs.is_complex() else inputs.layout)
        raise TypeError(f"{call}(..., inputs): expected a dense real tensor, got {what}")
    if inputs.device.type == "meta":
        raise ValueError(f"{call}(..., inputs): they are on the meta device and have no values")
    if inputs.is_floating_point() and not bool(torch.isfinite(inputs).all()):
        raise ValueError(f"{call}(..., inputs): found NaN or infinity; remove those samples first")


def check_others(call: str, model: nn.Module, inputs: Tensor, others: Tensor) -> None:
    """Refuse a second batch whose samples are not like those of the first, which is checked too."""
    check_inputs(call, model, inputs)
    if not isinstance(others, Tensor):
        raise TypeError(f"{call}(others=...): expected a torch.Tensor, a batch like inputs, got {said(others)}")
    if others.layout != torch.strided or others.is_complex():
        what = str(others.dtype if others.is_complex() else others.layout)
        raise TypeError(f"{call}(others=...): expected a dense real tensor, got {what}")
    if others.ndim == 0 or others.shape[0] == 0 or others.shape[1:] != inputs.shape[1:]:
        wanted = ", ".join(["N", *map(str, inputs.shape[1:])])
        raise ValueError(f"{call}(others=...): expected a batch of shape ({wanted}), got {tuple(others.shape)}")
    if others.dtype != inputs.dtype or others.device != inputs.device:
        raise TypeError(
            f"{call}(others=...): expected {inputs.dtype} on {inputs.device}, as inputs are, got {others.dtype} on "
            f"{others.device}"
        )
    if others.is_floating_point() and not bool(torch.isfinite(others).all()):
        raise ValueError(f"{call}(others=...): found NaN or infinity; remove those samples first")


def check_module(call: str, model: nn.Module, device: str | torch.device | None) -> None:
    """Refuse a module whose exact real derivative cannot be computed here, or whose tensors lie on several devices."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in tensors.items():
        if isinstance(tensor, nn.parameter.UninitializedTensorMixin):
            raise ValueError(f"{call}(model, ...): {name} has no shape yet; call the model once first")
        if getattr(tensor, "_backward_hooks", None):
            raise ValueError(
                f"{call}(model, ...): {name} has a hook on its gradient; remove it, since M has no place for it"
            )
        if isinstance(tensor, nn.Parameter) and type(tensor) not in PLAIN:
            raise TypeError(
                f"{call}(model, ...): expected plain parameters, {name} is a {type(tensor).__name__}, whose own ways "
                "a copy would lose"
            )
        if tensor.is_complex():
            raise TypeError(f"{call}(model, ...): expected real parameters and buffers, {name} is {tensor.dtype}")
        if tensor.layout != torch.strided:
            raise TypeError(f"{call}(model, ...): expected dense tensors, {name} is {tensor.layout}; use to_dense()")
        if tensor.device.type == "meta":
            raise ValueError(f"{call}(model, ...): {name} is on the meta device and has no values")
    places = sorted(map(str, {tensor.device for tensor in tensors.values()}))
    if device is None and len(places) > 1:
        raise ValueError(f"{call}(model, ...): the model is spread over {', '.join(places)}; name one device")
    for name, part in model.named_modules():
        if not isinstance(part, (nn.Embedding, nn.EmbeddingBag)):
            continue
        for option in ("sparse", "scale_grad_by_freq", "max_norm"):
            if getattr(part, option):
                raise ValueError(
                    f"{call}(model, ...): {name or 'the model'} has {option}={getattr(part, option)!r}, under which "
                    "its gradient is not the derivative of its output, or sparse; switch it off"
                )


def check_outputs(call: str, outputs: object, samples: int, *, positions: bool = False) -> None:
    """Refuse a model whose output is no finite real tensor (N, C) or (N,), or, with ``positions``, (N, T, C)."""
    if not isinstance(outputs, Tensor):
        raise TypeError(
            f"{call}(model, ...): the model must return one tensor, it returned {type(outputs).__name__}; "
            f"{adapter(outputs, samples)}"
        )
    if outputs.ndim not in {1, 2, 2 + positions} or outputs.shape[0] != samples or 0 in outputs.shape:
        several = outputs.ndim > 2 and outputs.shape[0] == samples and 0 not in outputs.shape
        hint = "; flatten it: torch.nn.Sequential(model, torch.nn.Flatten())" if several else ""
        raise ValueError(
            f"{call}(model, ...): the model must map {samples} samples to an output of shape ({samples}, C) or "
            f"({samples},), it gave {tuple(outputs.shape)}{hint}"
        )
    if not outputs.is_floating_point():
        raise TypeError(f"{call}(model, ...): the model's output must be real floating point, it is {outputs.dtype}")
    if not bool(torch.isfinite(outputs).all()):
        raise ValueError(f"{call}(model, ...): the model's output contains NaN or infinity")


def adapter(outputs: object, samples: int) -> str:
    """Return the line that makes a module of one tensor from a model that returns several, ready to be run."""
    pairs = list(outputs.items()) if isinstance(outputs, Mapping) else []
    if isinstance(outputs, tuple | list):
        pairs = list(enumerate(outputs))
    pairs = pairs or list(vars(outputs).items() if hasattr(outputs, "__dict__") else ())
    fit = [
        (key, value)
        for key, value in pairs
        if isinstance(key, str | int) and isinstance(value, Tensor) and value.is_floating_point()
        if value.ndim and len(value) == samples
    ]
    if not fit:
        return "wrap it in a module that returns the tensor to study"
    key = next((key for key, _ in fit if key == "logits"), fit[0][0])
    shapes = ", ".join(f"{key!r} {tuple(value.shape)}" for key, value in fit[:FEW])
    return f"take one of {shapes}: model = grsd.output(model, {key!r})"


def repeatable(
    call: str, function: Callable[[], object], kept: Mapping[str, Tensor], again: Callable[[], object] | None = None
) -> object:
    """Return the output of ``function``, computed without a graph; refuse a model that is random or changes ``kept``.

    The model is called twice and the two outputs are compared. ``again``: the second call, if it differs from
    ``function``.
    """
    before = {name: tensor.clone() for name, tensor in kept.items()}
    with torch.no_grad(), in_one_line(call, _not_called):
        outputs, second = function(), (again or function)()
    written = changed(kept, before)
    random = isinstance(outputs, Tensor) and not torch.equal(outputs, second) and bool(torch.isfinite(outputs).all())
    if written or random:
        what = f"changes {written[0]!r}" if written else "gives another output each time"
        raise ValueError(
            f"{call}(model, ...): the model {what} when it is called (dropout or batch norm in training mode?); call "
            "model.eval() first"
        )
    return outputs


@contextmanager
def in_one_line(call: str, text: Callable[[Exception], str]) -> Iterator[None]:
    """Turn an exception of a model into a ``RuntimeError`` of one line: the call's name, then ``text(exception)``.

    Refusals by the call itself, slips of this package, out-of-memory errors and ``OSError`` pass unchanged.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, OSError):
        raise
    except Exception as error:  # a foreign model may raise anything
        if isinstance(error, (ValueError, TypeError, RuntimeError)) and str(error).startswith(call):
            raise
        if is_slip(error):
            raise
        raise RuntimeError(f"{call}{text(error)}") from error


def _not_called(error: Exception) -> str:
    said_by = (str(error).splitlines() or [""])[0]
    return f"(model, inputs): the model cannot be called on these inputs, {type(error).__name__}: {said_by}"


def memory_bytes(call: str, limit: str | int) -> int:
    """Bytes, from a number or from text such as "4GiB"; raise ``ValueError`` otherwise."""
    match = re.fullmatch(r"\s*(\d{1,30}(?:\.\d+)?)\s*([KMG]i?B|B)?\s*", str(limit))
    if not isinstance(limit, str | Real) or isinstance(limit, bool) or match is None:
        raise ValueError(f"{call}(memory_limit=...): expected bytes or text such as '4GiB', got {said(limit)}")
    return int(float(match[1]) * UNITS[match[2] or "B"])
