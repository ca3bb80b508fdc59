"""Many experiments over the cores of one machine."""

from __future__ import annotations

import csv
import io
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import xarray as xr

from grsd.checks import whole
from grsd.flow import HISTORY
from grsd.progress import bar
from grsd.runs.compute import obtain
from grsd.runs.spec import Spec
from grsd.runs.store import runs_folder


@dataclass(frozen=True)
class Member:
    """What became of one spec: its file and how long it took (``None``: it was already there), or why it failed."""

    spec: Spec
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
    specs: Sequence[Spec],
    workers: int | None = None,
    progress: bool | None = None,
    *,
    threads: int | None = None,
    folder: str | os.PathLike | None = None,
) -> list[xr.Dataset]:
    """``run`` for each of ``specs``, in parallel: their datasets in the order of ``specs``.

    Args:
        specs: the experiments.
        workers: processes; ``None``: one a core for the CPU, one in all where a spec wants CUDA. One worker is this
            process itself.
        progress: show a bar with the time left; ``None``: on a terminal and in Jupyter.
        threads: of each worker; ``None``: cores // workers, so that the cores are shared out. Give it where results
            made with different numbers of workers must agree to the last digit.
        folder: of the results, as in ``run``.

    Finished runs are kept whatever happens; the same call goes on with the rest. A script that calls this with several
    workers needs the usual ``if __name__ == "__main__":``; notebooks and ``grsd run`` do not.

    Errors: ``EnsembleError`` at the end where members failed; ``ValueError`` for workers or threads below one.
    """
    specs = list(specs)
    done: dict[int, Member] = {}
    with closing(members(specs, workers, threads, folder)) as arriving:
        for index, member in bar(arriving, show=progress, total=len(specs), desc="ensemble", unit="run"):
            done[index] = member
    results = [None if done[index].failure else obtain(spec, folder)[1] for index, spec in enumerate(specs)]
    failures = [done[index] for index in sorted(done) if done[index].failure]
    if failures:
        raise EnsembleError(results, failures)
    return results


def members(
    specs: Sequence[Spec],
    workers: int | None = None,
    threads: int | None = None,
    folder: str | os.PathLike | None = None,
) -> Iterator[tuple[int, Member]]:
    """(position, member) as they are finished. Closing the iterator ends the workers at once."""
    if not all(isinstance(spec, Spec) for spec in specs):
        raise TypeError("ensemble(specs, ...): expected a sequence of grsd.Spec")
    folder = runs_folder(folder).resolve()
    count = _workers(specs, workers)
    threads = max(1, cores() // count) if threads is None else whole("ensemble", "threads", threads, 1)
    if count == 1:
        with _threads(threads):
            for index, spec in enumerate(specs):
                yield index, _member(spec, folder)
        return
    with _pool(count, threads) as pool:
        waiting = {pool.submit(_member, spec, folder): index for index, spec in enumerate(specs)}
        for future in as_completed(waiting):
            index = waiting[future]
            try:
                yield index, future.result()
            except BrokenProcessPool:
                text = "a worker process ended abruptly (killed, out of memory, or a script without its __main__ guard)"
                yield index, Member(specs[index], failure=text)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def summary(specs: Sequence[Spec], results: Sequence[xr.Dataset | None]) -> str:
    """A CSV table, one row a run: its fields, and where it ended. Equal results give equal bytes."""
    names = list(Spec().to_dict())
    ends = ["time", "largest_eigenvalue", *HISTORY]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*names, *ends])
    for spec, result in zip(specs, results, strict=True):
        if result is not None:
            last = result.isel(time=-1)
            fields = [" ".join(map(repr, v)) if isinstance(v, list) else v for v in spec.to_dict().values()]
            table.writerow([*fields, *(last[name].item() for name in ends)])
    return text.getvalue()


def _workers(specs: Sequence[Spec], workers: int | None) -> int:
    if workers is not None:
        return min(whole("ensemble", "workers", workers, 1), max(1, len(specs)))
    return 1 if any(spec.device == "cuda" for spec in specs) else max(1, min(cores(), len(specs)))


def _member(spec: Spec, folder: Path) -> Member:
    try:
        path, _, seconds = obtain(spec, folder, progress=False)
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
    """Workers that end with this process, however it ends, and at once when the block is left early."""
    context = multiprocessing.get_context("spawn")
    ending, held = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(threads, ending))
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


def _start(threads: int, ending: Connection) -> None:
    """In a worker: its share of the cores; leave Ctrl-C to the parent; end when the parent's end of the pipe closes."""
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(ending,), daemon=True).start()


def _end_with(ending: Connection) -> None:
    try:
        ending.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)
