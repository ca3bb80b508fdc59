"""Remove what killed and outdated runs left behind, unless a process holds its lock, and report it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from grsd.datasets.registry import dataset
from grsd.networks.registry import architecture
from grsd.runs.fingerprint import fingerprint
from grsd.runs.store import Scratch, kept, runs_folder, say, unheld
from grsd.runs.training import train
from grsd.support.files import sweep
from grsd.support.folders import one_line
from grsd.support.values import flag

WORK = ".work"
STEM = re.compile(r"(?P<experiment>.+-[0-9a-f]{16})-(?P<code>[0-9a-f]{16})")


def clean(folder: Path | None = None, *, unfinished: bool = False) -> list[str]:
    """Remove from a folder of results the files that no run needs any more; return one line per removed file.

    These are unfinished files of killed writers, checkpoints and locks of finished runs, and checkpoints that
    ``grsd run`` made with other code, which no run will resume. ``unfinished``: also remove the checkpoints from which
    interrupted runs would resume. Results stay, and so do locked files and files not named by this package.
    """
    flag("clean", "unfinished", unfinished)
    named, folder = folder, runs_folder(folder, "clean")
    if named is not None and not folder.is_dir():
        raise ValueError(f"--folder: there is no folder {one_line(folder)}")
    done = [f"{path}: unfinished file of a killed process" for path in sweep(folder)]
    current = _current_codes()
    for stem in _stems(folder):
        experiment = STEM.fullmatch(stem)
        old = stem.startswith(f"{train.__name__}-") and experiment["code"] not in current
        reason = "of a finished run" if kept(folder, stem) else "of other code" if old else "of an interrupted run"
        if unfinished or reason != "of an interrupted run":
            done += _remove(folder, stem, reason)
        else:
            done += [f"{path}: unfinished file of a killed process" for path in sweep(folder / WORK / stem)]
    return done


def _current_codes() -> set[str]:
    """Return today's fingerprints of ``train``, for every registered data set and architecture."""
    pairs = product(dataset.entries.values(), architecture.entries.values())
    return {fingerprint(train, *(entry.load() for entry in pair))[:16] for pair in pairs}


def tidy(folder: Path, stem: str) -> None:
    """Remove leftovers of the finished run ``stem``, also those made with other code, and report them on stderr."""
    experiment = STEM.fullmatch(stem)["experiment"]
    for other in _stems(folder, f"{experiment}-*"):
        for line in _remove(folder, other, "of a finished run" if other == stem else "of other code"):
            say(f"{line}; removed")


def _stems(folder: Path, pattern: str = "*") -> Iterator[str]:
    """Yield the stems of the locks and checkpoints in the folder."""
    names = {path.name.removesuffix(".lock") for path in (folder / WORK).glob(pattern)}
    return iter(sorted(name for name in names if STEM.fullmatch(name)))


def _remove(folder: Path, stem: str, reason: str) -> list[str]:
    """Remove leftovers of ``stem`` and return a line per file. A free lock is removed without a line: it is empty."""
    path = folder / WORK / stem
    with unheld(path.with_name(f"{stem}.lock")) as free:
        return [f"{path}: checkpoint {reason}"] if free and Scratch(path, {}).clear() else []
