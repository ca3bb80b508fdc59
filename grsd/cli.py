"""The ``grsd`` command."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import fields
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

from grsd.datasets.registry import DataNotFound
from grsd.runs.spec import Spec, choices, data_of_tasks, parse
from grsd.support.folders import PROJECT, ProjectNotFound, environment, one_line, project, writable, writable_file
from grsd.support.values import EACH_THREAD, MOST_THREADS, THREADS, between, cores

if TYPE_CHECKING:
    from grsd.evidence import Measurement

# Modules that need torch, or seconds to import, are imported in the functions that use them: help stays fast.

FETCH = "fetch"  # no file under data/ or figures/ has this name
MOST_SAID = 2000  # characters of a line
MOST_SEEDS = 100_000
MOST_WORKERS, EACH_WORKER = 1000, "each is a process that takes a third of a GiB"


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


AUDIT = """Say whether a training is lazy, a running clock or transport; whether
conditions hold; what the loss will do.

  grsd audit net:make --data digits --out report
  grsd audit net:make --data d.npz --loss cross-entropy --out report \\
      --checkpoints step*.pt"""


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
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    notebooks = commands.add_parser("reproduce", help="run the notebooks headless and write their figures")
    notebooks.add_argument(
        "--only", action="append", default=[], metavar="NOTEBOOK", help="number or name; may be repeated"
    )
    notebooks.add_argument("--profile", default="default", help="test (small), default or full (large)")
    notebooks.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change a parameter of the second code cell"
    )
    notebooks.add_argument("--device", metavar="DEVICE", help="auto, cpu or cuda")
    notebooks.add_argument("--output", type=_path, metavar="DIR", help="executed copies and figures go here")
    notebooks.add_argument("--project", type=_path, metavar="DIR", help="the companion's repository")
    notebooks.add_argument("--refresh", action="store_true", help="also write the outputs back into notebooks/")
    _add_workflow(
        commands.add_parser("workflow", help="notebooks and their runs as jobs of Snakemake, here or on SLURM")
    )
    _add_scale(commands.add_parser("scale", help="what the runs of notebooks would cost, before they start"))
    table = commands.add_parser("claims", help="the claims, whose they are, and their verdicts")
    table.add_argument(
        "--confirm", nargs="*", metavar="CLAIM", help="measure and store CLAIM, or all without a result; commit first"
    )
    table.add_argument(
        "--forecast", action="store_true", help="write the missing forecasts; do this once, before --confirm"
    )
    table.add_argument(
        "--check", nargs="*", metavar="CLAIM", help="measure one seed again of CLAIM, or of every stored result"
    )
    table.add_argument("--notebook", metavar="NOTEBOOK", help="only the claims of this notebook, by number or name")
    table.add_argument("--readme", action="store_true", help="write the findings in the README from the stored results")
    table.add_argument("--project", type=_path, metavar="DIR", help="the companion's repository")
    files = commands.add_parser(
        "data",
        help="list the files in data/ and figures/ and what makes them; make one again; fetch a data set",
        usage="grsd data [-h] [--show] [--project DIR] [FILE]\n       grsd data fetch [SET] [--from FOLDER]",
        epilog="Nothing is downloaded unasked. Example: grsd data fetch cifar10, then grsd run --data cifar10",
    )
    files.add_argument("name", nargs="?", metavar="FILE", help="path or name of a file to make again; or: fetch")
    files.add_argument(
        "set", nargs="?", metavar="SET", help="after fetch: data set to download; none: list what can be fetched"
    )
    files.add_argument("--from", dest="source", type=_path, metavar="FOLDER", help="take SET's files, do not download")
    files.add_argument("--show", action="store_true", help="only print the command or function that makes FILE")
    files.add_argument("--project", type=_path, metavar="DIR", help="the companion's repository")
    timings = commands.add_parser("bench", help="compare time and memory with peers; writes data/benchmarks/DEVICE.csv")
    timings.add_argument("--large", action="store_true", help="time ResNet-18, and shells without the kernel")
    timings.add_argument(
        "--zoo", action="store_true", help="compare every family of networks with a plain Jacobian, on the CPU"
    )
    timings.add_argument(
        "--monitor", action="store_true", help="compare the records of a training with the training, on the CPU"
    )
    timings.add_argument(
        "--gpt2", action="store_true", help="time Krylov shells of a language model of GPT-2 small's shape, on the CPU"
    )
    timings.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="default cpu")
    timings.add_argument("--threads", type=int, metavar="N", help="default 1, with --large all cores")
    timings.add_argument("--folder", type=_path, metavar="DIR", help="table and figure go here")
    timings.add_argument(
        "--neural-tangents",
        nargs="?",
        const="",
        metavar="PYTHON",
        help="also time neural-tangents, with PYTHON from its environment, or in an environment that pip makes for it",
    )
    _add_audit(
        commands.add_parser(
            "audit",
            help="a network of yours: lazy, a running clock or transport? writes a report and its numbers",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            description=AUDIT,
        )
    )
    lab = commands.add_parser("lab", help="JupyterLab on copies of the notebooks, in build/lab; on this machine only")
    lab.add_argument("--port", type=int, metavar="N", help="default: the first free one from 8888 on")
    lab.add_argument("--no-browser", action="store_true", help="only print the address")
    lab.add_argument("--project", type=_path, metavar="DIR", help="the companion's repository")
    leftovers = commands.add_parser("clean", help="remove leftovers of killed and outdated runs; results stay")
    leftovers.add_argument("--folder", type=_path, metavar="DIR", help="results; default: $GRSD_RUNS, else data/runs")
    leftovers.add_argument("--unfinished", action="store_true", help="also remove checkpoints of interrupted runs")
    _add_run(commands.add_parser("run", help="train one network per seed and store its shells", allow_abbrev=False))
    return parser


def _add_audit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODULE:FACTORY", help="a function, or class, that makes the network")
    parser.add_argument(
        "--data",
        required=True,
        metavar="DATA",
        help=".npz or .safetensors with inputs and targets, or a data set's name",
    )
    parser.add_argument(
        "--checkpoints", nargs="+", metavar="FILE", help="states of a finished training, in order; else gradient flow"
    )
    parser.add_argument("--key", metavar="KEY", help="under which a checkpoint holds its state dict")
    parser.add_argument("--loss", default="mse", choices=("mse", "cross-entropy"), help="default mse")
    parser.add_argument("--seeds", type=_seeds, metavar="SEEDS", help="default 0-7")
    parser.add_argument("--budget", type=float, default=2.0, metavar="MIN", help="minutes on one core; default 2")
    parser.add_argument("--samples", type=int, metavar="N", help="default: what the budget allows")
    parser.add_argument("--shell-width", type=float, default=0.7, metavar="H", help="in log eigenvalue; default 0.7")
    parser.add_argument("--no-conditions", action="store_true", help="leave the conditions out; faster")
    parser.add_argument("--out", type=_path, required=True, metavar="DIR", help="audit.html and audit.json go here")


def _add_workflow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only", action="append", default=[], metavar="NOTEBOOK", help="number or name; may be repeated"
    )
    parser.add_argument("--profile", default="default", help="test (small), default or full (large)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a parameter")
    parser.add_argument("--device", metavar="DEVICE", help="auto, cpu or cuda")
    parser.add_argument("--cores", type=int, default=1, metavar="N", help="jobs at a time on this machine; default 1")
    parser.add_argument(
        "--gpus", type=int, default=0, metavar="N", help="GPUs of this machine, one for each job on CUDA"
    )
    parser.add_argument(
        "--slurm", nargs="?", const="", metavar="DIR", help="send the jobs to SLURM; DIR: a profile of Snakemake"
    )
    parser.add_argument("-n", "--dry-run", action="store_true", help="only list the jobs that are due")
    parser.add_argument("--output", type=_path, metavar="DIR", help="executed notebooks, tables and figures go here")
    parser.add_argument("--project", type=_path, metavar="DIR", help="the companion's repository")
    parser.add_argument(
        "--snakemake", action="append", default=[], metavar="ARGUMENT", help="for Snakemake; as --snakemake=--ARGUMENT"
    )


def _add_scale(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only", action="append", default=[], metavar="NOTEBOOK", help="number or name; may be repeated"
    )
    parser.add_argument("--profile", default="full", help="test (small), default or full (large); default full")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a parameter")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time; default 1")
    parser.add_argument("--gpu", metavar="NAME", help="predict for this GPU, such as H100, unmeasured")
    parser.add_argument("--project", type=_path, metavar="DIR", help="the companion's repository")


def _add_run(parser: argparse.ArgumentParser) -> None:
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
            _option(field.name),
            type=_typed(field.name),
            default=argparse.SUPPRESS,
            metavar=field.name.upper(),
            help=f"{MEANINGS.get(field.name, '')}{allowed}default {shown}",
        )
    parser.add_argument("--seeds", type=_seeds, metavar="SEEDS", help="several seeds, not --seed: 0-7 or 0,3,5-6")
    parser.add_argument("--workers", type=int, metavar="N", help="processes; default: one per core")
    parser.add_argument("--threads", type=int, metavar="N", help="threads per run; default 1")
    parser.add_argument("--folder", type=_path, metavar="DIR", help="results; default: $GRSD_RUNS, else data/runs")
    parser.add_argument("--table", type=_path, metavar="FILE.csv", help="write a summary: settings and end of each run")


def _path(text: str) -> Path:
    """Return a path; an empty one, as of a shell's unset variable, would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got ''")
    return Path(text)


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
            raise argparse.ArgumentTypeError(
                f"expected up to {MOST_SEEDS} seeds (each is a run and a file) such as 0-7 or 0,3,5-6, got "
                f"{one_line(repr(text), 80)}"
            )
        seeds += span
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"a seed stands twice in {one_line(repr(text), 80)}")
    return seeds


