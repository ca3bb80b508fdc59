"""Read states from files: weights alone, from safetensors or torch; nothing in a file is executed."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from grsd.support.folders import one_line
from grsd.support.values import said

SAFETENSORS = ".safetensors"
WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.ckpt", "*.pt", "*.pth")  # as they are usually named
Source = str | os.PathLike | Mapping[str, object]


@contextmanager
def naming_source(call: str, name: str, place: str, source: object) -> Iterator[None]:
    """Let refusals of the state in ``place`` of the list ``name`` say the file that it comes from, if there is one."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError, MemoryError) as error:
        head, text = f"{call}({place}=...): ", str(error)
        if not is_file(source) or not text.startswith(head):
            raise
        raise type(error)(f"{call}({name}=...): {one_line(source)}: {text.removeprefix(head)}") from error.__cause__


def is_file(source: object) -> bool:
    """Return whether a source is the path of a file."""
    return isinstance(source, str | os.PathLike)


def read_state(call: str, name: str, source: object, key: str | None) -> Mapping[str, Tensor]:
    """Return the state dict in ``source``: a file, or a mapping that holds it itself or under ``key``.

    Errors: ``TypeError``, ``ValueError``, ``OSError`` or ``ImportError`` in one line.
    """
    if isinstance(source, Mapping):
        found, shown = source, "the mapping"
    elif is_file(source):
        found, shown = _read(call, name, Path(source)), one_line(source)
    else:
        raise TypeError(
            f"{call}({name}=...): expected the path of a file of safetensors or of torch, or a state dict, got "
            f"{said(source)}"
        )
    if key is not None:
        if not isinstance(key, Hashable):
            raise TypeError(f"{call}({name}=..., key=...): expected one of the file's keys, got {said(key)}")
        if not isinstance(found, Mapping) or key not in found:
            there = f"its keys are {_keys(found)}" if isinstance(found, Mapping) else f"it holds {said(found)}"
            raise ValueError(f"{call}({name}=..., key={key!r:.60}): {shown} has no such key; {there}")
        found = found[key]
    if not _holds_tensors(found):
        inside = [k for k, v in found.items() if _holds_tensors(v)] if isinstance(found, Mapping) else []
        hint = f"; pass key={inside[0]!r:.60}" if inside else ""
        raise ValueError(f"{call}({name}=...): expected a state dict in {shown}, got {_described(found)}{hint}")
    return found


def _read(call: str, name: str, path: Path) -> object:
    shown = f"{call}({name}=...): {one_line(path)}"
    if path.is_dir():
        files = sorted(file.name for kind in WEIGHTS for file in path.glob(kind))
        hint = f", such as {files[0]!r:.60}" if files else ""
        raise IsADirectoryError(f"{shown} is a folder; name the file of weights inside it{hint}")
    if not path.is_file():
        raise FileNotFoundError(f"{shown}: there is no such file")
    if path.suffix == SAFETENSORS:
        try:
            from safetensors.torch import load_file
        except ImportError:
            raise ImportError(f'{shown}: safetensors is not installed; pip install "grsd[training]"') from None
        read = load_file
    else:

        def read(file: Path) -> object:
            return torch.load(file, map_location="cpu", weights_only=True)

    try:
        return read(path)
    except Exception as error:  # damaged files raise many kinds of exceptions
        text = one_line(str(error).split("\n")[0] or type(error).__name__, 120)
        if "Weights only load failed" in text:  # torch goes on to say how to load what may run code
            text = "it holds other things than weights, such as a pickled module, or is no file of weights"
        raise ValueError(
            f"{shown}: it cannot be read as weights alone ({type(error).__name__}: {text}); save the "
            "model's state_dict()"
        ) from None


def _holds_tensors(found: object) -> bool:
    return isinstance(found, Mapping) and any(isinstance(value, Tensor) for value in found.values())


def _described(found: object) -> str:
    return f"a mapping with the keys {_keys(found)}" if isinstance(found, Mapping) else said(found)


def _keys(found: Mapping) -> str:
    names = [repr(key)[:40] for key in list(found)[:5]]
    return ", ".join(names) + (", ..." if len(found) > 5 else "") if names else "none"
