"""Which code computes: a run made by other code is never reused in silence."""

from __future__ import annotations

import ast
import hashlib
from importlib.metadata import version
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
LIBRARIES = ("torch", "numpy", "xarray", "scikit-learn")


def sources(start: str, package: Path = PACKAGE) -> list[Path]:
    """The package's files that module ``start`` (as in "runs.compute") imports, directly or not, itself included."""
    found: set[Path] = set()
    waiting = [package.joinpath(*start.split(".")).with_suffix(".py")]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("grsd."):
                base = package.joinpath(*node.module.split(".")[1:])
                waiting.append(base / "__init__.py" if base.is_dir() else base.with_suffix(".py"))
    return sorted(found)


def fingerprint(files: list[Path], package: Path = PACKAGE) -> str:
    """sha256 over names and bytes of ``files`` and the versions of the libraries that compute."""
    digest = hashlib.sha256()
    for name in LIBRARIES:
        digest.update(f"{name} {version(name)}\n".encode())
    for path in files:
        source = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()} {len(source)}\n".encode())
        digest.update(source)
    return digest.hexdigest()
