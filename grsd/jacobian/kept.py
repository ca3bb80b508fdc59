"""What a module keeps between calls: found, put back as it was, and left out where it would hide a dependence.

A tensor computed from parameters in one call and used in the next is a constant for every derivative of that next
call. So each call starts from the same attributes, and what was kept before is dropped if the module makes it anew.
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

OWN = frozenset(vars(nn.Module())) - {"training"}  # what torch keeps there itself
OPAQUE = (nn.Module, Tensor, type, ModuleType, FunctionType, bytearray, memoryview)
SIMPLE = {bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size}


class Container(NamedTuple):
    """Something mutable that attributes of a module lead to; ``of``: the object whose attributes it is, by its path."""

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
        """As the user writes it after ``model.``: kept['b'], block.table, rows[3]."""
        return f"{self.path}.{key}".lstrip(".") if self.attributes else f"{self.path}[{key!r}]"

    def copy(self) -> tuple[int, object]:
        """Its size, and what is in it."""
        if isinstance(self.values, MutableSet):
            return len(self.values), set(self.values)
        if self.attributes or isinstance(self.values, MutableMapping):
            return len(self.values), dict(self.items)
        return len(self.values), list(self.values)

    def marks(self) -> list[int] | None:
        """What is in it by identity: where these are as they were, ``same`` need not be asked."""
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
    """A tensor among the attributes that is neither a parameter nor a buffer, and where it is."""

    container: Container
    key: object
    tensor: Tensor

    @property
    def name(self) -> str:
        return self.container.name(self.key)

    def drop(self, *, delete: bool) -> None:
        """Attributes become None, or are deleted; entries are taken out, of a list all, since others would move up."""
        values = self.container.values
        if self.container.attributes and not delete:
            values[self.key] = None
        elif isinstance(values, MutableMapping):
            values.pop(self.key, None)
        elif not isinstance(values, tuple):
            values.clear()

    def now(self) -> object:
        """What stands in its place."""
        return dict(self.container.items).get(self.key)


def _pairs(values: object) -> Iterable[tuple[object, object]]:
    """What ``Container.items`` gave when these values were saved."""
    if isinstance(values, dict):
        return values.items()
    return () if isinstance(values, set) else enumerate(values)


def tensors_with_graph(anatomy: Anatomy) -> list[Tensor]:
    """Tensors that a module keeps of an earlier call with gradients."""
    values = (value for container in _containers(anatomy) for _, value in container.items)
    return [value for value in values if isinstance(value, Tensor) and not value.is_leaf]


class Attributes:
    """The attributes of a module and of its parts as they are now, and what they lead to."""

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy
        self._saved = [(container, container.copy(), container.marks()) for container in _containers(anatomy)]
        self._versions = [(tensor, tensor._version, tensor.detach().clone()) for tensor in self._each_tensor()]

    @cached_property
    def tensors(self) -> list[KeptTensor]:
        """Those that are neither parameters nor buffers."""
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
        """Those in lists, dictionaries or objects, where torch does not look for them, by name."""
        found = {
            container.name(key): value
            for container, (_, values), _ in self._saved
            for key, value in _pairs(values)
            if isinstance(value, nn.Module)
        }
        known = {id(part) for _, part in self._anatomy.parts}
        return {name: value for name, value in found.items() if id(value) not in known}

    def name_of(self, tensor: Tensor) -> str | None:
        """How a tensor that is neither a parameter nor a buffer is reached from the module, if it is."""
        for kept in self.tensors:
            if kept.tensor is tensor:
                return kept.name
        for place, hidden in self.modules.items():
            for name, p in hidden.named_parameters():
                if p is tensor:
                    return f"{place}.{name}"
        return None

    def restore(self) -> bool:
        """Put all back as it was; whether anything had changed."""
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
    """Drop the kept tensors that ``call()`` makes anew with a graph: these are functions of the parameters."""
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
    except Exception:  # whatever a module says when what it keeps is missing
        anew = False
    (without if anew else before).restore()
    return anew
