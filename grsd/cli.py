"""The ``grsd`` command."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import torch

from grsd.confirm import confirm_claims, forecast_claims
from grsd.evidence import claims, results, verdict_lines, write_headlines
from grsd.files import say_swept, write_atomically
from grsd.progress import bar
from grsd.project import PROJECT, ProjectNotFound, project
from grsd.runs import CHOICES, Spec, clean, collected, cores, members, parse, runs_folder, summary

MOST_SEEDS = 100_000


class _Parser(argparse.ArgumentParser):
    """Refuses in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="grsd", description="Companion to 'When Does Learning Renormalize?' (arXiv 2512.18209).")
    parser.add_argument("--version", action="version", version=f"grsd {version('grsd')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    notebooks = commands.add_parser("reproduce", help="run the notebooks headless and write their figures")
    notebooks.add_argument(
        "--only", action="append", default=[], metavar="NOTEBOOK", help="number or name; may be repeated"
    )
    notebooks.add_argument("--profile", default="default", help="test, default or full")
    notebooks.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a parameter")
    notebooks.add_argument("--device", metavar="DEVICE", help="auto, cpu or cuda")
    notebooks.add_argument("--output", type=Path, metavar="DIR", help="executed copies and figures go here")
    notebooks.add_argument("--project", type=Path, metavar="DIR", help="the companion's repository")
    notebooks.add_argument("--refresh", action="store_true", help="also write the outputs back into notebooks/")
    table = commands.add_parser("claims", help="the claims, whose they are, and their verdicts")
    table.add_argument(
        "--confirm", nargs="*", metavar="CLAIM", help="measure and store what has no result yet, or CLAIM"
    )
    table.add_argument(
        "--forecast", action="store_true", help="write the forecasts to be judged; before --confirm, and only once"
    )
    table.add_argument("--readme", action="store_true", help="write the README's table of verdicts")
    table.add_argument("--project", type=Path, metavar="DIR", help="the companion's repository")
    timings = commands.add_parser("bench", help="time and memory beside peers; data/benchmarks/DEVICE.csv")
    timings.add_argument("--large", action="store_true", help="ResNet-18, and shells without the kernel")
    timings.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="default cpu")
    timings.add_argument("--threads", type=int, metavar="N", help="default 1, with --large all cores")
    timings.add_argument("--folder", type=Path, metavar="DIR", help="table and figure go here")
    timings.add_argument(
        "--neural-tangents",
        nargs="?",
        const="",
        metavar="PYTHON",
        help="its rows too: with the Python of an environment that has it, or in one made for it by pip",
    )
    leftovers = commands.add_parser("clean", help="remove what killed and superseded runs left behind; results stay")
    leftovers.add_argument("--folder", type=Path, metavar="DIR", help="results; default: $GRSD_RUNS, else data/runs")
    leftovers.add_argument("--unfinished", action="store_true", help="also what interrupted runs would go on from")
    _add_run(
        commands.add_parser("run", help="train one network, or one a seed, and keep its shells", allow_abbrev=False)
    )
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    """One option for each field of ``Spec``, and where and how to run."""
    for field in fields(Spec):
        default = field.default
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default).lower()
        choices = f"{', '.join(CHOICES[field.name])}; " if field.name in CHOICES else ""
        parser.add_argument(
            _option(field.name),
            type=_typed(field.name),
            default=argparse.SUPPRESS,
            metavar=field.name.upper(),
            help=f"{choices}default {shown}",
        )
    parser.add_argument("--seeds", type=_seeds, metavar="SEEDS", help="several, instead of --seed: 0-7 or 0,3,5-6")
    parser.add_argument("--workers", type=int, metavar="N", help="processes; default: the cores")
    parser.add_argument("--threads", type=int, metavar="N", help="of each run; default 1")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="results; default: $GRSD_RUNS, else data/runs")
    parser.add_argument("--table", type=Path, metavar="FILE.csv", help="write a summary, one row a run")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _typed(name: str) -> Callable[[str], object]:
    def convert(text: str) -> object:
        try:
            return parse(name, text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _seeds(text: str) -> list[int]:
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", part)
        span = range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(0)
        if not 0 < len(seeds) + len(span) <= MOST_SEEDS or not span:
            raise argparse.ArgumentTypeError(f"expected up to {MOST_SEEDS} seeds such as 0-7 or 0,3,5-6, got {text!r}")
        seeds += span
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"a seed stands twice in {text!r}")
    return seeds


