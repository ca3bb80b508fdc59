"""Attributes that a module keeps between calls: they are found, restored, and dropped if they hide a dependence.

A tensor computed from parameters in one call and used in the next is a constant for the derivatives of the next call.
Therefore each call starts from the same attributes, and a kept tensor is dropped if the module computes it again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, MutableMapping, MutableSequence, MutableSet
from dataclasses import dataclass
from functools import cached_property
from types import FunctionType, ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from grsd.jacobian.anatomy import Anatomy
from grsd.support.faults import is_slip

OWN = frozenset(vars(nn.Module())) - {"training"}  # attributes of torch itself
OPAQUE = (nn.Module, Tensor, type, ModuleType, FunctionType, bytearray, memoryview)
SIMPLE = {bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size}


class Container(NamedTuple):
    """A container that a module's attributes reach by ``path``; ``attributes``: whether it is a ``__dict__``."""

    path: str
    values: MutableMapping | MutableSequence | MutableSet | deque | tuple
    attributes: bool

    @property
    def items(self) -> list[tuple[object, object]]:
        if self.attributes:
            return [(key, value) for key, value in self.values.items() if key not in OWN]
        if isinstance(self.values, MutableMapping):
            return list(self.values.items())
        return [] if isinstance(self.values, MutableSet) else list(enumerate(self.values))

    def name(self, key: object) -> str:
        """The entry as the user writes it after ``model.``: kept['b'], block.table, rows[3]."""
        return f"{self.path}.{key}".lstrip(".") if self.attributes else f"{self.path}[{key!r}]"

    def copy(self) -> tuple[int, object]:
        """(the number of entries, a shallow copy of them)."""
        if isinstance(self.values, MutableSet):
            return len(self.values), set(self.values)
        if self.attributes or isinstance(self.values, MutableMapping):
            return len(self.values), dict(self.items)
        return len(self.values), list(self.values)

    def marks(self) -> list[int] | None:
        """The identities of the entries of a dict or list, else None; if they are unchanged, so is the container."""
        if isinstance(self.values, dict):
            return [*map(id, self.values), *map(id, self.values.values())]
        return list(map(id, self.values)) if isinstance(self.values, list) else None

    def same(self, saved: tuple[int, object]) -> bool:
        size, values = saved
        if len(self.values) != size:
            return False
        if isinstance(values, dict):
            return all(self.values.get(key, values) is value for key, value in values.items())
        if isinstance(values, set):
            return self.values == values
        return all(one is other for one, other in zip(self.values, values, strict=True))

    def fill(self, saved: tuple[int, object]) -> None:
        values = saved[1]
        if isinstance(self.values, tuple):
            return
        for key, _ in self.items if isinstance(values, dict) else ():
            del self.values[key]
        if isinstance(values, dict):
            self.values.update(values)
            return
        self.values.clear()
        if isinstance(values, list):
            self.values.extend(values)
        for item in values if isinstance(values, set) else ():
            self.values.add(item)


def _containers(anatomy: Anatomy) -> Iterator[Container]:
    seen: set[int] = set()
    for path, part in anatomy.parts:
        waiting = deque([Container(path, vars(part), True)])
        while waiting:
            container = waiting.popleft()
            if id(container.values) in seen:
                continue
            seen.add(id(container.values))
            yield container
            for key, value in container.items:
                kind = type(value)
                if kind in SIMPLE or kind is Tensor or (kind is tuple and all(type(one) in SIMPLE for one in value)):
                    continue
                if isinstance(value, OPAQUE) or callable(value):
                    continue
                if isinstance(value, (MutableMapping, MutableSequence, MutableSet, deque, tuple)):
                    waiting.append(Container(container.name(key), value, False))
                elif hasattr(value, "__dict__"):
                    waiting.append(Container(container.name(key), vars(value), True))


@dataclass(frozen=True)
class KeptTensor:
    """A tensor among the attributes that is neither a parameter nor a buffer, with its container and key."""

    container: Container
    key: object
    tensor: Tensor

    @property
    def name(self) -> str:
        return self.container.name(self.key)

    def drop(self, *, delete: bool) -> None:
        """Set an attribute to None, or ``delete`` it; remove an entry. Lists are emptied: other entries would move."""
        values = self.container.values
        if self.container.attributes and not delete:
            values[self.key] = None
        elif isinstance(values, MutableMapping):
            values.pop(self.key, None)
        elif not isinstance(values, tuple):
            values.clear()

    def now(self) -> object:
        """The present value at its place."""
        return dict(self.container.items).get(self.key)