def _reproduce(options: argparse.Namespace) -> int:
    _need("reproduce", "papermill")
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


def _workflow(options: argparse.Namespace) -> int:
    _need("workflow", "papermill")
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


def _scale(options: argparse.Namespace) -> int:
    from grsd.plan import plan
    from grsd.workflow import gpu_named, needed, predicted, report

    gpu = None if options.gpu is None else gpu_named(options.gpu)
    between("--jobs", options.jobs, 1, MOST_WORKERS, EACH_WORKER)
    requested = plan(project(options.project), only=options.only, profile=options.profile, settings=options.set)
    specs = list(dict.fromkeys(spec for run in requested for spec in needed(run)))
    if not specs:
        raise ValueError("--only: these notebooks list no runs before they run; 06, 07 and 08 do")
    print(report(predicted(specs, gpu), options.jobs, gpu))
    return 0


def _need(command: str, module: str) -> None:
    """Refuse a command whose packages are not installed."""
    if find_spec(module) is None:
        raise ValueError(_missing(command, module))


def _missing(command: str, module: str) -> str:
    return f"{module} is not installed; grsd {command} needs it: pip install 'grsd[notebooks]'"


def _claims(options: argparse.Namespace) -> int:
    from grsd.evidence import claims, of_notebook, results, terminal_lines, write_findings
    from grsd.support.files import say_swept

    root = project(options.project)
    with environment({PROJECT: str(root), THREADS: os.environ.get(THREADS, "1")}):
        known, readme = claims(), root / "README.md"
        chosen = known if options.notebook is None else of_notebook(known, options.notebook)
        for option in ("confirm", "check"):
            for name in getattr(options, option) or ():
                if name not in chosen or chosen[name].rule is None:
                    where = "" if options.notebook is None else f" in notebook {one_line(options.notebook, 80)}"
                    shown = one_line(repr(name), 80)
                    raise ValueError(f"--{option}: no claim {shown} with a rule{where}; grsd claims lists them")
        if options.forecast:
            writable("--forecast", root / "data" / "predictions")
        if options.confirm is not None:
            writable("--confirm", root / "data" / "results")
        if options.readme:
            writable_file("--readme", readme)
        say_swept(root, root / "data" / "results", root / "data" / "predictions")
        if options.forecast or options.confirm is not None:
            from grsd.studies.confirm import confirm_claims, forecast_claims

            if options.forecast:
                forecast_claims()
            if options.confirm is not None:
                confirm_claims(list(dict.fromkeys(options.confirm)), among=chosen)
                chosen = {name: chosen[name] for name in options.confirm or chosen}
        judged = results(measurements=_measurements() if options.readme else None)
        if options.readme:
            write_findings(readme, known, judged)
        if options.check is not None:
            return _check(list(dict.fromkeys(options.check)) or [name for name in chosen if name in judged])
        print("\n".join(terminal_lines(chosen, judged)))
    return 0


