"""What killed and superseded runs leave behind: removed when nobody holds its lock, and said."""

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

WORK = ".work"
STEM = re.compile(r"(?P<experiment>.+-[0-9a-f]{16})-(?P<code>[0-9a-f]{16})")


def clean(folder: Path | None = None, *, unfinished: bool = False) -> list[str]:
    """Remove from a folder of results what no run needs any more, and say what: one line a thing.

    Unfinished files of killed writers, checkpoints and locks of finished runs, and checkpoints of ``grsd run`` made by
    other code than this, which nothing will take up again. ``unfinished``: also the checkpoints of interrupted runs,
    which would go on where they were. Results stay, and so does all whose lock somebody holds, and every file that is
    not named as this package names them.
    """
    if folder is not None and not Path(folder).is_dir():
        raise ValueError(f"--folder: there is no folder {one_line(folder)}")
    folder = runs_folder(folder)
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
    """Of ``train`` today, for every registered data set and architecture."""
    pairs = product(dataset.entries.values(), architecture.entries.values())
    return {fingerprint(train, *(entry.load() for entry in pair))[:16] for pair in pairs}


def tidy(folder: Path, stem: str) -> None:
    """Remove what is left of the finished run ``stem``, and of the same experiment with other code; said on stderr."""
    experiment = STEM.fullmatch(stem)["experiment"]
    for other in _stems(folder, f"{experiment}-*"):
        for line in _remove(folder, other, "of a finished run" if other == stem else "of other code"):
            say(f"{line}; removed")


def _stems(folder: Path, pattern: str = "*") -> Iterator[str]:
    """Of the locks and checkpoints that are there."""
    names = {path.name.removesuffix(".lock") for path in (folder / WORK).glob(pattern)}
    return iter(sorted(name for name in names if STEM.fullmatch(name)))


def _remove(folder: Path, stem: str, reason: str) -> list[str]:
    """The lines of what was removed. A lock that nobody holds vanishes without one: it holds nothing."""
    path = folder / WORK / stem
    with unheld(path.with_name(f"{stem}.lock")) as free:
        return [f"{path}: checkpoint {reason}"] if free and Scratch(path, {}).clear() else []
