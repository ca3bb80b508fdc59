"""``grsd claims``: the claims and their verdicts; measured, measured again, written to the README."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from grsd.commands.options import add_project
from grsd.support.folders import PROJECT, environment, one_line, project, writable, writable_file
from grsd.support.values import THREADS

if TYPE_CHECKING:
    from grsd.evidence import Measurement

HELP = "the claims, whose they are, and their verdicts"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--confirm", nargs="*", metavar="CLAIM", help="measure and store CLAIM, or all without a result; commit first"
    )
    parser.add_argument(
        "--forecast", action="store_true", help="write the missing forecasts; do this once, before --confirm"
    )
    parser.add_argument(
        "--check", nargs="*", metavar="CLAIM", help="measure one seed again of CLAIM, or of every stored result"
    )
    parser.add_argument("--notebook", metavar="NOTEBOOK", help="only the claims of this notebook, by number or name")
    parser.add_argument(
        "--readme", action="store_true", help="write the findings in the README from the stored results"
    )
    add_project(parser)


def run(options: argparse.Namespace) -> int:
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
