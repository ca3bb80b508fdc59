"""Experiments: a spec and a function give one labelled file, which is computed once and checked when it is read."""

from typing import TYPE_CHECKING

from grsd.support.lazy import face

if TYPE_CHECKING:
    from grsd.runs.compute import obtain, run
    from grsd.runs.history import at_width, measured_energy_change, shell_history
    from grsd.runs.leftovers import clean
    from grsd.runs.parallel import EnsembleError, Member, collected, ensemble, members, summary
    from grsd.runs.spec import Spec, choices, parse
    from grsd.runs.store import Scratch, runs_folder
    from grsd.runs.training import train

__all__ = [
    "EnsembleError",
    "Member",
    "Scratch",
    "Spec",
    "at_width",
    "choices",
    "clean",
    "collected",
    "ensemble",
    "measured_energy_change",
    "members",
    "obtain",
    "parse",
    "run",
    "runs_folder",
    "shell_history",
    "summary",
    "train",
]

__getattr__, __dir__ = face(__name__)
