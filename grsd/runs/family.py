"""Specs that differ in their seed alone: small networks among them can be computed as one (``grsd.flow.stacked``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from grsd.datasets import Data
from grsd.flow import Descent
from grsd.flow.stacked import Stacked, stacked
from grsd.runs.fingerprint import content
from grsd.runs.spec import Spec, sources_of
from grsd.support.checks import resolve_device
from grsd.support.pinned import usual_numbers

LARGEST = 10**6  # samples x width^2 x depth: above, one gradient takes longer on a CPU than its calls


@dataclass(frozen=True)
class Family:
    """The flow of one of them, checked, and its network as a function of stacked parameters."""

    data: Data
    descent: Descent
    stacked: Stacked

    def member(self, spec: Spec) -> Descent | None:
        """Return the flow of ``spec``, to be begun; ``None`` if its network differs in more than its parameters."""
        model, network = spec.network(self.data), self.descent.network
        own, here = dict(model.named_parameters()), self.descent.theta
        fixed = {**{name: p for name, p in own.items() if not p.requires_grad}, **dict(model.named_buffers())}
        trainable = {name: p for name, p in own.items() if p.requires_grad}
        if list(trainable) != list(network.parameters) or fixed.keys() != network.fixed.keys():
            return None
        if any(p.shape != network.parameters[name].shape for name, p in trainable.items()):
            return None
        theta = torch.cat([p.detach().to(here).reshape(-1) for p in trainable.values()])
        member = self.descent.sibling(theta, parameters_of(spec))
        with torch.no_grad():
            outputs = model.to(here)(self.descent.inputs)
        return member if self.stacked.gives(theta, outputs) else None


def family_of(spec: Spec) -> Family | None:
    """Return the family of ``spec`` if it is to be computed as one of a stack, in whatever company; else ``None``.

    That is so on a GPU, and on one thread of a CPU if the network is small, unless it fails the checks of ``stacked``.
    """
    if spec.device == "cpu" and (torch.get_num_threads() > 1 or spec.samples * spec.width**2 * spec.depth > LARGEST):
        return None
    sources = sources_of(spec)
    return _family(replace(spec, seed=0), sources, *map(content, sources))


@lru_cache(maxsize=8)
def _family(spec: Spec, sources: tuple[Callable, ...], *contents: str) -> Family | None:
    """Return the family; it is kept for calls with the same functions and the same ``contents`` of their files."""
    try:
        with usual_numbers(seed=0):
            descent = descent_of(spec)
            found = stacked(descent)
            return None if found is None else Family(spec.batch(), descent, found)
    except (MemoryError, torch.OutOfMemoryError, OSError):  # they say nothing of the network
        raise
    except Exception:  # of the network or the data; alone, each run raises its own
        return None


def descent_of(spec: Spec) -> Descent:
    """Return the flow of ``spec`` by itself, begun. Errors: as ``train``."""
    data = spec.batch()
    model = spec.network(data)
    return Descent(
        model,
        data.inputs,
        data.targets,
        tolerance=spec.tolerance,
        dtype=getattr(torch, spec.dtype),
        device=resolve_device("run", spec.device, model),
        parameters=parameters_of(spec),
    )


def parameters_of(spec: Spec) -> dict[str, object]:
    """Return what the attributes of the result say of ``spec``."""
    return {name: value for name, value in spec.to_dict().items() if not isinstance(value, list)}
