"""Marker files: small, written at once, and removed when what they name is not there or has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from grsd.support.files import write_atomically


def mark(path: Path, content: str | None) -> None:
    """Write a marker, or remove it if ``content`` is ``None``; one that says the same already is left as it is."""
    if content is None:
        path.unlink(missing_ok=True)
    elif not path.is_file() or path.read_text() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.encode())


def hashes(folder: Path, files: Sequence[Path]) -> str:
    """Return JSON: the sha256 of each file by its path in ``folder``."""
    found = {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return json.dumps(found, indent=1, sort_keys=True)


def intact(marker: Path, folder: Path) -> bool:
    """Return whether every file that a marker of ``hashes`` names is there with these bytes."""
    try:
        text = marker.read_text()
        return hashes(folder, [folder / name for name in json.loads(text)]) == text
    except (OSError, ValueError):
        return False
