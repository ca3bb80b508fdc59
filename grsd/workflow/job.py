"""One job, as Snakemake starts it: ``python -m grsd.workflow.job PLAN TARGET``."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from grsd.support.files import write_atomically
from grsd.support.folders import PROJECT, environment, one_line
from grsd.support.values import THREADS
from grsd.workflow.markers import hashes, mark

# Nothing that imports torch stands above: a job first takes its GPU.

GPUS, VISIBLE, SLURM = "GRSD_GPUS", "CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID"
TABLE = "runs.csv"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make one target of a plan, in the plan's folder, and its marker; return 0, or 1 after one line that says why."""
    plan, target = sys.argv[1:] if arguments is None else arguments
    path = Path(plan)
    asked = json.loads(path.read_text())
    kind, _, name = target.partition("/")
    with environment({PROJECT: asked["root"], "GRSD_RUNS": asked["store"], THREADS: "1"}):
        try:
            if kind == "runs":
                _run(asked, path.parent, name)
            elif kind == "notebooks":
                _notebook(asked, path.parent, name)
            else:
                _figures(asked, path.parent, target)
        except (RuntimeError, ValueError, TypeError, OSError) as error:
            print(f"grsd workflow: {target}: {one_line(' '.join(str(error).split()), 2000)}", file=sys.stderr)
            return 1
    return 0


def _run(asked: Mapping, folder: Path, stem: str) -> None:
    fields = asked["runs"][stem]
    with one_gpu(folder, fields["device"] == "cuda"):
        from grsd.runs import Spec, obtain

        path = obtain(Spec.from_dict(fields), folder=asked["store"], progress=False)[0]
        if path is None:
            raise RuntimeError("the run is computed, but could not be kept")
        mark(folder / "runs" / stem, path.name)


def _notebook(asked: Mapping, folder: Path, marker: str) -> None:
    """Execute one notebook into a folder of its own, and write the table of its runs beside it."""
    from grsd.reproduce import reproduce
    from grsd.runs import Spec, ensemble, summary

    entry = asked["notebooks"][marker]
    own = folder / entry["name"]
    given = entry["parameters"].items()
    settings = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in given]
    with one_gpu(folder, entry["parameters"].get("device") == "cuda"):
        shutil.rmtree(own / "figures", ignore_errors=True)
        (run,) = reproduce(only=[entry["name"]], settings=settings, output=own, where=Path(asked["root"]))
        if run.failure:
            raise RuntimeError(run.failure)
        specs = [Spec.from_dict(asked["runs"][stem]) for stem in entry["runs"]]
        if specs:
            table = summary(specs, ensemble(specs, workers=1, folder=asked["store"], progress=False))
            write_atomically(own / TABLE, table.encode())
    made = [own / f"{entry['name']}.ipynb", *run.figures, *([own / TABLE] if specs else [])]
    mark(folder / "notebooks" / marker, hashes(folder, made))
    for other in (folder / "notebooks").glob(f"{entry['name']}-*"):
        if other.name != marker:
            other.unlink()  # its files have been replaced by these


def _figures(asked: Mapping, folder: Path, target: str) -> None:
    """Collect the figures of the notebooks in one folder."""

    collected = []
    (folder / "figures").mkdir(exist_ok=True)
    for entry in asked["notebooks"].values():
        for figure in sorted((folder / entry["name"] / "figures").glob(f"{entry['name']}-*")):
            collected.append(write_atomically(folder / "figures" / figure.name, figure.read_bytes()))
    mark(folder / target, hashes(folder, collected))


@contextmanager
def one_gpu(folder: Path, wanted: bool) -> Iterator[str | None]:
    """Hold a GPU of this machine that no other job holds, and show this process no other; yield its number.

    Snakemake starts at most $GRSD_GPUS such jobs at a time. On SLURM, which gives each job its own GPUs, nothing is
    done. The system releases the GPU when this process ends in any way.
    """
    if not wanted or SLURM in os.environ:
        yield None
        return
    named = os.environ.get(VISIBLE) or ",".join(str(number) for number in range(int(os.environ.get(GPUS, "1"))))
    (folder / "gpus").mkdir(parents=True, exist_ok=True)
    locks = {number: FileLock(folder / "gpus" / f"{number}.lock") for number in named.split(",")}
    while True:
        for number, lock in locks.items():
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            try:
                with environment({VISIBLE: number}):
                    yield number
            finally:
                lock.release()
            return
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
