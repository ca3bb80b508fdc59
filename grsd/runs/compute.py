"""One experiment: computed once whoever asks, kept, and taken up again where it was interrupted."""

from __future__ import annotations

import hashlib
import inspect
import os
import time
from collections.abc import Callable
from pathlib import Path

import xarray as xr

from grsd.runs.encoding import with_text
from grsd.runs.fingerprint import fingerprint
from grsd.runs.leftovers import WORK, tidy
from grsd.runs.netcdf import from_bytes, to_bytes
from grsd.runs.plain import key, text
from grsd.runs.spec import Spec, sources_of
from grsd.runs.store import Scratch, load, locked, runs_folder, save, say
from grsd.runs.training import train
from grsd.runs.values import Unstorable
from grsd.support.files import say_swept
from grsd.support.pinned import pinned
from grsd.support.provenance import provenance
from grsd.support.values import whole_number

_swept: set[Path] = set()


def run(
    spec: object,
    function: Callable[..., xr.Dataset] = train,
    *,
    threads: int = 1,
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
            the network of a ``Spec`` and measures its shells (``grsd.runs.training``); interrupted, even killed, it
            goes on from some seconds before and ends with the same bytes. One that takes ``scratch`` (a ``Scratch``)
            can do so too; one that takes ``progress`` is given it.
        threads: what the experiment is computed on, whatever the machine has; another number may change last digits,
            so it is another run.
        folder: of the results; ``None``: $GRSD_RUNS, else data/runs in the project.
        progress: show a bar; ``None``: on a terminal and in Jupyter.

    The function runs with torch's, numpy's and xarray's switches as they come and with global random states of its own
    (``grsd.support.pinned``), so that equal specs give equal bytes whatever the process has set.

    Returns: the function's dataset, the same whether it was computed or read. Attributes ``function``, ``spec`` and
    ``code`` say what was computed by what, ``versions`` and ``threads`` with what. A result that cannot be kept (a full
    disk, a variable that no file can hold) is returned all the same, and that is said in one line on stderr.

    Errors: what the function raises (``RuntimeError`` where a flow cannot be continued); ``RuntimeError`` where the
    source has changed since it was imported; ``TypeError`` for a spec or a function that cannot be named;
    ``ProjectNotFound`` where there is no folder for results.
    """
    return obtain(spec, function, folder, progress, threads)[1]


def obtain(
    spec: object,
    function: Callable[..., xr.Dataset] = train,
    folder: str | os.PathLike | None = None,
    progress: bool | None = None,
    threads: int = 1,
) -> tuple[Path | None, xr.Dataset, float | None]:
    """``run``: (file, dataset, seconds it took), the last ``None`` where it was already there.

    The file is ``None`` where the result could not be kept.
    """
    stem, marks = identity(spec, function, threads)
    folder = runs_folder(folder)
    if folder not in _swept:
        _swept.add(folder)
        say_swept(folder)
    found, begun = load(folder, stem, marks), None
    if found is None:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / WORK / f"{stem}.lock"):
            if (found := load(folder, stem, marks)) is None:
                begun = time.perf_counter()
                scratch = Scratch(folder / WORK / stem, marks)
                with pinned(threads, int(key(spec)[:8], 16)):
                    result = _computed(spec, function, scratch, progress, threads)
                found = _keep(result.assign_attrs(marks), folder, stem, scratch)
                if found[0] is not None:
                    scratch.clear()
    if found[0] is not None:
        tidy(folder, stem)
    return *found, None if begun is None else time.perf_counter() - begun


def identity(spec: object, function: Callable[..., xr.Dataset], threads: int = 1) -> tuple[str, dict[str, str]]:
    """(stem of the file's name, what the file says it is) of the experiment; the refusals of ``run``."""
    if function is train and not isinstance(spec, Spec):
        raise TypeError(f"run(spec): expected a grsd.Spec, got {type(spec).__name__}; a mapping needs its function")
    code = fingerprint(function, *sources_of(spec))
    marks = {"function": function.__qualname__, "spec": text(spec), "code": code}
    digest = key(spec)
    if whole_number("run", "threads", threads, 1) > 1:
        digest = hashlib.sha256(f"{digest}, {threads} threads".encode()).hexdigest()
    return f"{function.__name__}-{digest[:16]}-{code[:16]}", marks


def _computed(
    spec: object, function: Callable[..., xr.Dataset], scratch: Scratch, progress: bool | None, threads: int
) -> xr.Dataset:
    taken = inspect.signature(function).parameters
    extra = {name: value for name, value in {"scratch": scratch, "progress": progress}.items() if name in taken}
    result = function(spec, **extra)
    if not isinstance(result, xr.Dataset):
        raise TypeError(
            f"run(spec, function): expected {function.__qualname__} to return an xarray.Dataset, it returned "
            f"{type(result).__name__}"
        )
    return result.compute().assign_attrs({**provenance({"threads": threads}), **result.attrs})


def _keep(result: xr.Dataset, folder: Path, stem: str, scratch: Scratch) -> tuple[Path | None, xr.Dataset]:
    """(its file or ``None``, the result as a file gives it, or as it is where no file can hold it)."""
    result, texts = with_text(result)
    if texts:
        say(f"{stem}: attributes that no file can hold are kept as text: {', '.join(texts)}")
    try:
        payload = to_bytes(result)
    except Unstorable as error:
        say(f"{stem}: the result is returned, but cannot be kept: {error}")
        return None, result
    result = from_bytes(payload)
    try:
        try:
            return save(folder, stem, payload), result
        except OSError:
            scratch.clear()  # a finished run needs no checkpoint, and on a full disk the result needs its room
            return save(folder, stem, payload), result
    except OSError as error:
        say(f"{stem}: the result is returned, but cannot be kept: {error}")
        return None, result
