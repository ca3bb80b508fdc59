"""``grsd audit``: a network of the user's own."""

from __future__ import annotations

import argparse
import os
import re

from grsd.commands.options import path, seeds
from grsd.support.folders import writable

HELP = "a network of yours: lazy, a running clock or transport? writes a report and its numbers"
DESCRIPTION = """Say whether a training is lazy, a running clock or transport; whether
conditions hold; what the loss will do.

  grsd audit net:make --data digits --out report
  grsd audit net:make --data d.npz --loss cross-entropy --out report \\
      --checkpoints step*.pt"""


def add(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
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
    parser.add_argument("--seeds", type=seeds, metavar="SEEDS", help="default 0-7")
    parser.add_argument("--budget", type=float, default=2.0, metavar="MIN", help="minutes on one core; default 2")
    parser.add_argument("--samples", type=int, metavar="N", help="default: what the budget allows")
    parser.add_argument("--shell-width", type=float, default=0.7, metavar="H", help="in log eigenvalue; default 0.7")
    parser.add_argument("--no-conditions", action="store_true", help="leave the conditions out; faster")
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="audit.html and audit.json go here")


def run(options: argparse.Namespace) -> int:
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
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        if not str(error).startswith("audit("):
            raise
        raise ValueError(_typed(str(error), options.model)) from None
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "audit.json", found.to_json().encode())
    print(found)
    found.html(out / "audit.html")
    print(f"report: {os.path.relpath(out / 'audit.html')}, numbers: {os.path.relpath(out / 'audit.json')}")
    return 0


def _typed(refusal: str, model: str) -> str:
    """Turn a refusal of ``grsd.audit`` into one of what was typed."""
    refusal = re.sub(r"\bpass key='([^']*)'", r"pass --key \1", refusal)
    typed = {
        r"model=\.\.\.": model,
        r"inputs=\.\.\.": "--data: inputs",
        r"targets=\.\.\.": "--data: targets",
        r"inputs, targets": "--data",
        r"checkpoints=\.\.\., key=.*?": "--key",
        r"loss=[^)]*": "--loss",
    }
    for place, said in typed.items():
        found = re.match(rf"audit\({place}\)", refusal)
        if found:
            return said + refusal[found.end() :]
    return refusal
