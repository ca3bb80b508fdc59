"""``grsd run``: one network per seed, its shells stored."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path

from grsd.commands.options import EACH_WORKER, MOST_SAID, MOST_WORKERS, as_typed, option, path, seeds
from grsd.runs.spec import Spec, choices, data_of_tasks, parse
from grsd.support.folders import one_line, writable, writable_file
from grsd.support.values import EACH_THREAD, MOST_THREADS, between

HELP = "train one network per seed and store its shells"
MEANINGS = {
    "width": "units of a hidden layer; ",
    "depth": "number of hidden layers; ",
    "samples": "number of samples; ",
    "times": "FIRST,LAST,COUNT: equally spaced in log time, in units of 1 / the largest eigenvalue at the start; ",
    "tolerance": "local relative error of the integrator; ",
    "shell_widths": "one or more widths, in natural log of the eigenvalue; ",
    "smoothing": "smoothing of the shells' edges, in the same units; none: a fifth of the finest width; ",
    "weight_scale": "factor of the hidden layers' initial weights; ",
    "branch_scale": "factor of residual branches; none: the architecture's own; ",
    "data_seed": "seed that chooses the samples; ",
    "seed": "seed of the initial weights; ",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add one option for each field of ``Spec``, and the options of where and how to run."""
    known = choices()
    for field in fields(Spec):
        default = field.default
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default).lower()
        allowed = f"{', '.join(known[field.name])}; " if field.name in known else ""
        if field.name == "task":
            sets = data_of_tasks().items()
            allowed = "".join(f"of {', '.join(names)}: {', '.join(tasks)}; " for tasks, names in sets)
        parser.add_argument(
            option(field.name),
            type=_typed(field.name),
            default=argparse.SUPPRESS,
            metavar=field.name.upper(),
            help=f"{MEANINGS.get(field.name, '')}{allowed}default {shown}",
        )
    parser.add_argument("--seeds", type=seeds, metavar="SEEDS", help="several seeds, not --seed: 0-7 or 0,3,5-6")
    parser.add_argument("--workers", type=int, metavar="N", help="processes; default: one per core")
    parser.add_argument("--threads", type=int, metavar="N", help="threads per run; default 1")
    parser.add_argument("--folder", type=path, metavar="DIR", help="results; default: $GRSD_RUNS, else data/runs")
    parser.add_argument("--table", type=path, metavar="FILE.csv", help="write a summary: settings and end of each run")


def _typed(name: str) -> Callable[[str], object]:
    def convert(text: str) -> object:
        try:
            return parse(name, text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def run(options: argparse.Namespace) -> int:
    """Report each finished run in one line; report failed runs at the end, on stderr, with their spec."""
    specs = _specs(options)
    from grsd.runs.store import runs_folder

    folder = writable("--folder" if options.folder else "results", runs_folder(options.folder))
    if specs[0].device == "cuda":
        _refuse_cuda_where_there_is_none()
    from grsd.runs import collected, members, summary
    from grsd.support.files import say_swept
    from grsd.support.progress import bar

    done = {}
    if options.table is not None:
        say_swept(options.table.parent)
    try:
        with closing(members(specs, workers=options.workers, threads=options.threads, folder=folder)) as arriving:
            shown = bar(arriving, total=len(specs), desc="grsd run", unit="run")
            for index, member in shown:
                done[index] = replace(member, result=None) if options.table is None else member
                if member.failure:
                    continue
                took = "already there" if member.seconds is None else f"{member.seconds:.1f} s"
                where = "not kept" if member.path is None else os.path.relpath(member.path)
                shown.write(f"seed {member.spec.seed}: {where}, {took}")
                sys.stdout.flush()
        for member in (done[index] for index in sorted(done) if done[index].failure):
            print(f"grsd run: {member.spec}: {one_line(member.failure, MOST_SAID)}", file=sys.stderr)
        if options.table is not None:
            _write_table(options.table, summary(specs, collected(specs, done)))
    except KeyboardInterrupt:
        print("grsd run: interrupted; finished runs are kept, and the same command resumes", file=sys.stderr)
        return 130
    return int(any(member.failure or member.path is None for member in done.values()))


def _write_table(path: Path, table: str) -> None:
    """Write the table, or print it if it cannot be written: on a full disk no other result may be left."""
    from grsd.support.files import write_atomically

    try:
        write_atomically(path, table.encode())
    except OSError:
        print(table, end="", flush=True)
        raise


def _specs(options: argparse.Namespace) -> list[Spec]:
    given = {field.name: getattr(options, field.name) for field in fields(Spec) if hasattr(options, field.name)}
    try:
        spec = Spec(**given)
    except ValueError as error:
        raise ValueError(as_typed(str(error))) from None
    if options.seeds is not None and "seed" in given:
        raise ValueError("--seed or --seeds, not both")
    bounds = {"workers": (MOST_WORKERS, EACH_WORKER), "threads": (MOST_THREADS, EACH_THREAD)}
    for name, (most, why) in bounds.items():
        if (value := getattr(options, name)) is not None:
            between(option(name), value, 1, most, why)
    if options.table is not None:
        writable_file("--table", options.table)
    return spec.with_seeds(options.seeds or [spec.seed])


def _refuse_cuda_where_there_is_none() -> None:
    import torch

    if not torch.cuda.is_available():
        raise ValueError("--device cuda: there is no CUDA device here")
