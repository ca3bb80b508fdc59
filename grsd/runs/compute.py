"""Run one experiment: compute it once, store it, and resume it if it was interrupted."""

from __future__ import annotations

import hashlib
import inspect
import os
import time
from collections.abc import Callable
from pathlib import Path

import xarray as xr

from grsd.datasets.registry import require
from grsd.runs.encoding import with_text
from grsd.runs.fingerprint import fingerprint
from grsd.runs.leftovers import WORK, tidy
from grsd.runs.netcdf import to_bytes_and_back
from grsd.runs.plain import key, text
from grsd.runs.spec import Spec, sources_of
from grsd.runs.store import Scratch, load, locked, runs_folder, save, say
from grsd.runs.training import train
from grsd.runs.values import Unstorable
from grsd.support.files import say_swept
from grsd.support.pinned import pinned
from grsd.support.provenance import provenance
from grsd.support.values import optional_flag, whole_number

_swept: set[Path] = set()


def run(
    spec: object,
    function: Callable[..., xr.Dataset] = train,
    *,
    threads: int = 1,
    folder: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """Return the result of the experiment ``spec``: read it from its file if there is one, else compute and store it.

    The file is named after the function, the spec, the code that computed it (the function's file, the files of grsd
    that it imports, the versions of torch, numpy, scipy, xarray and scikit-learn) and the files that its data set
    reads; if any of these changes, the result is computed again. Every byte is checked on reading. Several processes
    that ask for the same spec compute it once.

    Args:
        spec: the experiment: a ``Spec``, or for another function a mapping or dataclass of plain values, with its seed.
        function: computes the result, ``function(spec) -> xarray.Dataset``; it stands at the top level of a file. The
            default trains the network of a ``Spec`` and measures its shells (``grsd.runs.training``); if it is
            interrupted or killed, it resumes from a few seconds before and ends with the same bytes. A function that
            takes ``scratch`` (a ``Scratch``) can do so too; one that takes ``progress`` receives it.
        threads: number of threads of the experiment, on every machine; another number may change the last digits, so
            it makes another run.
        folder: folder of the results; ``None``: $GRSD_RUNS, else data/runs in the project.
        progress: show a bar; ``None``: on a terminal and in Jupyter.

    The function runs under the default switches of torch, numpy and xarray and with global random states of its own
    (``grsd.support.pinned``), so that equal specs give equal bytes whatever the process has set.

    Returns: the function's dataset, the same whether it was computed or read. The attributes ``function``, ``spec``,
    ``code``, ``versions`` and ``threads`` record its origin. A result that cannot be stored (a full disk, a variable
    that no file can hold) is returned as well, and one line on stderr reports it.

    Errors: the function's own (``RuntimeError`` if a flow cannot be continued); ``RuntimeError`` if the source has
    changed since it was imported; ``TypeError`` for a spec or a function that cannot be named; ``DataNotFound`` if the
    data set must be fetched first (``grsd data fetch``); ``ProjectNotFound`` if there is no folder for results.
    """
    optional_flag("run", "progress", progress)
    return obtain(spec, function, folder, progress, threads)[1]


def obtain(
    spec: object,
    function: Callable[..., xr.Dataset] = train,
    folder: str | os.PathLike | None = None,
    progress: bool | None = None,
    threads: int = 1,
) -> tuple[Path | None, xr.Dataset, float | None]:
    """Do the same as ``run`` and return (file, dataset, seconds it took).

    The seconds are ``None`` if the result was stored already; the file is ``None`` if it could not be stored.
    """
    stem, marks = identity(spec, function, threads)
    folder = runs_folder(folder)
    if folder not in _swept:
        _swept.add(folder)
        say_swept(folder)
    found, begun = load(folder, stem, marks), None
    if found is None:
        require(*sources_of(spec))
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / WORK / f"{stem}.lock"):
            if (found := load(folder, stem, marks)) is None:
                begun = time.perf_counter()
                scratch = Scratch(folder / WORK / stem, marks)
                with pinned(threads, random_state(spec)):
                    result = _computed(spec, function, scratch, progress, threads)
                found = keep(result.assign_attrs(marks), folder, stem, scratch)
                if found[0] is not None:
                    scratch.clear()
    if found[0] is not None:
        tidy(folder, stem)
    return *found, None if begun is None else time.perf_counter() - begun


def identity(spec: object, function: Callable[..., xr.Dataset], threads: int = 1) -> tuple[str, dict[str, str]]:
    """Return (stem of the file's name, attributes that identify the experiment). Errors: as in ``run``."""
    if function is train and not isinstance(spec, Spec):
        raise TypeError(f"run(spec): expected a grsd.Spec, got {type(spec).__name__}; a mapping needs its function")
    code = fingerprint(function, *sources_of(spec))
    marks = {"function": function.__qualname__, "spec": text(spec), "code": code}
    digest = key(spec)
    if whole_number("run", "threads", threads, 1) > 1:
        digest = hashlib.sha256(f"{digest}, {threads} threads".encode()).hexdigest()
    return f"{function.__name__}-{digest[:16]}-{code[:16]}", marks


def random_state(spec: object) -> int:
    """Return the seed of the global random states in which ``spec`` is computed."""
    return int(key(spec)[:8], 16)


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
    return described(result, threads)


def described(result: xr.Dataset, threads: int) -> xr.Dataset:
    """Return the result with the versions and the number of threads among its attributes."""
    return result.compute().assign_attrs({**provenance({"threads": threads}), **result.attrs})


def keep(result: xr.Dataset, folder: Path, stem: str, scratch: Scratch) -> tuple[Path | None, xr.Dataset]:
    """Store the result; return (file, result as the file gives it), or (``None``, result) if no file can hold it."""
    result, texts = with_text(result)
    if texts:
        say(f"{stem}: attributes that no file can hold are kept as text: {', '.join(texts)}")
    try:
        payload, result = to_bytes_and_back(result)
    except Unstorable as error:
        say(f"{stem}: the result is returned, but cannot be kept: {error}")
        return None, result
    try:
        try:
            return save(folder, stem, payload), result
        except OSError:
            scratch.clear()  # a finished run needs no checkpoint, and on a full disk the result needs its room
            return save(folder, stem, payload), result
    except OSError as error:
        say(f"{stem}: the result is returned, but cannot be kept: {error}")
        return None, result
