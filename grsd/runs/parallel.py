"""Run many experiments on the cores of one machine."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from grsd.datasets.registry import require
from grsd.runs.compute import identity, obtain
from grsd.runs.plain import plain
from grsd.runs.pool import in_processes
from grsd.runs.spec import sources_of
from grsd.runs.store import kept, runs_folder
from grsd.runs.together import Stored, batches, store_together
from grsd.runs.training import train
from grsd.support.progress import bar
from grsd.support.values import cores, optional_flag, said, whole_number


@dataclass(frozen=True)
class Member:
    """The outcome of one spec: its file and the seconds it took (``None``: it was stored already), or its failure.

    ``result``: the dataset as its file gives it; the file is not read once more for that.
    """

    spec: object
    path: Path | None = None
    seconds: float | None = None
    failure: str | None = None
    result: xr.Dataset | None = None


class EnsembleError(RuntimeError):
    """Raised if members failed. ``results``: a dataset or ``None`` per spec; ``failures``: the failed members."""

    def __init__(self, results: list[xr.Dataset | None], failures: list[Member]) -> None:
        said = "; ".join(f"{member.spec}: {member.failure}" for member in failures)
        super().__init__(f"ensemble: {len(failures)} of {len(results)} runs failed, the others are kept: {said}")
        self.results, self.failures = results, failures


def ensemble(
    specs: Sequence,
    function: Callable[..., xr.Dataset] = train,
    *,
    workers: int | None = None,
    threads: int | None = None,
    folder: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> list[xr.Dataset]:
    """``run`` each of ``specs``, in parallel, and return their datasets in the order of ``specs``.

    Args:
        specs, function, folder: the experiments, the function that computes them and the folder, as in ``run``.
        workers: number of processes; ``None``: one per core for the CPU, a single one if a spec wants CUDA. A single
            worker is this process itself.
        threads: per run, as in ``run``; ``None``: one thread, on every machine.
        progress: show a bar with the time left; ``None``: on a terminal and in Jupyter.

    Seeds of one small network are computed at once, up to 31, which takes less time and changes no bit of any result.
    Finished runs are always kept; the same call goes on with the rest. A script that calls this with several workers
    needs the usual ``if __name__ == "__main__":``; notebooks and ``grsd run`` do not.

    Errors: ``EnsembleError`` at the end if members failed; ``ValueError`` for workers or threads below one;
    ``TypeError`` for a spec or a function that cannot be named; ``DataNotFound`` if data must be fetched first.
    """
    optional_flag("ensemble", "progress", progress)
    if isinstance(specs, str | bytes | Mapping) or not isinstance(specs, Iterable):
        raise TypeError(f"ensemble(specs): expected a sequence of specs, got {said(specs)}")
    specs = list(specs)
    done: dict[int, Member] = {}
    with closing(members(specs, function, workers, threads, folder, progress)) as arriving:
        for index, member in bar(arriving, show=progress, total=len(specs), desc="ensemble", unit="run"):
            done[index] = member
    results = collected(specs, done)
    failures = [done[index] for index in sorted(done) if done[index].failure]
    if failures:
        raise EnsembleError(results, failures)
    return results


def members(
    specs: Sequence,
    function: Callable[..., xr.Dataset] = train,
    workers: int | None = None,
    threads: int | None = None,
    folder: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> Iterator[tuple[int, Member]]:
    """Yield (position, member) as runs finish, those computed at once together.

    ``progress``: show a bar for each run that is computed alone in this process. Closing the iterator ends the workers
    at once. If a worker is killed, only what it was computing fails.
    """
    threads = whole_number("ensemble", "threads", 1 if threads is None else threads, 1)
    stems = [identity(spec, function, threads)[0] for spec in specs]
    folder = runs_folder(folder).resolve()
    there = [index for index, stem in enumerate(stems) if kept(folder, stem)]
    missing = [index for index in range(len(specs)) if index not in there]
    for index in missing:
        require(*sources_of(specs[index]))
    count = _workers([specs[index] for index in missing or there], workers)
    for index in there:  # read in this process, since new processes start slowly
        yield index, _member(specs[index], function, folder, threads, progress)
    tasks = batches(specs, missing, function, threads, count)
    if count == 1:
        for task in tasks:
            found = _task([specs[index] for index in task], function, folder, threads, progress)
            yield from zip(task, found, strict=True)
        return
    given = {number: ([specs[index] for index in task], function, folder, threads) for number, task in enumerate(tasks)}
    for number, found, failure in in_processes(_task, given, count, threads):
        for place, index in enumerate(tasks[number]):
            if found is not None:
                yield index, found[place]
            elif kept(folder, stems[index]):  # stored before its task failed
                yield index, _member(specs[index], function, folder, threads, progress)
            else:
                yield index, Member(specs[index], failure=failure)


def collected(specs: Sequence, done: Mapping[int, Member]) -> list[xr.Dataset | None]:
    """Return the results of ``members`` in the order of ``specs``; ``None`` if one failed or was not run."""
    return [done[index].result if index in done else None for index in range(len(specs))]


def summary(specs: Sequence, results: Sequence[xr.Dataset | None]) -> str:
    """Return a CSV table with one row per result: its spec, then its numbers; those over ``time`` at the last time.

    Equal results give equal bytes; ``None`` has no row.
    """
    rows = []
    for spec, result in zip(specs, results, strict=True):
        if result is not None:
            last = result.isel(time=-1) if "time" in result.dims else result
            numbers = {str(name): last[name].item() for name in [*last.coords, *last.data_vars] if not last[name].dims}
            rows.append({name: _cell(value) for name, value in plain(spec).items()} | numbers)
    text = io.StringIO()
    table = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def _cell(value: object) -> object:
    return " ".join(map(repr, value)) if isinstance(value, list) else value


def _workers(specs: Sequence, workers: int | None) -> int:
    if workers is not None:
        return min(whole_number("ensemble", "workers", workers, 1), max(1, len(specs)))
    return 1 if any(plain(spec).get("device") == "cuda" for spec in specs) else max(1, min(cores(), len(specs)))


def _task(
    specs: Sequence, function: Callable[..., xr.Dataset], folder: Path, threads: int, progress: bool | None = False
) -> list[Member]:
    """Compute one spec, or several of one family at once."""
    found = store_together(specs, folder, threads) if len(specs) > 1 else [None]
    return [_outcome(spec, one, function, folder, threads, progress) for spec, one in zip(specs, found, strict=True)]


def _outcome(
    spec: object,
    found: Stored | Exception | None,
    function: Callable[..., xr.Dataset],
    folder: Path,
    threads: int,
    progress: bool | None,
) -> Member:
    if found is None:
        return _member(spec, function, folder, threads, progress)
    if isinstance(found, Exception):
        return Member(spec, failure=_in_one_line(found))
    path, result, seconds = found
    return Member(spec, path, seconds, result=result)


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _member(
    spec: object, function: Callable[..., xr.Dataset], folder: Path, threads: int, progress: bool | None = False
) -> Member:
    try:
        path, result, seconds = obtain(spec, function, folder, progress, threads)
    except Exception as error:
        return Member(spec, failure=_in_one_line(error))
    return Member(spec, path, seconds, result=result)
