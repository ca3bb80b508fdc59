"""Run the notebooks headless through papermill, and write their figures."""

from __future__ import annotations

import math
import os
import sys
import time
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from grsd.evidence.seconds import TOOK
from grsd.plan import NotebookRun, Refused, plan
from grsd.support.files import say_swept, unfinished_folder, write_atomically
from grsd.support.folders import FIGURES, PROJECT, environment, one_line, project, writable
from grsd.support.progress import VARIABLE as PROGRESS
from grsd.support.values import THREADS, cores

KERNELS = "JUPYTER_RUNTIME_DIR"
MEMORY = "executed:"


def reproduce(
    *,
    only: Sequence[str] = (),
    profile: str = "default",
    settings: Sequence[str] = (),
    device: str | None = None,
    output: Path | None = None,
    where: Path | None = None,
    refresh: bool = False,
) -> list[NotebookRun]:
    """Run notebooks in order and return one ``NotebookRun`` per notebook; progress and results go to the terminal.

    Executed copies go to build/PROFILE, and figures to figures/ if the notebooks run at their own defaults. With
    another profile or changed parameters both go under build/PROFILE (build/custom); with ``output`` both go there.
    ``refresh`` writes the executed notebooks back over the committed ones. A failing cell stops only its own notebook:
    the cells that ran are kept, and ``failure`` names cell and error.

    Notebooks run on $OMP_NUM_THREADS threads if it is set; otherwise on one, or on all cores with the profile full.

    Errors: before anything runs, ``Refused`` or ``ValueError`` in one line for a wrong request or a place that cannot
    be written to; ``ProjectNotFound``.
    """
    root = project(where)
    runs = plan(root, only=only, profile=profile, settings=settings, device=device)
    _refuse_cuda_where_there_is_none(runs)
    changed = bool(settings or device)
    if refresh and (profile != "default" or changed or output):
        raise Refused("--refresh goes with the notebooks' own defaults: no --profile, --set, --device or --output")
    build = output or root / "build" / ("custom" if changed else profile)
    committed = output is None and profile == "default" and not changed
    pictures = root / "figures" if committed else build / "figures"
    for folder in (build, pictures, *([root / "notebooks"] if refresh else [])):
        writable("--output" if output else "reproduce", folder)
    build, pictures = build.resolve(), pictures.resolve()
    build.mkdir(parents=True, exist_ok=True)
    pictures.mkdir(parents=True, exist_ok=True)
    # The default notebooks have small matrices, which are no faster on several threads. One thread also slows down less
    # on a busy machine (several wait for each other), and keeps the last bits of a figure independent of the cores.
    threads = os.environ.get(THREADS, str(cores()) if profile == "full" else "1")
    data = [root / "data" / name for name in ("tables", "predictions", "results")]
    say_swept(build, pictures, root / "notebooks", *data)
    places = {PROJECT: str(root), FIGURES: str(pictures), PROGRESS: "0", THREADS: threads}
    with unfinished_folder(build) as kernels, environment(places | {KERNELS: str(kernels)}):
        for number, run in enumerate(runs, 1):
            print(f"[{number}/{len(runs)}] {run.notebook.stem}", flush=True)
            _execute(run, build / run.notebook.name)
            run.figures = sorted(pictures.glob(f"{run.notebook.stem}-*"))
            print(f"      {_report(run, pictures)}", file=sys.stderr if run.failure else sys.stdout, flush=True)
            if refresh and not run.failure:
                _refresh(run)
    return runs


def _refuse_cuda_where_there_is_none(runs: Sequence[NotebookRun]) -> None:
    asked = [str(run.parameters.get("device")) for run in runs]
    if any(device.startswith("cuda") for device in asked):
        import torch

        if not torch.cuda.is_available():
            raise Refused("--device cuda: there is no CUDA device here")


