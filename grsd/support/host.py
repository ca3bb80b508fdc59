"""The door between a device and the host: the places where a loop needs the device's numbers to decide how to go on.

Each passage waits until all work queued on the device is done, so what is needed together goes through together. A
line that reads the device again and again in another way is an error under the posing device of the tests.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

_here = threading.local()


def reading() -> bool:
    """Return whether a passage is going on in this thread."""
    return getattr(_here, "open", False)


@contextmanager
def _passage() -> Iterator[None]:
    _here.open = True
    try:
        yield
    finally:
        _here.open = False


def read(scalars: Iterable[Tensor]) -> list:
    """Return scalars of one device and dtype as Python numbers, in one passage."""
    found = list(scalars)
    if not found:
        return []
    with _passage():
        return torch.stack(found).detach().cpu().tolist()


def arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Return tensors of one device and dtype as arrays of the same shapes, in one passage."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors.values()])
    with _passage():
        values = flat.cpu().numpy()
    ends = np.cumsum([tensor.numel() for tensor in tensors.values()])[:-1]
    parts = zip(tensors.items(), np.split(values, ends), strict=True)
    return {name: part.reshape(tuple(tensor.shape)) for (name, tensor), part in parts}


def copied(tensor: Tensor) -> Tensor:
    """Return the tensor on the CPU, without its graph, in one passage."""
    with _passage():
        return tensor.detach().cpu()


def chosen(mask: Tensor) -> Tensor:
    """Return the indices at which a mask of shape (D,) is true, in one passage: their number decides shapes."""
    with _passage():
        return mask.nonzero().reshape(-1)


def changed(now: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors that are not what they were, in one passage, or two; NaN equals NaN."""
    names = [name for name, tensor in now.items() if tensor.shape == before[name].shape]
    differ = read((now[name] != before[name]).any() for name in names)
    suspects = [name for name, other in zip(names, differ, strict=True) if other]
    pairs = [(now[name], before[name]) for name in suspects]
    same = dict(zip(suspects, read(((a == b) | ((a != a) & (b != b))).all() for a, b in pairs), strict=True))
    kept = set(names) - {name for name, equal in same.items() if not equal}
    return [name for name in now if name not in kept]