def _pairs(values: object) -> Iterable[tuple[object, object]]:
    """The pairs that ``Container.items`` returned when these values were saved."""
    if isinstance(values, dict):
        return values.items()
    return () if isinstance(values, set) else enumerate(values)


def tensors_with_graph(anatomy: Anatomy) -> list[Tensor]:
    """Tensors with a graph that a module keeps from an earlier call."""
    values = (value for container in _containers(anatomy) for _, value in container.items)
    return [value for value in values if isinstance(value, Tensor) and not value.is_leaf]


class Attributes:
    """The present attributes of a module and of its parts, and all containers that they refer to."""

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy
        self._saved = [(container, container.copy(), container.marks()) for container in _containers(anatomy)]
        self._versions = [(tensor, tensor._version, tensor.detach().clone()) for tensor in self._each_tensor()]

    @cached_property
    def tensors(self) -> list[KeptTensor]:
        """Tensors among the attributes that are neither parameters nor buffers."""
        found = [
            KeptTensor(container, key, value)
            for container, (_, values), _ in self._saved
            for key, value in _pairs(values)
            if isinstance(value, Tensor)
        ]
        known = {id(t) for held in (self._anatomy.parameters, self._anatomy.buffers) for t in held.values()}
        return [kept for kept in found if id(kept.tensor) not in known]

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """Modules by name in lists, dictionaries or objects, where torch does not look for them."""
        found = {
            container.name(key): value
            for container, (_, values), _ in self._saved
            for key, value in _pairs(values)
            if isinstance(value, nn.Module)
        }
        known = {id(part) for _, part in self._anatomy.parts}
        return {name: value for name, value in found.items() if id(value) not in known}

    def name_of(self, tensor: Tensor) -> str | None:
        """The name by which a tensor is reached from the module; None if it is not, or is a parameter or buffer."""
        for kept in self.tensors:
            if kept.tensor is tensor:
                return kept.name
        for place, hidden in self.modules.items():
            for name, p in hidden.named_parameters():
                if p is tensor:
                    return f"{place}.{name}"
        return None

    def restore(self) -> bool:
        """Restore all attributes; returns whether any had changed."""
        changed = False
        for container, saved, marks in self._saved:
            if (marks is None or container.marks() != marks) and not container.same(saved):
                container.fill(saved)
                changed = True
        for number, (tensor, version, values) in enumerate(self._versions):
            if tensor._version != version:
                tensor.detach().copy_(values)
                self._versions[number] = (tensor, tensor._version, values)
                changed = True
        return changed

    def _each_tensor(self) -> Iterable[Tensor]:
        return {id(kept.tensor): kept.tensor for kept in self.tensors}.values()


def forget(anatomy: Anatomy, call: Callable[[], object]) -> None:
    """Drop the kept tensors that ``call()`` computes again with a graph: these are functions of the parameters."""
    candidates = [kept for kept in Attributes(anatomy).tensors if kept.tensor.is_floating_point()]
    if not candidates or _dropped(anatomy, candidates, call):
        return
    for kept in candidates:
        _dropped(anatomy, [kept], call)


def _dropped(anatomy: Anatomy, chosen: list[KeptTensor], call: Callable[[], object]) -> bool:
    return any(_done_without(anatomy, chosen, call, delete) for delete in (False, True))


def _done_without(anatomy: Anatomy, chosen: list[KeptTensor], call: Callable[[], object], delete: bool) -> bool:
    before = Attributes(anatomy)
    for kept in chosen:
        kept.drop(delete=delete)
    without = Attributes(anatomy)
    try:
        call()
        anew = all(isinstance(value := kept.now(), Tensor) and value.requires_grad for kept in chosen)
    except Exception as error:  # a module may raise anything if a kept tensor is missing
        if is_slip(error):
            raise
        anew = False
    (without if anew else before).restore()
    return anew
