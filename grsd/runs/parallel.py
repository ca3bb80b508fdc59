"""Many experiments over the cores of one machine."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from grsd.runs.compute import identity, obtain
from grsd.runs.plain import plain
from grsd.runs.pool import in_processes
from grsd.runs.store import kept, runs_folder
from grsd.runs.training import train
from grsd.support.progress import bar
from grsd.support.values import cores, whole_number


@dataclass(frozen=True)
class Member:
    """What became of one spec: its file and how long it took (``None``: it was already there), or why it failed.

    ``result``: the dataset itself, where it could not be kept in a file.
    """

    spec: object
    path: Path | None = None
    seconds: float | None = None
    failure: str | None = None
    result: xr.Dataset | None = None


class EnsembleError(RuntimeError):
    """Some members failed. ``results`` has a dataset or ``None`` for each spec, ``failures`` the failed members."""

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
    """``run`` for each of ``specs``, in parallel: their datasets in the order of ``specs``.

    Args:
        specs, function, folder: the experiments and what computes them, as in ``run``.
        workers: processes; ``None``: one a core for the CPU, one in all where a spec wants CUDA. One worker is this
            process itself.
        threads: of each run, as in ``run``; ``None``: one, whatever the machine has and however many runs are left.
        progress: show a bar with the time left; ``None``: on a terminal and in Jupyter.

    Finished runs are kept whatever happens; the same call goes on with the rest. A script that calls this with several
    workers needs the usual ``if __name__ == "__main__":``; notebooks and ``grsd run`` do not.

    Errors: ``EnsembleError`` at the end where members failed; ``ValueError`` for workers or threads below one;
    ``TypeError`` for a spec or a function that cannot be named.
    """
    specs = list(specs)
    done: dict[int, Member] = {}
    with closing(members(specs, function, workers, threads, folder, progress)) as arriving:
        for index, member in bar(arriving, show=progress, total=len(specs), desc="ensemble", unit="run"):
            done[index] = member
    results = collected(specs, done, function, threads, folder)
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
    """(position, member) as they are finished, those computed in this process with bars of their own if ``progress``.

    Closing the iterator ends the workers at once. A worker that is killed takes its own run with it and no other.
    """
    threads = whole_number("ensemble", "threads", 1 if threads is None else threads, 1)
    stems = [identity(spec, function, threads)[0] for spec in specs]
    folder = runs_folder(folder).resolve()
    there = [index for index, stem in enumerate(stems) if kept(folder, stem)]
    missing = [index for index in range(len(specs)) if index not in there]
    count = _workers([specs[index] for index in missing or there], workers)
    # What is there is read here: processes start slowly.
    here = [*there, *(missing if count == 1 else [])]
    for index in here:
        yield index, _member(specs[index], function, folder, threads, progress)
    if len(here) == len(specs):
        return
    tasks = {index: (specs[index], function, folder, threads) for index in missing}
    for index, member, failure in in_processes(_member, tasks, count, threads):
        yield index, member or Member(specs[index], failure=failure)


def collected(
    specs: Sequence,
    done: Mapping[int, Member],
    function: Callable[..., xr.Dataset] = train,
    threads: int | None = None,
    folder: str | os.PathLike | None = None,
) -> list[xr.Dataset | None]:
    """The results of ``members`` in the order of ``specs``, read from their files; ``None`` for the failed ones."""
    results: list[xr.Dataset | None] = []
    for index, spec in enumerate(specs):
        member = done.get(index) or Member(spec, failure="not run")
        if member.failure is None and member.result is None:
            results.append(obtain(spec, function, folder, threads=threads or 1)[1])
        else:
            results.append(member.result)
    return results


def summary(specs: Sequence, results: Sequence[xr.Dataset | None]) -> str:
    """A CSV table, one row a result: its spec, then each number in it, those along ``time`` at the last time.

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


def _member(
    spec: object, function: Callable[..., xr.Dataset], folder: Path, threads: int, progress: bool | None = False
) -> Member:
    try:
        path, result, seconds = obtain(spec, function, folder, progress, threads)
    except Exception as error:
        return Member(spec, failure=f"{type(error).__name__}: {' '.join(str(error).split())}")
    return Member(spec, path, seconds, result=result if path is None else None)
