"""One experiment: computed once whoever asks, kept, and taken up again where it was interrupted."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
import xarray as xr

from grsd.provenance import provenance
from grsd.runs.fingerprint import fingerprint
from grsd.runs.plain import key, text
from grsd.runs.spec import Spec
from grsd.runs.store import Scratch, load, locked, runs_folder, save
from grsd.runs.training import train

WORK = ".work"


def run(
    spec: object,
    function: Callable[..., xr.Dataset] = train,
    *,
    folder: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """The result of the experiment ``spec``, from its file if there is one, computed and kept otherwise.

    The file is named after the function, the spec and the code that computed it (the function's file, the files of grsd
    that this imports, versions of torch, numpy, scipy, xarray and scikit-learn); whatever changes, it is computed
    again. It is checked byte by byte when read. Several processes that ask for the same spec compute it once.

    Args:
        spec: the experiment: a ``Spec``, or for another function a mapping or dataclass of plain values, with its seed.
        function: what computes, ``function(spec) -> xarray.Dataset``, at the top level of a file. The usual one trains
            the network of a ``Spec`` and measures its shells (``grsd.runs.train``); interrupted, even killed, it goes
            on from some seconds before and ends with the same bytes. One that takes ``scratch`` (a ``Scratch``) can do
            so too; one that takes ``progress`` is given it.
        folder: of the results; ``None``: $GRSD_RUNS, else data/runs in the project.
        progress: show a bar; ``None``: on a terminal and in Jupyter.

    Returns: the function's dataset. Attributes ``function``, ``spec`` and ``code`` say what was computed by what,
    ``versions`` and ``threads`` with what: another number of threads may change last digits.

    Errors: what the function raises (``RuntimeError`` where a flow cannot be continued); ``RuntimeError`` where the
    source has changed since it was imported; ``TypeError`` for a spec or a function that cannot be named;
    ``ProjectNotFound`` where there is no folder for results.
    """
    return obtain(spec, function, folder, progress)[1]


def obtain(
    spec: object,
    function: Callable[..., xr.Dataset] = train,
    folder: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> tuple[Path, xr.Dataset, float | None]:
    """``run``: (file, dataset, seconds it took), the last ``None`` where it was already there."""
    stem, marks = identity(spec, function)
    folder = runs_folder(folder)
    if found := load(folder, stem, marks):
        return *found, None
    with locked(folder / WORK / f"{stem}.lock"):
        if found := load(folder, stem, marks):
            return *found, None
        begun = time.perf_counter()
        scratch = Scratch(folder / WORK / stem, marks)
        save(folder, stem, _computed(spec, function, scratch, progress), marks)
        scratch.clear()
        if found := load(folder, stem, marks):
            return *found, time.perf_counter() - begun
    raise RuntimeError(f"run(spec): what was written to {folder} could not be read back")


def identity(spec: object, function: Callable[..., xr.Dataset]) -> tuple[str, dict[str, str]]:
    """(stem of the file's name, what the file says it is) of the experiment; the refusals of ``run``."""
    if function is train and not isinstance(spec, Spec):
        raise TypeError(f"run(spec): expected a grsd.Spec, got {type(spec).__name__}; a mapping needs its function")
    code = fingerprint(function)
    marks = {"function": function.__qualname__, "spec": text(spec), "code": code}
    return f"{function.__name__}-{key(spec)[:16]}-{code[:16]}", marks


def _computed(spec: object, function: Callable[..., xr.Dataset], scratch: Scratch, progress: bool | None) -> xr.Dataset:
    taken = inspect.signature(function).parameters
    extra = {name: value for name, value in {"scratch": scratch, "progress": progress}.items() if name in taken}
    result = function(spec, **extra)
    if not isinstance(result, xr.Dataset):
        raise TypeError(
            f"run(spec, function): expected {function.__qualname__} to return an xarray.Dataset, it returned "
            f"{type(result).__name__}"
        )
    return result.assign_attrs({**provenance({"threads": torch.get_num_threads()}), **result.attrs})
