"""A private copy of a module: in a given precision, without trainable parameters, and faster than ``copy.deepcopy``."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from grsd.jacobian.anatomy import Anatomy
from grsd.jacobian.kept import OWN, Attributes, tensors_with_graph

ATOMS = {bool, int, float, complex, str, bytes, type(None), type, torch.dtype, torch.device, torch.Size}
PLAIN = (nn.Parameter, Tensor, nn.Buffer)
HELD = frozenset({"_parameters", "_buffers", "_modules"})
HOOKS = OWN - HELD


def private_copy(module: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A deep copy of ``module`` in ``dtype`` on ``device``; none of its parameters is trainable."""
    return copy_and_attributes(module, dtype, device)[0]


def copy_and_attributes(
    module: nn.Module, dtype: torch.dtype, device: torch.device
) -> tuple[nn.Module, Anatomy, Attributes, Anatomy]:
    """(a deep copy in ``dtype`` on ``device``, its anatomy, its attributes, the anatomy of ``module``).

    Tensors that the module keeps as attributes are copied too. Those with a graph are copied as leaves, so that a
    graph that ends in them is recognised. No parameter of the copy is trainable.
    """
    theirs = anatomy = Anatomy(module)
    memo = {id(tensor): tensor.detach().clone().requires_grad_() for tensor in tensors_with_graph(anatomy)}
    with torch.no_grad():
        if any(isinstance(part, torch.jit.ScriptModule) for _, part in anatomy.parts):
            private = copy.deepcopy(module, memo).to(device=device, dtype=dtype)
            for p in private.parameters():
                p.requires_grad_(False)
        else:
            private = _copied(module, anatomy, dtype, device, memo)
    anatomy = Anatomy(private)
    attributes = Attributes(anatomy)
    for kept in attributes.tensors:
        if kept.tensor.layout == torch.strided:
            kept.tensor.data = kept.tensor.data.to(device, dtype if kept.tensor.is_floating_point() else None)
    for hidden in attributes.modules.values():
        hidden.to(device=device, dtype=dtype)
    return private, anatomy, Attributes(anatomy) if attributes.tensors else attributes, theirs


def _copied(
    module: nn.Module, anatomy: Anatomy, dtype: torch.dtype, device: torch.device, memo: dict[int, object]
) -> nn.Module:
    """Make each part as an empty object of its class first, then copy its attributes, which may refer to any part."""
    parts = [part for _, part in anatomy.parts if not hasattr(type(part), "__deepcopy__")]
    memo |= {id(part): type(part).__new__(type(part)) for part in parts}
    tensors = [*anatomy.parameters.values(), *anatomy.buffers.values()]
    for tensor in tensors:
        if type(tensor) in PLAIN:
            values = tensor.detach().to(device=device, dtype=dtype if tensor.is_floating_point() else None, copy=True)
            memo[id(tensor)] = nn.Parameter(values, False) if isinstance(tensor, nn.Parameter) else values
            if vars(tensor):
                vars(memo[id(tensor)]).update(copy.deepcopy(vars(tensor), memo))
    known = len(parts) == len(anatomy.parts) and all(id(tensor) in memo for tensor in tensors)
    for part in parts:
        new, own = memo[id(part)], getattr(type(part), "__getstate__", None)
        state = vars(part) if own is getattr(object, "__getstate__", None) else part.__getstate__()
        state = {n: value if type(value) in ATOMS else _value(value, n, memo) for n, value in state.items()}
        if type(part).__setstate__ is not nn.Module.__setstate__:
            new.__setstate__(state)
        else:
            vars(new).update(state)
    if known:
        return memo[id(module)]
    private = copy.deepcopy(module, memo)
    if shared := {id(part) for part in private.modules()} & {id(part) for _, part in anatomy.parts}:
        kind = next(type(part).__name__ for part in private.modules() if id(part) in shared)
        raise TypeError(f"a copy of {kind} is the same object: its __deepcopy__ copies nothing")
    private.to(device=device, dtype=dtype)
    for p in private.parameters():
        p.requires_grad_(False)
    return private


def _value(value: object, name: str, memo: dict[int, object]) -> object:
    if type(value) is tuple and all(type(one) in ATOMS for one in value):
        return value
    if name in HOOKS and not value:
        return type(value)()
    if name in HELD and all(held is None or id(held) in memo for held in value.values()):
        return {key: None if held is None else memo[id(held)] for key, held in value.items()}
    return copy.deepcopy(value, memo)
