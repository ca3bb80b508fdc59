"""The seconds that a committed file took to make, as far as the file or its notebook records them."""

from __future__ import annotations

import json
import math
from pathlib import Path, PurePosixPath

from grsd.support.folders import read
from grsd.support.values import real

TOOK = "grsd"  # in a notebook's metadata: {"seconds": of its last execution, "cpu_seconds": of its kernel}
HEAD = "# "


def seconds_of(path: str, root: Path) -> float | None:
    """Return the seconds to make the file ``path``, relative to ``root``; None if nothing readable records them.

    A result has them in its provenance, a table in its head, and a figure in the metadata of its notebook.
    """
    kind = PurePosixPath(path)
    try:
        if kind.parts[0] == "figures":
            notebook = json.loads(read(root / "notebooks" / f"{kind.stem.partition('-')[0]}.ipynb"))
            found = notebook["metadata"][TOOK]["seconds"]
        elif kind.suffix == ".json":
            found = json.loads(read(root / path))["provenance"]["seconds"]
        else:
            lines = read(root / path).splitlines()
            head = "\n".join(line.removeprefix(HEAD) for line in lines if line.startswith(HEAD))
            found = json.loads(head)["attributes"]["seconds"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return _seconds(found)


def cpu_seconds_of(notebook: Path) -> float | None:
    """Return the CPU seconds of a notebook's last execution, its wall seconds if it records no others, or None."""
    try:
        took = json.loads(read(notebook))["metadata"][TOOK]
        return _seconds(took.get("cpu_seconds", took["seconds"]))
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _seconds(found: object) -> float | None:
    seconds = real(found)
    return seconds if 0 <= seconds < math.inf else None