def _reproduce(options: argparse.Namespace) -> int:
    from grsd.reproduce import reproduce  # papermill takes longer to import than some runs to compute

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
    say_swept(project(), *(project() / "data" / name for name in ("results", "predictions")))
    if options.forecast:
        forecast_claims()
    if options.confirm is not None:
        confirm_claims(options.confirm)
    if options.readme:
        write_headlines(project() / "README.md", claims(), results())
    print("\n".join(verdict_lines(claims(), results())))
    return 0


def _bench(options: argparse.Namespace) -> int:
    from grsd.bench import bench

    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: there is no CUDA device here")
    threads = options.threads or (cores() if options.large else 1)
    peers = options.neural_tangents
    print(
        bench(large=options.large, device=options.device, threads=threads, folder=options.folder, neural_tangents=peers)
    )
    return 0


def _run(options: argparse.Namespace) -> int:
    """Each run is said in one line when it is there; failed ones at the end, on stderr, with what they were."""
    specs, folder = _specs(options), runs_folder(options.folder)
    done = {}
    if options.table is not None:
        say_swept(options.table.parent)
    try:
        with closing(members(specs, workers=options.workers, threads=options.threads, folder=folder)) as arriving:
            shown = bar(arriving, total=len(specs), desc="grsd run", unit="run")
            for index, member in shown:
                done[index] = member
                if member.failure:
                    continue
                took = "already there" if member.seconds is None else f"{member.seconds:.1f} s"
                where = "not kept" if member.path is None else os.path.relpath(member.path)
                shown.write(f"seed {member.spec.seed}: {where}, {took}")
                sys.stdout.flush()
        if options.table is not None:
            _write_table(options.table, summary(specs, collected(specs, done, threads=options.threads, folder=folder)))
    except KeyboardInterrupt:
        print("grsd run: interrupted; what was finished is kept, the same command goes on", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"grsd run: {error}", file=sys.stderr)
        return 1
    failures = [done[index] for index in sorted(done) if done[index].failure]
    for member in failures:
        print(f"grsd run: {member.spec}: {member.failure}", file=sys.stderr)
    return int(any(member.failure or member.path is None for member in done.values()))


def _write_table(path: Path, table: str) -> None:
    """Where it cannot be written it is printed: on a full disk it may be all there is of a run."""
    try:
        write_atomically(path, table.encode())
    except OSError:
        print(table, end="", flush=True)
        raise


def _clean(options: argparse.Namespace) -> int:
    print("\n".join(clean(options.folder, unfinished=options.unfinished)) or "grsd clean: nothing to remove")
    return 0


def _specs(options: argparse.Namespace) -> list[Spec]:
    given = {field.name: getattr(options, field.name) for field in fields(Spec) if hasattr(options, field.name)}
    try:
        spec = Spec(**given)
    except ValueError as error:
        raise ValueError(re.sub(r"^Spec\((\w+)=\.\.\.\)", lambda match: _option(match[1]), str(error))) from None
    if options.seeds is not None and "seed" in given:
        raise ValueError("--seed or --seeds, not both")
    for name, value in {"--workers": options.workers, "--threads": options.threads}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected a whole number of at least 1, got {value}")
    if options.table is not None and not options.table.resolve().parent.is_dir():
        raise ValueError(f"--table: there is no folder {options.table.resolve().parent}")
    return spec.with_seeds(options.seeds or [spec.seed])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 done, 1 something failed, 2 refused before anything ran, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        return {"reproduce": _reproduce, "run": _run, "claims": _claims, "bench": _bench, "clean": _clean}[
            options.command
        ](options)
    except (ValueError, FileExistsError, ProjectNotFound) as error:
        print(f"grsd {options.command}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"grsd {options.command}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