def _measurements() -> Mapping[str, Measurement]:
    from grsd.studies.confirm import MEASUREMENTS

    return MEASUREMENTS


def _check(names: Sequence[str]) -> int:
    """Measure one seed of each claim again; return 1 if a value differs from the stored one, else 0."""
    from grsd.evidence import wrapped
    from grsd.studies.confirm import check_claims

    differ = 0
    for checked in check_claims(names):
        differ += not checked.agrees
        print("\n".join(wrapped(str(checked))), flush=True)
    print(f"{len(names)} checked: {len(names) - differ} agree, {differ} differ")
    return int(differ > 0)


def _data(options: argparse.Namespace) -> int:
    if options.name == FETCH:
        return _fetch(options)
    for option, value in {"SET": options.set, "--from": options.source}.items():
        if value is not None:
            raise ValueError(f"{option}: {one_line(value, 80)}: only after fetch, as in: grsd data fetch cifar10")
    from grsd.evidence.manifest import entry_of, listing, make, manifest, named

    if options.show and options.name is None:
        raise ValueError("--show: expected a file's name after it; grsd data lists them")
    root = project(options.project)
    with environment({PROJECT: str(root)}):
        entries = manifest()
        if options.name is None:
            print("\n".join(listing(root, entries)))
            return 0
        path = named(options.name, root, entries)
        entry = entry_of(path, entries)
        if options.show:
            print(entry.shown(path))
        elif entry.otherwise is not None:
            raise ValueError(f"{path}: no command makes it: {entry.otherwise}")
        else:
            return make(path, entry, root, main)
    return 0


