"""``grsd clean``: leftovers of killed and outdated runs."""

from __future__ import annotations

import argparse

from grsd.commands.options import path

HELP = "remove leftovers of killed and outdated runs; results stay"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=path, metavar="DIR", help="results; default: $GRSD_RUNS, else data/runs")
    parser.add_argument("--unfinished", action="store_true", help="also remove checkpoints of interrupted runs")


def run(options: argparse.Namespace) -> int:
    from grsd.runs import clean

    print("\n".join(clean(options.folder, unfinished=options.unfinished)) or "grsd clean: nothing to remove")
    return 0
