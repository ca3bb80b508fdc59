"""Arguments that several commands share, and how they are read and refused."""

from __future__ import annotations

import argparse
import re
from importlib.util import find_spec
from pathlib import Path

from grsd.support.folders import one_line

MOST_SAID = 2000  # characters of a line
MOST_SEEDS = 100_000
MOST_WORKERS, EACH_WORKER = 1000, "each is a process that takes a third of a GiB"


def add_project(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the companion's repository."""
    parser.add_argument("--project", type=path, metavar="DIR", help="the companion's repository")


def add_notebooks(parser: argparse.ArgumentParser, *, profile: str, changed: str = "change a parameter") -> None:
    """Add the options that choose notebooks and their parameters."""
    parser.add_argument(
        "--only", action="append", default=[], metavar="NOTEBOOK", help="number or name; may be repeated"
    )
    of_all = "test (small), default or full (large)"
    usual = "" if profile == "default" else f"; default {profile}"
    parser.add_argument("--profile", default=profile, help=of_all + usual)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=changed)


def path(text: str) -> Path:
    """Return a path; an empty one, as of a shell's unset variable, would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got ''")
    return Path(text)


def option(name: str) -> str:
    """Return the option of an argument: ``shell_width`` is ``--shell-width``."""
    return f"--{name.replace('_', '-')}"


def seeds(text: str) -> list[int]:
    """Return the seeds of a text such as ``0-7`` or ``0,3,5-6``; refuse others for ``argparse``."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", part)
        span = range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(0)
        if not 0 < len(found) + len(span) <= MOST_SEEDS or not span:
            raise argparse.ArgumentTypeError(
                f"expected up to {MOST_SEEDS} seeds (each is a run and a file) such as 0-7 or 0,3,5-6, got "
                f"{one_line(repr(text), 80)}"
            )
        found += span
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"a seed stands twice in {one_line(repr(text), 80)}")
    return found


def as_typed(message: str) -> str:
    """Turn the refusal of a Python call into one of the command's option: ``Spec(width=...): `` into ``--width: ``."""
    return re.sub(r"^[\w-]+\((\w+)=\.\.\.\)", lambda match: option(match[1]), message)


def need(command: str, module: str) -> None:
    """Refuse a command whose packages are not installed."""
    if find_spec(module) is None:
        raise ValueError(missing(command, module))


def missing(command: str, module: str) -> str:
    """Say that a package is missing, and how to install it."""
    return f"{module} is not installed; grsd {command} needs it: pip install 'grsd[notebooks]'"
