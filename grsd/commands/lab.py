"""``grsd lab``: JupyterLab on copies of the notebooks."""

from __future__ import annotations

import argparse

from grsd.commands.options import add_project, need
from grsd.support.folders import project

HELP = "JupyterLab on copies of the notebooks, in build/lab; on this machine only"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, metavar="N", help="default: the first free one from 8888 on")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    add_project(parser)


def run(options: argparse.Namespace) -> int:
    need("lab", "jupyterlab")
    from grsd.lab import lab

    return lab(project(options.project), port=options.port, browser=not options.no_browser)
