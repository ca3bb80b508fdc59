"""Run tasks in processes that always end with this one and leave nothing behind.

Each worker has one pipe, and no semaphore or shared memory that a kill could leave behind. If a worker is killed, only
its own task fails.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait

import torch
from tqdm.auto import tqdm

from grsd.support.progress import VARIABLE

THREADS = "OMP_NUM_THREADS"
ENDED = "a worker process ended abruptly (killed, out of memory, or a script without its __main__ guard)"


def in_processes(
    function: Callable, tasks: Mapping[int, tuple], workers: int, threads: int
) -> Iterator[tuple[int, object, str | None]]:
    """Yield (key, ``function(*task)``, ``None``) for each of ``tasks`` as they finish, at most ``workers`` at once.

    If a worker ends abruptly, yield (key, ``None``, reason); another worker takes its place, unless it never started.
    Closing the iterator ends the workers at once. ``threads``: per worker, set before its libraries are loaded.
    """
    waiting = list(tasks.items())[::-1]
    pool: dict[Connection, _Worker] = {}
    try:
        while waiting or any(worker.key is not None for worker in pool.values()):
            while waiting and len(pool) < workers:
                with _environment(threads):
                    worker = _Worker(function, threads)
                pool[worker.connection] = worker
                worker.give(*waiting.pop())
            for connection in wait(list(pool)):
                worker = pool[connection]
                try:
                    said = connection.recv()
                except (EOFError, OSError):
                    del pool[connection]
                    worker.end()
                    yield worker.key, None, ENDED
                    if not worker.started:
                        yield from ((key, None, ENDED) for key, _ in reversed(waiting))
                        waiting.clear()
                    continue
                if not worker.started:
                    worker.started = True
                    continue
                key, worker.key = worker.key, None
                if waiting:
                    worker.give(*waiting.pop())
                else:
                    del pool[connection]
                    worker.end()
                yield key, *said
    finally:
        for worker in pool.values():
            worker.end()


class _Worker:
    def __init__(self, function: Callable, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_work, args=(function, threads, other))
        self.process.start()
        other.close()
        self.key: int | None = None
        self.started = False

    def give(self, key: int, task: tuple) -> None:
        self.key = key
        with suppress(OSError):  # the worker has ended already; the reading side reports that
            self.connection.send(task)

    def end(self) -> None:
        self.connection.close()
        self.process.join()


def _work(function: Callable, threads: int, connection: Connection) -> None:
    """Run tasks in a worker: without bars, ignoring Ctrl-C, until the parent's end of the pipe closes."""
    os.environ[VARIABLE] = "0"
    torch.set_num_threads(threads)
    tqdm.set_lock(threading.RLock())  # tqdm's default lock is shared between processes, and a kill would leave it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tasks: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, tasks), daemon=True).start()
    connection.send(None)
    while True:
        result = function(*tasks.get())
        try:
            connection.send((result, None))
        except Exception as error:
            connection.send((None, f"its result cannot be handed over ({type(error).__name__}: {error})"))


def _listen(connection: Connection, tasks: queue.SimpleQueue) -> None:
    with suppress(EOFError, OSError):
        while True:
            tasks.put(connection.recv())
    os._exit(0)


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    before = os.environ.get(THREADS)
    os.environ[THREADS] = str(threads)
    try:
        yield
    finally:
        os.environ.pop(THREADS)
        if before is not None:
            os.environ[THREADS] = before
