"""All parts, parameters and buffers of a module, found in one walk; torch's iterators take one walk each."""

from __future__ import annotations

from torch import Tensor, nn


class Anatomy:
    """``parts`` by path; ``parameters`` and ``buffers`` by name, each tensor once, in the order of torch's iterators.

    ``places``: (dictionary of a part, key, parameter) for each place where a parameter stands, tied ones included.
    """

    def __init__(self, module: nn.Module) -> None:
        self.parts: list[tuple[str, nn.Module]] = []
        self.parameters: dict[str, Tensor] = {}
        self.buffers: dict[str, Tensor] = {}
        self.places: list[tuple[dict, str, Tensor]] = []
        seen: set[int] = set()
        self._walk("", module, seen)
        known: set[int] = set()
        for path, part in self.parts:
            prefix = f"{path}." if path else ""
            for held, found in ((part._parameters, self.parameters), (part._buffers, self.buffers)):
                for key, tensor in held.items():
                    if tensor is None:
                        continue
                    if found is self.parameters:
                        self.places.append((held, key, tensor))
                    if id(tensor) not in known:
                        known.add(id(tensor))
                        found[prefix + key] = tensor

    def _walk(self, path: str, module: nn.Module, seen: set[int]) -> None:
        if id(module) in seen:
            return
        seen.add(id(module))
        self.parts.append((path, module))
        for key, part in module._modules.items():
            if part is not None:
                self._walk(f"{path}.{key}" if path else key, part, seen)
