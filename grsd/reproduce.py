"""The notebooks, headless: checked before anything runs, executed through papermill, figures where they belong."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import papermill
import yaml
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import papermill_io
from traitlets.config import Config

from grsd.files import say_swept, unfinished_folder, write_atomically
from grsd.progress import VARIABLE as PROGRESS
from grsd.project import FIGURES, PROJECT, project

PROFILES = ("test", "default", "full")
KERNELS = "JUPYTER_RUNTIME_DIR"
MEMORY = "executed:"
BOOLEANS = {"true": True, "false": False}


class Refused(ValueError):
    """A request that is wrong as it stands; nothing has been run."""


@dataclass
class Job:
    """One notebook to run: its path, the values its parameters get, and what became of it."""

    notebook: Path
    parameters: dict[str, object]
    output: Path | None = None
    seconds: float = 0.0
    failure: str | None = None
    figures: list[Path] = field(default_factory=list)


def plan(
    root: Path,
    *,
    only: Sequence[str] = (),
    profile: str = "default",
    settings: Sequence[str] = (),
    device: str | None = None,
) -> list[Job]:
    """The jobs a request asks for, each parameter checked by name and type; ``Refused`` in one line otherwise.

    ``only``: names or numbers of notebooks. ``settings``: ``name=value``; a parameter goes to the chosen notebooks that
    have it, and one of them must. ``device`` sets the parameter of that name.
    """
    folder = root / "notebooks"
    notebooks = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    chosen = [path for path in notebooks if not only or any(path.stem in (n, f"{n}{path.stem[2:]}") for n in only)]
    for name in only:
        if not any(path.stem in (name, f"{name}{path.stem[2:]}") for path in notebooks):
            raise Refused(f"no notebook {name!r}; there are {', '.join(path.stem for path in notebooks)}")
    profiles = yaml.safe_load((folder / "profiles.yaml").read_text(encoding="utf-8"))
    if profile not in PROFILES:
        raise Refused(f"no profile {profile!r}; there are {', '.join(PROFILES)}")
    requested = dict(_split(setting) for setting in settings)
    if device is not None:
        requested["device"] = device

    jobs, taken = [], set()
    known: set[str] = set()
    for path in chosen:
        declared = _declared(path)
        known |= declared.keys()
        values = {}
        for name, value in (profiles[profile].get(path.stem) or {}).items():
            if name not in declared:
                raise Refused(f"profiles.yaml, profile {profile}: {path.stem} has no parameter {name!r}")
            values[name] = _typed(str(value).lower() if isinstance(value, bool) else str(value), declared[name], name)
        for name in requested.keys() & declared.keys():
            values[name] = _typed(requested[name], declared[name], name)
            taken.add(name)
        jobs.append(Job(path, values))
    for name in sorted(requested.keys() - taken):
        where = ", ".join(path.stem for path in chosen)
        raise Refused(f"no parameter {name!r} in {where}; there are {', '.join(sorted(known))}")
    return jobs


def reproduce(
    *,
    only: Sequence[str] = (),
    profile: str = "default",
    settings: Sequence[str] = (),
    device: str | None = None,
    output: Path | None = None,
    where: Path | None = None,
    refresh: bool = False,
) -> list[Job]:
    """Run notebooks in order and return what became of each; progress and results go to the terminal.

    Executed copies go to build/PROFILE and figures to figures/ where the notebooks run at their own defaults. With
    another profile or changed parameters both go under build/PROFILE (build/custom); with ``output`` both go there.
    ``refresh`` writes the executed notebooks back over the committed ones. A failing cell stops its own notebook only:
    what it made is kept, and ``failure`` names cell and error.
    """
    root = project(where)
    jobs = plan(root, only=only, profile=profile, settings=settings, device=device)
    changed = bool(settings or device)
    if refresh and (profile != "default" or changed or output):
        raise Refused("--refresh goes with the notebooks' own defaults: no --profile, --set, --device or --output")
    build = output or root / "build" / ("custom" if changed else profile)
    committed = output is None and profile == "default" and not changed
    pictures = root / "figures" if committed else build / "figures"
    build, pictures = build.resolve(), pictures.resolve()
    build.mkdir(parents=True, exist_ok=True)
    pictures.mkdir(parents=True, exist_ok=True)
    # The small matrices of the defaults are as fast on one thread, a busy machine does not slow it down tenfold as it
    # does several that wait for each other, and the last bits of a figure do not depend on the number of cores.
    threads = {} if profile == "full" else {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    data = [root / "data" / name for name in ("tables", "predictions", "results")]
    say_swept(build, pictures, root / "notebooks", *data)
    with (
        unfinished_folder(build) as kernels,
        _environment({PROJECT: str(root), FIGURES: str(pictures), PROGRESS: "0", KERNELS: str(kernels)} | threads),
    ):
        for number, job in enumerate(jobs, 1):
            print(f"[{number}/{len(jobs)}] {job.notebook.stem}", flush=True)
            _execute(job, build / job.notebook.name)
            job.figures = sorted(pictures.glob(f"{job.notebook.stem}-*"))
            print(f"      {_report(job, pictures)}", file=sys.stderr if job.failure else sys.stdout, flush=True)
            if refresh and not job.failure:
                _refresh(job)
    return jobs


def _execute(job: Job, output: Path) -> None:
    job.output = output
    start = time.perf_counter()
    # The kernel is on the loopback interface; without this, ipykernel warns at each start that TCP is not encrypted.
    quiet = Config({"KernelManager": {"transport_encryption": "auto"}})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            papermill.execute_notebook(
                str(job.notebook),
                f"{MEMORY}{output}",
                parameters=job.parameters,
                cwd=str(job.notebook.parent),
                progress_bar={"leave": False} if sys.stderr.isatty() else False,
                config=quiet,
            )
    except PapermillExecutionError as error:
        job.failure = f"cell In [{error.exec_count}]: {error.ename}: {' '.join(error.evalue.split())}"
    except RuntimeError as error:
        job.failure = f"its kernel: {' '.join(str(error).split())}"
    finally:
        _write_executed(job)
    job.seconds = time.perf_counter() - start


class _InMemory:
    """Where papermill writes a notebook after each cell: only the last one goes to a file, whole."""

    def __init__(self) -> None:
        self.written: dict[str, str] = {}

    def write(self, text: str, path: str) -> None:
        self.written[path] = text

    def pretty_path(self, path: str) -> str:
        return path.removeprefix(MEMORY)


_executed = _InMemory()
papermill_io.register(MEMORY, _executed)


def _write_executed(job: Job) -> None:
    """The notebook as far as it was executed; a disk without room for it is the job's failure."""
    text = _executed.written.pop(f"{MEMORY}{job.output}", None)
    if text is None:
        return
    notebook = nbformat.reads(text, as_version=4)
    notebook.metadata.papermill.output_path = str(job.output)
    try:
        write_atomically(job.output, nbformat.writes(notebook).encode())
    except OSError as error:
        job.failure = job.failure or f"its executed copy: {error}"


