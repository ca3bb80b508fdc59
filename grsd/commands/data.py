"""``grsd data``: the files of data/ and figures/ and what makes them; data sets that are fetched."""

from __future__ import annotations

import argparse

from grsd.commands.options import add_project, path
from grsd.support.folders import PROJECT, environment, one_line, project

HELP = "list the files in data/ and figures/ and what makes them; make one again; fetch a data set"
FETCH = "fetch"  # no file under data/ or figures/ has this name


def add(parser: argparse.ArgumentParser) -> None:
    parser.usage = "grsd data [-h] [--show] [--project DIR] [FILE]\n       grsd data fetch [SET] [--from FOLDER]"
    parser.epilog = "Nothing is downloaded unasked. Example: grsd data fetch cifar10, then grsd run --data cifar10"
    parser.add_argument("name", nargs="?", metavar="FILE", help="path or name of a file to make again; or: fetch")
    parser.add_argument(
        "set", nargs="?", metavar="SET", help="after fetch: data set to download; none: list what can be fetched"
    )
    parser.add_argument("--from", dest="source", type=path, metavar="FOLDER", help="take SET's files, do not download")
    parser.add_argument("--show", action="store_true", help="only print the command or function that makes FILE")
    add_project(parser)


def run(options: argparse.Namespace) -> int:
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
        found = named(options.name, root, entries)
        entry = entry_of(found, entries)
        if options.show:
            print(entry.shown(found))
        elif entry.otherwise is not None:
            raise ValueError(f"{found}: no command makes it: {entry.otherwise}")
        else:
            return make(found, entry, root, options.command_line)
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
