"""The jobs of a request: one for each run, one for each notebook after its runs, and the figures last.

Targets are small marker files whose names hold what decides a result: a run's name in the store (experiment, code,
versions), and for a notebook a digest of its cells, its parameters, its runs, the code that it imports and the stored
tables that it may read. So a job is due exactly if its marker is missing, whatever the times of files say.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from grsd.plan import NotebookRun, Refused
from grsd.runs import Spec, train
from grsd.runs.compute import identity
from grsd.runs.fingerprint import LIBRARIES, sources
from grsd.runs.store import load
from grsd.support.arguments import listed
from grsd.support.files import write_atomically
from grsd.support.folders import one_line, read
from grsd.support.values import instance
from grsd.workflow.markers import hashes, intact, mark
from grsd.workflow.needs import needed

RUNS, NOTEBOOKS, FIGURES, PLAN = "runs", "notebooks", "figures", "plan.json"
READ = ("claims", "predictions", "results", "tables")  # folders of data/ that notebooks read


@dataclass(frozen=True)
class Jobs:
    """The jobs of one request: ``runs`` by name in the store, ``notebooks`` by the name of their marker.

    ``folder``: markers and outputs; ``store``: the folder of runs; ``root``: the project.
    """

    folder: Path
    store: Path
    root: Path
    runs: dict[str, Spec]
    notebooks: dict[str, NotebookRun]
    reads: dict[str, list[str]]

    def missing(self) -> list[str]:
        """Return the targets that are not there, in the order in which they can be made."""
        targets = [f"{RUNS}/{stem}" for stem in self.runs] + [f"{NOTEBOOKS}/{marker}" for marker in self.notebooks]
        return [target for target in [*targets, self.last] if not (self.folder / target).is_file()]

    @property
    def last(self) -> str:
        """The target of the figures."""
        return f"{FIGURES}-{_digest(*sorted(self.notebooks))}"

    def write(self) -> Path:
        """Write what the jobs need to know, and return the file."""
        content = {
            "python": sys.executable,
            "root": str(self.root),
            "store": str(self.store),
            "runs": {stem: spec.to_dict() for stem, spec in self.runs.items()},
            "notebooks": {
                marker: {"name": run.notebook.stem, "parameters": run.parameters, "runs": self.reads[marker]}
                for marker, run in self.notebooks.items()
            },
            "last": self.last,
        }
        path = self.folder / PLAN
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, indent=1, sort_keys=True)
        if not path.is_file() or path.read_text() != text:
            write_atomically(path, text.encode())
        return path

    def check(self) -> None:
        """Make the markers say what is there: every stored run and executed notebook is read and checked."""
        for stem, spec in self.runs.items():
            found = load(self.store, stem, identity(spec, train)[1])
            mark(self.folder / RUNS / stem, None if found is None else found[0].name)
        for marker in [*(f"{NOTEBOOKS}/{name}" for name in self.notebooks), self.last]:
            path = self.folder / marker
            if path.is_file() and not intact(path, self.folder):
                path.unlink()


def jobs_of(requested: Sequence[NotebookRun], folder: Path, store: Path, root: Path) -> Jobs:
    """Return the jobs of the requested notebooks; nothing is computed and nothing of the store is changed.

    Errors: ``Refused`` in one line for parameters of which no experiment can be made.
    """
    for name, path in (("folder", folder), ("store", store), ("root", root)):
        instance("jobs_of", name, path, Path, "a pathlib.Path")
    requested = listed("jobs_of", "requested", requested, "notebooks to run, as of grsd.plan.plan")
    for run in requested:
        instance("jobs_of", "requested", run, NotebookRun, "notebooks to run, as of grsd.plan.plan")
    runs, notebooks, reads, tables = {}, {}, {}, _stored(root)
    for run in requested:
        stems = {identity(spec, train)[0]: spec for spec in needed(run)}
        marker = f"{run.notebook.stem}-{_of_notebook(run, list(stems), tables)}"
        runs |= stems
        notebooks[marker], reads[marker] = run, list(stems)
    return Jobs(folder, store, root, runs, notebooks, reads)


def _of_notebook(run: NotebookRun, stems: Sequence[str], tables: str) -> str:
    """Return the digest of all that decides what a notebook shows."""
    try:
        cells = json.loads(read(run.notebook))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused(f"{run.notebook.name} cannot be read as a notebook: {one_line(error)}") from None
    with TemporaryDirectory() as aside:
        path = Path(aside) / "notebook.py"
        path.write_text(code)
        imported = [file.read_text() for file in sources(path)[1:]]
    libraries = [f"{name} {version(name)}" for name in LIBRARIES]
    parameters = json.dumps(run.parameters, sort_keys=True)
    return _digest(code, parameters, *libraries, *stems, *imported, tables)


def _stored(root: Path) -> str:
    files = [file for name in READ for file in sorted((root / "data" / name).glob("*")) if file.is_file()]
    return hashes(root, files)


def _digest(*texts: str) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)}\n{text}\n".encode())
    return digest.hexdigest()[:16]
