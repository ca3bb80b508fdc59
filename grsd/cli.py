"""The ``grsd`` command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from grsd.confirm import confirm_claims
from grsd.evidence import claims, results, verdict_lines
from grsd.project import PROJECT, ProjectNotFound, project
from grsd.reproduce import PROFILES, reproduce


class _Parser(argparse.ArgumentParser):
    """Refuses in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="grsd", description="Companion to 'When Does Learning Renormalize?' (arXiv 2512.18209).")
    parser.add_argument("--version", action="version", version=f"grsd {version('grsd')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("reproduce", help="run the notebooks headless and write their figures")
    run.add_argument("--only", action="append", default=[], metavar="NOTEBOOK", help="number or name; may be repeated")
    run.add_argument("--profile", default="default", help=f"one of {', '.join(PROFILES)}")
    run.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a parameter")
    run.add_argument("--device", metavar="DEVICE", help="auto, cpu or cuda")
    run.add_argument("--output", type=Path, metavar="DIR", help="executed copies and figures go here")
    run.add_argument("--project", type=Path, metavar="DIR", help="the companion's repository")
    run.add_argument("--refresh", action="store_true", help="also write the outputs back into notebooks/")
    table = commands.add_parser("claims", help="the claims, whose they are, and their verdicts")
    table.add_argument(
        "--confirm", nargs="*", metavar="CLAIM", help="measure and store what has no result yet, or CLAIM"
    )
    table.add_argument("--project", type=Path, metavar="DIR", help="the companion's repository")
    return parser


def _reproduce(options: argparse.Namespace) -> int:
    jobs = reproduce(
        only=options.only,
        profile=options.profile,
        settings=options.set,
        device=options.device,
        output=options.output,
        where=options.project,
        refresh=options.refresh,
    )
    return int(any(job.failure for job in jobs))


def _claims(options: argparse.Namespace) -> int:
    os.environ[PROJECT] = str(project(options.project))
    if options.confirm is not None:
        confirm_claims(options.confirm)
    print("\n".join(verdict_lines(claims(), results())))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 done, 1 a notebook failed, 2 refused before anything ran."""
    options = _parser().parse_args(arguments)
    try:
        return {"reproduce": _reproduce, "claims": _claims}[options.command](options)
    except (ValueError, ProjectNotFound) as error:
        print(f"grsd {options.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
