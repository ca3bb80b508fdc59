"""Where the companion's notebooks, data and figures are."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT, FIGURES = "GRSD_PROJECT", "GRSD_FIGURES"


class ProjectNotFound(FileNotFoundError):
    """The package is installed without the companion's repository around it."""


def project(where: str | os.PathLike | None = None) -> Path:
    """The repository's root: ``where``, else $GRSD_PROJECT, else the folder around this package or the current one.

    Raises ``ProjectNotFound`` in one line where that folder has no notebooks/profiles.yaml.
    """
    if where is not None and not isinstance(where, str | os.PathLike):
        raise TypeError(f"project(where=...): expected a folder's path, got {type(where).__name__}")
    named = where or os.environ.get(PROJECT)
    here = Path.cwd()
    candidates = [Path(named)] if named else [Path(__file__).resolve().parents[1], here, *here.parents]
    for folder in candidates:
        if (folder / "notebooks" / "profiles.yaml").is_file():
            return folder.resolve()
    raise ProjectNotFound(
        f"no notebooks/profiles.yaml in {candidates[0]}: clone the companion's repository and run this inside it, or "
        "name it with --project or GRSD_PROJECT"
    )


def figures() -> Path:
    """Where figures are written: $GRSD_FIGURES (set by ``grsd reproduce``), else build/figures in the project.

    A notebook run by hand therefore never overwrites the committed figures.
    """
    named = os.environ.get(FIGURES)
    folder = Path(named) if named else project() / "build" / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
