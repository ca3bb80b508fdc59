"""JupyterLab on copies of the notebooks, so that Lab, which rewrites notebooks it opens, changes no tracked file."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from grsd.plan import NOTEBOOKS
from grsd.support.files import write_atomically
from grsd.support.folders import PROJECT, one_line, read, writable
from grsd.support.values import THREADS, between

FIRST = "00_start_here.ipynb"
RECORD = ".copied.json"
LINKED = ("book/glossary.md", "book/proofs.md")  # pages that notebooks link to


def lab(root: Path, *, port: int | None = None, browser: bool = True) -> NoReturn:
    """Replace this process by JupyterLab on ``copies`` of the notebooks in build/lab of the project ``root``.

    It listens on 127.0.0.1 behind a token. Kernels compute on one thread unless OMP_NUM_THREADS is set: small matrices
    are no faster on several threads, which wait for each other on a busy machine.
    """
    if port is not None:
        between("--port", port, 1, 65_535, "the last TCP port")
    folder = root / "build" / "lab"
    for line in copies(root / "notebooks", writable("grsd lab", folder)):
        print(line, flush=True)
    variables = os.environ | {PROJECT: str(root), THREADS: os.environ.get(THREADS, "1")}
    print(f"kernels compute with {THREADS}={variables[THREADS]}; set it before the command to change that", flush=True)
    line = command(folder, port, browser)
    os.execve(line[0], line, variables)  # noqa: S606  so Lab itself receives the signals, and ends its kernels


def command(folder: Path, port: int | None, browser: bool) -> list[str]:
    """Return the command that starts the server. Lab shows the parent folder too, where figures drawn by hand are."""
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.root_dir": str(folder.parent),
        "LabApp.default_url": f"/lab/tree/{folder.name}/{FIRST}",
    }
    if port is not None:
        options["ServerApp.port"] = str(port)
    extra = ([] if browser else ["--no-browser"]) + (["--allow-root"] if _is_root() else [])
    return [sys.executable, "-m", "jupyterlab", *(f"--{name}={value}" for name, value in options.items()), *extra]


def copies(notebooks: Path, folder: Path) -> list[str]:
    """Copy missing notebooks to ``folder``, renew unchanged copies, and return lines that report what was done.

    A changed copy (Lab changes one by saving it) is kept. If its notebook has changed too, a line says how to get the
    new one. Pages that notebooks link to are always renewed, so that the links work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = _record(folder / RECORD)
    made, kept, lines = [], [], []
    for source in sorted(notebooks.glob(NOTEBOOKS)):
        copy, content = folder / source.name, source.read_bytes()
        digest, before = _digest(content), record.get(source.name)
        found = _digest(copy.read_bytes()) if copy.exists() else None
        if found not in {None, digest, before}:
            kept.append(source.name)
            if before != digest:
                lines.append(f"{source.name} is newer than your copy; move {copy} away to have it")
            continue
        if found != digest:
            write_atomically(copy, content)
            made.append(source.name)
        record[source.name] = digest
    for page in LINKED:
        if (notebooks / page).exists():
            (folder / page).parent.mkdir(exist_ok=True)
            write_atomically(folder / page, (notebooks / page).read_bytes())
    write_atomically(folder / RECORD, json.dumps(record, indent=1).encode())
    said = {"copied": made, "kept as you left them": kept}
    return [f"{folder}: {', '.join(f'{len(names)} {what}' for what, names in said.items())}", *lines]


def _record(path: Path) -> dict[str, str]:
    """Return the digests that the notebooks had when they were copied; empty if the record cannot be read."""
    try:
        content = json.loads(read(path)) if path.exists() else {}
    except ValueError as error:
        print(f"grsd lab: {one_line(error)}; all copies there count as yours", file=sys.stderr)
        return {}
    return content if isinstance(content, Mapping) else {}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0