def _execute(run: NotebookRun, output: Path) -> None:
    import papermill  # a slow import; a wrong request is refused without it
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    _register()
    run.output = output
    start, spent = time.perf_counter(), _children()
    # The kernel is on the loopback interface; without this, ipykernel warns at each start that TCP is not encrypted.
    quiet = Config({"KernelManager": {"transport_encryption": "auto"}})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            papermill.execute_notebook(
                str(run.notebook),
                f"{MEMORY}{output}",
                parameters=run.parameters,
                cwd=str(run.notebook.parent),
                progress_bar={"leave": False} if sys.stderr.isatty() else False,
                config=quiet,
                kernel_manager_class=_manager(),
            )
    except PapermillExecutionError as error:
        run.failure = f"cell In [{error.exec_count}]: {error.ename}: {' '.join(error.evalue.split())}"
    except Exception as error:  # after any error, the other notebooks still run
        what = {OSError: "its files", RuntimeError: "its kernel"}
        kind = next((said for cause, said in what.items() if isinstance(error, cause)), type(error).__name__)
        run.failure = one_line(f"{kind}: {' '.join(str(error).split())}", 300)
    finally:
        _write_executed(run)
    run.seconds, run.cpu_seconds = time.perf_counter() - start, _children() - spent


def _children() -> float:
    """Return the CPU seconds of all child processes that have ended, such as kernels and what they started."""
    times = os.times()
    return times.children_user + times.children_system


class _InMemory:
    """A papermill handler that keeps a notebook in memory after each cell; only the last state goes to a file."""

    def __init__(self) -> None:
        self.written: dict[str, str] = {}

    def write(self, text: str, path: str) -> None:
        self.written[path] = text

    def pretty_path(self, path: str) -> str:
        return path.removeprefix(MEMORY)


_executed = _InMemory()


@cache
def _manager() -> type:
    """Return a manager that ends a kernel by asking it, without the interrupt that jupyter_client sends before.

    papermill goes on as soon as it has the kernel's last reply. A kernel that is interrupted before it is done with
    that message reports "KeyboardInterrupt caught in kernel", under a notebook that ran well.
    """
    from jupyter_client import AsyncKernelManager

    class Manager(AsyncKernelManager):
        async def _async_interrupt_kernel(self) -> None:
            if not self.shutting_down:
                await super()._async_interrupt_kernel()

    return Manager


@cache
def _register() -> None:
    from papermill.iorw import papermill_io

    papermill_io.register(MEMORY, _executed)


def _write_executed(run: NotebookRun) -> None:
    """Write the notebook as far as it was executed; if the disk is full, that is the run's failure."""
    import nbformat

    text = _executed.written.pop(f"{MEMORY}{run.output}", None)
    if text is None:
        return
    notebook = nbformat.reads(text, as_version=4)
    notebook.metadata.papermill.output_path = str(run.output)
    try:
        write_atomically(run.output, nbformat.writes(notebook).encode())
    except OSError as error:
        run.failure = run.failure or f"its executed copy: {error}"


def _report(run: NotebookRun, pictures: Path) -> str:
    kept = os.path.relpath(run.output)
    if run.failure:
        return f"{run.notebook.stem} stopped at {run.failure} (what ran is kept in {kept})"
    text = f"{run.seconds:.0f} s, {kept}"
    return f"{text}, {len(run.figures)} files in {os.path.relpath(pictures)}" if run.figures else text


def _refresh(run: NotebookRun) -> None:
    """Write the executed copy over the committed notebook, with the seconds that it took.

    All other metadata that change from run to run are left out.
    """
    import nbformat

    notebook = nbformat.read(run.output, as_version=4)
    notebook.metadata.pop("papermill", None)
    notebook.metadata[TOOK] = {"seconds": math.ceil(run.seconds), "cpu_seconds": math.ceil(run.cpu_seconds)}
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)
    write_atomically(run.notebook, (nbformat.writes(notebook) + "\n").encode())
