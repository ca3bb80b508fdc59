"""Many experiments over the cores of one machine."""

from __future__ import annotations

import csv
import io
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import xarray as xr

from grsd.progress import VARIABLE, bar
from grsd.runs.compute import identity, obtain
from grsd.runs.plain import plain
from grsd.runs.store import kept, runs_folder
from grsd.runs.training import train
from grsd.values import THREADS, cores, whole


@dataclass(frozen=True)
class Member:
    """What became of one spec: its file and how long it took (``None``: it was already there), or why it failed."""

    spec: object
    path: Path | None = None
    seconds: float | None = None
    failure: str | None = None


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
        threads: of each worker; ``None``: cores // workers, so that the cores are shared out. Give it where results
            made with different numbers of workers must agree to the last digit.
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
    results = [None if done[index].failure else obtain(spec, function, folder)[1] for index, spec in enumerate(specs)]
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

    Closing the iterator ends the workers at once.
    """
    stems = [identity(spec, function)[0] for spec in specs]
    folder = runs_folder(folder).resolve()
    there = [index for index, stem in enumerate(stems) if kept(folder, stem)]
    missing = [index for index in range(len(specs)) if index not in there]
    count = _workers([specs[index] for index in missing or there], workers)
    threads = max(1, cores() // count) if threads is None else whole("ensemble", "threads", threads, 1)
    # What is there is read here: processes start slowly.
    here = [*there, *(missing if count == 1 else [])]
    with _threads(threads):
        for index in here:
            yield index, _member(specs[index], function, folder, progress)
    if len(here) == len(specs):
        return
    with _pool(count, threads) as pool:
        waiting = {pool.submit(_member, specs[index], function, folder): index for index in missing}
        for future in as_completed(waiting):
            index = waiting[future]
            try:
                yield index, future.result()
            except BrokenProcessPool:
                text = "a worker process ended abruptly (killed, out of memory, or a script without its __main__ guard)"
                yield index, Member(specs[index], failure=text)


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
        return min(whole("ensemble", "workers", workers, 1), max(1, len(specs)))
    return 1 if any(plain(spec).get("device") == "cuda" for spec in specs) else max(1, min(cores(), len(specs)))


def _member(spec: object, function: Callable[..., xr.Dataset], folder: Path, progress: bool | None = False) -> Member:
    try:
        path, _, seconds = obtain(spec, function, folder, progress)
    except Exception as error:
        return Member(spec, failure=f"{type(error).__name__}: {' '.join(str(error).split())}")
    return Member(spec, path, seconds)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _pool(workers: int, threads: int) -> Iterator[ProcessPoolExecutor]:
    """Workers that end with this process, however it ends, and at once when the block is left early. Their libraries
    read the number of threads when they are loaded."""
    context = multiprocessing.get_context("spawn")
    ending, held = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(threads, ending))
    before = os.environ.get(THREADS)
    os.environ[THREADS] = str(threads)
    try:
        yield pool
    except BaseException:
        held.close()
        pool.shutdown(cancel_futures=True)
        raise
    else:
        pool.shutdown()
    finally:
        held.close()
        ending.close()
        os.environ.pop(THREADS)
        if before is not None:
            os.environ[THREADS] = before


def _start(threads: int, ending: Connection) -> None:
    """In a worker: its share of the cores, no bars; leave Ctrl-C to the parent; end when the parent's end of the pipe
    closes."""
    os.environ[VARIABLE] = "0"
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(ending,), daemon=True).start()


def _end_with(ending: Connection) -> None:
    try:
        ending.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)
