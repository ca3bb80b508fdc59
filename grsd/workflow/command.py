"""Start Snakemake on the jobs of a request, and say what is done and what is due."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from grsd.plan import plan
from grsd.runs.store import runs_folder
from grsd.support.folders import environment, one_line, project, writable
from grsd.support.values import THREADS, between
from grsd.workflow.job import GPUS
from grsd.workflow.jobs import Jobs, jobs_of

HERE = Path(__file__).resolve().parent
SNAKEFILE, PROFILE = HERE / "Snakefile", HERE / "profiles" / "slurm"
MOST = 10_000


def workflow(
    *,
    only: Sequence[str] = (),
    profile: str = "default",
    settings: Sequence[str] = (),
    device: str | None = None,
    cores: int = 1,
    gpus: int = 0,
    slurm: str | os.PathLike | None = None,
    dry: bool = False,
    output: Path | None = None,
    where: Path | None = None,
    more: Sequence[str] = (),
) -> int:
    """Run notebooks and the runs they read as jobs of Snakemake, and return its exit code.

    Args:
        only, profile, settings, device: of the notebooks, as in ``reproduce``.
        cores: jobs at a time on this machine. gpus: most of them at a time on GPUs, each on one of its own.
        slurm: send the jobs to SLURM with this profile of Snakemake; an empty text is grsd's own.
        dry: only print the jobs that are due.
        output: folder of markers, executed notebooks, tables and figures; ``None``: build/workflow/PROFILE.
        more: further arguments of Snakemake.

    A job is due if its target is missing: finished runs are found in the store, whoever computed them, so an
    interrupted or killed workflow goes on with the rest.

    Errors: before anything runs, ``Refused`` or ``ValueError`` in one line; also if Snakemake is not installed or the
    same folder is in use; ``ProjectNotFound``.
    """
    between("--cores", cores, 1, MOST, "each is a process")
    between("--gpus", gpus, 0, MOST, "each is a device")
    own_profile = None if slurm is None else Path(slurm or PROFILE)
    if own_profile is not None and not (own_profile / "config.yaml").is_file():
        raise ValueError(f"--slurm {one_line(own_profile)}: expected a folder with config.yaml, a profile of Snakemake")
    root = project(where)
    requested = plan(root, only=only, profile=profile, settings=settings, device=device)
    changed = bool(settings or device)
    folder = output or root / "build" / "workflow" / ("custom" if changed else profile)
    folder = writable("--output" if output else "workflow", folder).resolve()
    store = writable("results", runs_folder()).resolve()
    planned = jobs_of(requested, folder, store, root)
    if not dry:
        program = _snakemake(root)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "workflow.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"another grsd workflow uses {one_line(folder)}; wait, or give --output") from None
    planned.check()
    _say(planned)
    if dry:
        return 0
    line = [program, "--snakefile", str(SNAKEFILE), "--directory", str(folder), "--rerun-triggers", "input"]
    gpus = max(gpus, int(any(spec.device == "cuda" for spec in planned.runs.values())))
    here = ["--cores", str(cores), "--resources", f"gpu={gpus}"]
    # Markers are written at once and were checked above: one that is there is whole, though its job was killed.
    line += ["--nolock", "--ignore-incomplete", "--keep-going", *more]
    line += here if own_profile is None else ["--workflow-profile", str(own_profile)]
    line += ["--config", f"plan={planned.write()}"]
    with lock, environment({GPUS: str(gpus), THREADS: "1"}):
        return _ended(line)


def _ended(line: Sequence[str]) -> int:
    """Return Snakemake's exit code; an interrupt reaches it too, and it ends its jobs."""
    with subprocess.Popen(line) as running:  # noqa: S603
        try:
            return running.wait()
        except KeyboardInterrupt:
            running.wait()
            print("grsd workflow: interrupted; finished jobs are kept, and the same command resumes", file=sys.stderr)
            return 130


def _say(planned: Jobs) -> None:
    missing = planned.missing()
    runs = sum(target.startswith("runs/") for target in missing)
    notebooks = sum(target.startswith("notebooks/") for target in missing)
    first = f"{len(planned.runs)} runs, {runs} of them due; {len(planned.notebooks)} notebooks, {notebooks} of them due"
    print("\n".join([first, *(f"  {target}" for target in missing)]), flush=True)


def _snakemake(root: Path) -> str:
    """Return the program: beside this Python, on the path, or as made by make; it need not share grsd's environment."""
    places = [os.path.dirname(sys.executable), os.environ.get("PATH", ""), str(root / "build" / "snakemake" / "bin")]
    found = shutil.which("snakemake", path=os.pathsep.join(places))
    if found is None:
        raise ValueError(
            "snakemake is not installed: make snakemake, in the clone; or pip install snakemake "
            "snakemake-executor-plugin-slurm in an environment of its own, with its bin folder on the path"
        )
    return found
