"""The seconds that a committed file took to make, as far as the file or its notebook records them."""

from __future__ import annotations

import json
import math
from pathlib import Path, PurePosixPath

from grsd.support.folders import read
from grsd.support.values import real

TOOK = "grsd"  # in a notebook's metadata: {"seconds": of its last execution}
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
    seconds = real(found)
    return seconds if 0 <= seconds < math.inf else None
