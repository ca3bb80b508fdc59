"""What says that two modules are one network with the same weights, and that two losses are one."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from grsd.jacobian.network import unwrapped
from grsd.losses import Loss, checked_force, fitting_targets
from grsd.support.host import copied

Parameters = Mapping[str, tuple[Sequence[int], bool]]
COMPILED = "_orig_mod"  # the attribute of torch.compile's module that holds the user's
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def own_module(module: nn.Module) -> nn.Module:
    """Return the module inside wrappers for several devices and inside compiled modules."""
    while True:
        inside = getattr(unwrapped(module)[0], COMPILED, None)
        found = inside if isinstance(inside, nn.Module) else unwrapped(module)[0]
        if found is module:
            return module
        module = found


def parameters_of(module: nn.Module) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Return the shape of each parameter, and whether it is trained, by the names of the module without wrappers."""
    return {name: (tuple(p.shape), p.requires_grad) for name, p in own_module(module).named_parameters()}


def difference(expected: Parameters, found: Parameters) -> str | None:
    """Return in words how the parameters of two modules differ, ``None`` if they do not."""
    for name in [*expected, *found]:
        if name not in found or name not in expected:
            return f"parameter {name!r:.60} is {'new' if name in found else 'not there'}"
        (shape, trained), (own, now) = expected[name], found[name]
        if tuple(shape) != tuple(own):
            return f"{name!r:.60} of shape {tuple(own)} instead of {tuple(shape)}"
        if trained != now:
            return f"{name!r:.60} with requires_grad={now} instead of {trained}"
    return None


def architecture(module: nn.Module) -> str:
    """Return a digest of the parts of a module and of its parameters' names, shapes and ``requires_grad``."""
    own = own_module(module)
    return hashlib.sha256(f"{ADDRESS.sub('', repr(own))} {parameters_of(own)}".encode()).hexdigest()


def weights_of(module: nn.Module) -> str:
    """Return a digest of the values of all parameters."""
    return hashed(*own_module(module).parameters())


def hashed(*tensors: Tensor) -> str:
    """Return sha256 of the dtypes, shapes and bytes of tensors."""
    digest = hashlib.sha256()
    for value in tensors:
        plain = copied(value).contiguous()
        digest.update(f"{plain.dtype} {tuple(plain.shape)} ".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def loss_gives(
    call: str, loss: Loss, shape: Sequence[int], targets: Tensor, dtype: torch.dtype, device: torch.device
) -> str:
    """Return what tells a loss from others: its name, or what a function gives at fixed outputs of this ``shape``.

    A function has no name that says its settings, and its file may change without it. It is evaluated at outputs of
    both signs and at others between 0 and 1, to four digits; an error counts by its type.
    """
    if isinstance(loss, str):
        return loss
    wave = (1.7 * torch.arange(math.prod(shape), dtype=torch.float64, device="cpu") + 1).sin().reshape(tuple(shape))
    found = []
    for values in (3 * wave, 0.5 + 0.4 * wave):
        outputs = values.to(device=device, dtype=dtype)
        try:
            losses, force = checked_force(call, loss, outputs, fitting_targets(call, loss, outputs, targets))
            found.append(f"{float(losses.mean()):.4g} {float(force.norm()):.4g}")
        except Exception as error:  # a function may raise anything at outputs that it does not expect
            found.append(type(error).__name__)
    return ", ".join(found)
