"""``grsd workflow``: notebooks and their runs as jobs."""

from __future__ import annotations

import argparse

from grsd.commands.options import add_notebooks, add_project, need, path

HELP = "notebooks and their runs as jobs of Snakemake, here or on SLURM"


def add(parser: argparse.ArgumentParser) -> None:
    add_notebooks(parser, profile="default")
    parser.add_argument("--device", metavar="DEVICE", help="auto, cpu or cuda")
    parser.add_argument("--cores", type=int, default=1, metavar="N", help="jobs at a time on this machine; default 1")
    parser.add_argument(
        "--gpus", type=int, default=0, metavar="N", help="GPUs of this machine, one for each job on CUDA"
    )
    parser.add_argument(
        "--slurm", nargs="?", const="", metavar="DIR", help="send the jobs to SLURM; DIR: a profile of Snakemake"
    )
    parser.add_argument("-n", "--dry-run", action="store_true", help="only list the jobs that are due")
    parser.add_argument("--output", type=path, metavar="DIR", help="executed notebooks, tables and figures go here")
    add_project(parser)
    parser.add_argument(
        "--snakemake", action="append", default=[], metavar="ARGUMENT", help="for Snakemake; as --snakemake=--ARGUMENT"
    )


def run(options: argparse.Namespace) -> int:
    need("workflow", "papermill")
    from grsd.workflow import workflow

    return workflow(
        only=options.only,
        profile=options.profile,
        settings=options.set,
        device=options.device,
        cores=options.cores,
        gpus=options.gpus,
        slurm=options.slurm,
        dry=options.dry_run,
        output=options.output,
        where=options.project,
        more=options.snakemake,
    )
