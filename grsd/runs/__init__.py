"""Experiments: one spec and one function, one labelled file; computed once whoever asks, checked when read."""

from grsd.runs.clean import clean
from grsd.runs.compute import obtain, run
from grsd.runs.history import at_width, measured_energy_change, shell_history
from grsd.runs.parallel import EnsembleError, Member, collected, cores, ensemble, members, summary
from grsd.runs.spec import CHOICES, Spec, parse
from grsd.runs.store import Scratch, runs_folder
from grsd.runs.train import train

__all__ = [
    "CHOICES",
    "EnsembleError",
    "Member",
    "Scratch",
    "Spec",
    "at_width",
    "clean",
    "collected",
    "cores",
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
