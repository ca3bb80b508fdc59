"""``grsd reproduce``: the notebooks, headless."""

from __future__ import annotations

import argparse

from grsd.commands.options import add_notebooks, add_project, need, path

HELP = "run the notebooks headless and write their figures"


def add(parser: argparse.ArgumentParser) -> None:
    add_notebooks(parser, profile="default", changed="change a parameter of the second code cell")
    parser.add_argument("--device", metavar="DEVICE", help="auto, cpu or cuda")
    parser.add_argument("--output", type=path, metavar="DIR", help="executed copies and figures go here")
    add_project(parser)
    parser.add_argument("--refresh", action="store_true", help="also write the outputs back into notebooks/")


def run(options: argparse.Namespace) -> int:
    need("reproduce", "papermill")
    from grsd.reproduce import reproduce  # papermill takes longer to import than some runs to compute

    runs = reproduce(
        only=options.only,
        profile=options.profile,
        settings=options.set,
        device=options.device,
        output=options.output,
        where=options.project,
        refresh=options.refresh,
    )
    return int(any(run.failure for run in runs))