def _fetch(options: argparse.Namespace) -> int:
    """Fetch a data set, or list those that can be fetched."""
    if options.show or options.project is not None:
        raise ValueError(f"{'--show' if options.show else '--project'}: not with fetch")
    from grsd.datasets.download import fetch, listing

    if options.set is None:
        if options.source is not None:
            raise ValueError("--from: expected a data set's name after fetch; grsd data fetch lists them")
        print("\n".join(listing()))
    else:
        print(f"{options.set}: in {one_line(fetch(options.set, options.source))}")
    return 0


def _bench(options: argparse.Namespace) -> int:
    from grsd.bench import bench, bench_gpt2, bench_monitor, bench_zoo

    kinds = {"zoo": bench_zoo, "gpt2": bench_gpt2, "monitor": bench_monitor}
    for kind, measure in kinds.items():
        if not getattr(options, kind):
            continue
        for option in ("large", "threads", "neural_tangents", *kinds):
            if option != kind and getattr(options, option) not in (False, None):
                raise ValueError(f"{_option(option)}: not with --{kind}, which runs on one thread beside torch alone")
        if options.device != "cpu":
            raise ValueError(f"--device {options.device}: not with --{kind}, which runs on the CPU")
        print(measure(folder=options.folder))
        return 0
    threads = (cores() if options.large else 1) if options.threads is None else options.threads
    peers = options.neural_tangents
    print(
        bench(large=options.large, device=options.device, threads=threads, folder=options.folder, neural_tangents=peers)
    )
    return 0


