"""What ``grsd audit`` reads: a factory by its name, samples from a file or from the registry; nothing is executed
but the module that was named."""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from grsd.datasets.registry import dataset
from grsd.support.folders import one_line

NAMES = {"inputs": ("inputs", "x", "X"), "targets": ("targets", "y", "Y")}
MOST = 2000


def factory_named(text: str) -> Callable:
    """Return ``module:factory``, imported with the current folder first. Errors: ``ValueError`` in one line."""
    if not re.fullmatch(r"\w+(\.\w+)*:\w+", text):
        raise ValueError(f"expected module:factory such as net:make, got {one_line(repr(text), 80)}")
    module, name = text.split(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise ValueError(f"{text}: there is no module {module} in {one_line(here, 120)} or installed") from None
        raise ValueError(f"{text}: {module} needs {error.name}, which is not installed") from None
    except Exception as error:  # a foreign module may raise anything
        raise ValueError(f"{text}: importing {module} fails ({type(error).__name__}: {one_line(error, 120)})") from None
    made = getattr(found, name, None)
    if not callable(made):
        public = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
        own = [key for key in public if getattr(getattr(found, key), "__module__", "") == module]
        raise ValueError(f"{text}: {module} has no function {name}; it has {', '.join(own) or 'none'}")
    return made


def data_named(text: str) -> tuple[Tensor, Tensor]:
    """Return (inputs, targets) of an .npz or .safetensors file, or of a registered data set.

    Arrays are named inputs and targets, or x and y. Errors: ``ValueError`` or ``FileNotFoundError`` in one line.
    """
    path = Path(text)
    if path.suffix not in (".npz", ".safetensors"):
        if text in dataset.names():
            entry = dataset[text]
            found = entry.load()(min(MOST, entry.facts["most"]), task=entry.facts["tasks"][0], seed=0)
            return found.inputs, found.targets
        known = ", ".join(dataset.names())
        raise ValueError(f"expected a file .npz or .safetensors, or one of {known}; got {one_line(repr(text), 80)}")
    if not path.is_file():
        raise FileNotFoundError(f"{one_line(text)}: there is no such file")
    arrays = _npz(path) if path.suffix == ".npz" else _safetensors(path)
    inputs, targets = (_pick(path, arrays, names) for names in NAMES.values())
    return inputs, targets


def _npz(path: Path) -> Mapping[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as found:
            return {name: torch.from_numpy(np.ascontiguousarray(found[name])) for name in found.files}
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        text = one_line(" ".join(str(error).split()), 120)
        raise ValueError(f"{one_line(path)}: it cannot be read as arrays of numbers ({text})") from None


def _safetensors(path: Path) -> Mapping[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise ValueError(f'{one_line(path)}: safetensors is not installed; pip install "grsd[training]"') from None
    try:
        return load_file(path)
    except Exception as error:  # damaged files raise many kinds of exceptions
        raise ValueError(f"{one_line(path)}: it cannot be read ({one_line(error, 120)})") from None


def _pick(path: Path, arrays: Mapping[str, Tensor], names: tuple[str, ...]) -> Tensor:
    for name in names:
        if name in arrays:
            return arrays[name]
    there = ", ".join(f"{name} {tuple(value.shape)}" for name, value in arrays.items()) or "nothing"
    raise ValueError(f"{one_line(path)}: expected an array named {' or '.join(names[:2])}; it holds {there}")