def _report(job: Job, pictures: Path) -> str:
    kept = os.path.relpath(job.output)
    if job.failure:
        return f"{job.notebook.stem} stopped at {job.failure} (what ran is kept in {kept})"
    text = f"{job.seconds:.0f} s, {kept}"
    return f"{text}, {len(job.figures)} files in {os.path.relpath(pictures)}" if job.figures else text


def _refresh(job: Job) -> None:
    """The executed copy over the committed notebook, without what changes from run to run."""
    notebook = nbformat.read(job.output, as_version=4)
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)
    write_atomically(job.notebook, (nbformat.writes(notebook) + "\n").encode())


def _declared(path: Path) -> dict[str, str]:
    """Parameter names and their annotated types."""
    found = papermill.inspect_notebook(str(path))
    return {name: details["inferred_type_name"] for name, details in found.items()}


def _split(setting: str) -> tuple[str, str]:
    name, sign, value = setting.partition("=")
    if not sign or not name.isidentifier():
        raise Refused(f"--set {setting}: expected name=value")
    return name, value


def _typed(text: str, kind: str, name: str) -> object:
    try:
        if kind == "bool":
            return BOOLEANS[text.strip().lower()]
        if kind in {"int", "float"}:
            return {"int": int, "float": float}[kind](text)
        if kind == "str":
            return text
        value = yaml.safe_load(text)
        if kind.startswith(("list", "tuple")) and isinstance(value, list):
            return value
    except (KeyError, ValueError, yaml.YAMLError):
        pass
    raise Refused(f"parameter {name}={text}: expected {kind}")


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
