"""The ``grsd`` command: one parser, and one line for whatever stops a command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn, TextIO

from grsd.commands import audit, bench, claims, clean, data, lab, reproduce, run, scale, workflow
from grsd.commands.options import MOST_SAID, as_typed, missing
from grsd.datasets.registry import DataNotFound
from grsd.support.folders import ProjectNotFound, one_line

# Modules that need torch, or seconds to import, are imported in the functions that use them: help stays fast.

COMMANDS = {
    "reproduce": reproduce,
    "workflow": workflow,
    "scale": scale,
    "claims": claims,
    "data": data,
    "bench": bench,
    "audit": audit,
    "lab": lab,
    "clean": clean,
    "run": run,
}


class _Parser(argparse.ArgumentParser):
    """An argument parser that refuses in one line."""

    def print_help(self, file: TextIO | None = None) -> None:
        super().print_help(file)
        sys.stdout.flush()  # a closed pipe raises here, where ``main`` catches it

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {one_line(message, MOST_SAID)} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="grsd", description="Companion to 'When Does Learning Renormalize?' (arXiv 2512.18209).")
    parser.add_argument("--version", action="version", version=f"grsd {version('grsd')}")
    parser.set_defaults(command_line=main)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add(commands.add_parser(name, help=command.HELP, allow_abbrev=name != "run"))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return 0 if it succeeded, 1 if something failed, 2 if refused, 130 if interrupted."""
    command = ""
    try:
        options = _parser().parse_args(arguments)
        command = options.command
        code = COMMANDS[command].run(options)
        sys.stdout.flush()
        return code
    except (ValueError, FileExistsError, ProjectNotFound, DataNotFound) as error:
        return _stopped(command, as_typed(str(error)), 2)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module in ("", "grsd"):
            raise
        return _stopped(command, missing(command, module), 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has closed the pipe, as head does
        return 1
    except (OSError, RuntimeError, MemoryError) as error:
        return _stopped(command, str(error) or type(error).__name__, 1)
    except KeyboardInterrupt:
        return _stopped(command, "interrupted", 130)


def _stopped(command: str, why: str, code: int) -> int:
    text = " ".join(why.removeprefix(f"grsd {command}: ").split())
    print(f"grsd {command}: {one_line(text, MOST_SAID)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
