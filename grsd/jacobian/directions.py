"""A direction in the space of parameters, by the names that the user's module gives them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from grsd.jacobian.network import Network, Parameters
from grsd.support.values import said


def along_parameters(call: str, network: Network, direction: object) -> Parameters:
    """Return the direction on the network's device and in its dtype, zero for parameters that it leaves out.

    Errors: ``TypeError`` or ``ValueError`` for what is no mapping of dense finite tensors, names that are none of the
    trainable parameters, and other shapes than theirs.
    """
    where = f"{call}(direction=...)"
    if not isinstance(direction, Mapping):
        raise TypeError(f"{where}: expected a mapping from names of parameters to their changes, got {said(direction)}")
    known = {network.prefix + name: name for name in network.parameters}
    for name, change in direction.items():
        if name not in known:
            fixed = isinstance(name, str) and name.removeprefix(network.prefix) in network.fixed
            why = "it does not require gradients" if fixed else "expected names from model.named_parameters()"
            raise ValueError(f"{where}: {name!r:.60} is none of the trainable parameters; {why}")
        shape = tuple(network.parameters[known[name]].shape)
        if not isinstance(change, Tensor) or tuple(change.shape) != shape:
            raise ValueError(f"{where}: expected a tensor of shape {shape} for {name!r:.60}, got {said(change)}")
        dense = change.layout == torch.strided and change.device.type != "meta"
        if not (dense and change.is_floating_point() and bool(torch.isfinite(change).all())):
            raise ValueError(f"{where}: expected a dense tensor of finite floating point numbers for {name!r:.60}")
    limits = torch.finfo(next(iter(network.parameters.values())).dtype)
    largest = max((float(change.abs().max()) for change in direction.values() if change.numel()), default=0.0)
    if not (largest == 0 or limits.tiny**0.4 <= largest <= limits.max**0.4):
        raise ValueError(
            f"{where}: the direction, up to {largest:.3g}, or its square leaves the range of {limits.dtype}; scale it "
            f"{'up' if largest < 1 else 'down'}, and the rate back, which is linear in it"
        )
    given = {own: direction[name] for name, own in known.items() if name in direction}
    return {
        name: given[name].detach().to(p) if name in given else torch.zeros_like(p)
        for name, p in network.parameters.items()
    }
