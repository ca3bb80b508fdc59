"""The commit of this package's repository, which results record."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
UNKNOWN = "unknown"


@cache
def commit(package: Path = PACKAGE) -> str:
    """Return the commit that ``package`` is checked out at, with "-modified" if its files differ from that commit.

    Return ``"unknown"`` without git, outside a repository, and inside a repository that does not track the package.
    """
    git = shutil.which("git")
    if git is None:
        return UNKNOWN

    def ask(*words: str) -> str | None:
        line = [git, "--no-optional-locks", "-C", str(package), *words]
        done = subprocess.run(line, capture_output=True, text=True, check=False)  # noqa: S603
        return done.stdout.strip() if done.returncode == 0 else None

    if ask("ls-files", "--error-unmatch", "__init__.py") is None or not (head := ask("rev-parse", "HEAD")):
        return UNKNOWN
    return f"{head}-modified" if ask("status", "--porcelain", "--", ".") else head