def _audit(options: argparse.Namespace) -> int:
    """Write audit.html and audit.json and print the summary; interrupted, the same command goes on."""
    out = writable("--out", options.out)
    from grsd.auditing import audit
    from grsd.auditing.sources import data_named, factory_named
    from grsd.support.files import write_atomically

    model = factory_named(options.model)
    inputs, targets = data_named(options.data)
    names = ("checkpoints", "key", "loss", "budget", "samples", "shell_width")
    asked = {name: getattr(options, name) for name in names} | {"seeds": options.seeds or 8}
    try:
        found = audit(
            model, inputs, targets, conditions=not options.no_conditions, folder=out, name=options.model, **asked
        )
    except (TypeError, ValueError, RuntimeError) as error:
        if not str(error).startswith("audit("):
            raise
        said = re.sub(r"^audit\(model=\.\.\.", options.model, str(error)).replace(
            f"{options.model}): ", f"{options.model}: "
        )
        raise ValueError(re.sub(r"^audit\((inputs|targets)=\.\.\.\)", r"--data: \1", said)) from None
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "audit.json", found.to_json().encode())
    print(found)
    found.html(out / "audit.html")
    print(f"report: {os.path.relpath(out / 'audit.html')}, numbers: {os.path.relpath(out / 'audit.json')}")
    return 0


def _lab(options: argparse.Namespace) -> int:
    _need("lab", "jupyterlab")
    from grsd.lab import lab

    return lab(project(options.project), port=options.port, browser=not options.no_browser)


def _run(options: argparse.Namespace) -> int:
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
                done[index] = member
                if member.failure:
                    continue
                took = "already there" if member.seconds is None else f"{member.seconds:.1f} s"
                where = "not kept" if member.path is None else os.path.relpath(member.path)
                shown.write(f"seed {member.spec.seed}: {where}, {took}")
                sys.stdout.flush()
        for member in (done[index] for index in sorted(done) if done[index].failure):
            print(f"grsd run: {member.spec}: {one_line(member.failure, MOST_SAID)}", file=sys.stderr)
        if options.table is not None:
            _write_table(options.table, summary(specs, collected(specs, done, threads=options.threads, folder=folder)))
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


def _clean(options: argparse.Namespace) -> int:
    from grsd.runs import clean

    print("\n".join(clean(options.folder, unfinished=options.unfinished)) or "grsd clean: nothing to remove")
    return 0


def _specs(options: argparse.Namespace) -> list[Spec]:
    given = {field.name: getattr(options, field.name) for field in fields(Spec) if hasattr(options, field.name)}
    try:
        spec = Spec(**given)
    except ValueError as error:
        raise ValueError(_as_typed(str(error))) from None
    if options.seeds is not None and "seed" in given:
        raise ValueError("--seed or --seeds, not both")
    bounds = {"workers": (MOST_WORKERS, EACH_WORKER), "threads": (MOST_THREADS, EACH_THREAD)}
    for name, (most, why) in bounds.items():
        if (value := getattr(options, name)) is not None:
            between(_option(name), value, 1, most, why)
    if options.table is not None:
        writable_file("--table", options.table)
    return spec.with_seeds(options.seeds or [spec.seed])


def _as_typed(message: str) -> str:
    """Turn the refusal of a Python call into one of the command's option: ``Spec(width=...): `` into ``--width: ``."""
    return re.sub(r"^[\w-]+\((\w+)=\.\.\.\)", lambda match: _option(match[1]), message)


def _refuse_cuda_where_there_is_none() -> None:
    import torch

    if not torch.cuda.is_available():
        raise ValueError("--device cuda: there is no CUDA device here")


COMMANDS = {
    "reproduce": _reproduce,
    "workflow": _workflow,
    "scale": _scale,
    "run": _run,
    "claims": _claims,
    "data": _data,
    "bench": _bench,
    "audit": _audit,
    "lab": _lab,
    "clean": _clean,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return 0 if it succeeded, 1 if something failed, 2 if refused, 130 if interrupted."""
    command = ""
    try:
        options = _parser().parse_args(arguments)
        command = options.command
        code = COMMANDS[command](options)
        sys.stdout.flush()
        return code
    except (ValueError, FileExistsError, ProjectNotFound, DataNotFound) as error:
        return _stopped(command, _as_typed(str(error)), 2)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module in ("", "grsd"):
            raise
        return _stopped(command, _missing(command, module), 2)
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
