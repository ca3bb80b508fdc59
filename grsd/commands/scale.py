"""``grsd scale``: what a study would cost."""

from __future__ import annotations

import argparse

from grsd.commands.options import EACH_WORKER, MOST_WORKERS, add_notebooks, add_project
from grsd.support.folders import project
from grsd.support.values import between, choice

HELP = "what the runs of notebooks would cost, before they start"


def add(parser: argparse.ArgumentParser) -> None:
    add_notebooks(parser, profile="full")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time; default 1")
    parser.add_argument("--gpu", metavar="NAME", help="predict for this GPU, such as H100, unmeasured")
    add_project(parser)


def run(options: argparse.Namespace) -> int:
    from grsd.plan import plan
    from grsd.workflow import GPUS, gpu_named, needed, predicted, report

    gpu = None if options.gpu is None else gpu_named(choice("scale", "gpu", options.gpu, tuple(GPUS)))
    between("--jobs", options.jobs, 1, MOST_WORKERS, EACH_WORKER)
    requested = plan(project(options.project), only=options.only, profile=options.profile, settings=options.set)
    specs = list(dict.fromkeys(spec for run in requested for spec in needed(run)))
    if not specs:
        raise ValueError("--only: these notebooks list no runs before they run; 06, 07 and 08 do")
    print(report(predicted(specs, gpu), options.jobs, gpu))
    return 0
