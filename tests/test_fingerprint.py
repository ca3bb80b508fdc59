"""What counts as other code, and what does not."""

import re
import subprocess
import sys
from functools import partial

import pytest

from grsd.runs import fingerprint as fingerprint_module
from grsd.runs import train
from grsd.runs.fingerprint import code_of, fingerprint

CODE = '''"""Of a module."""
import math
LIMIT = 3  # a comment
class Kept:
    """Of a class."""
    name: str = "a"
    """Of a field."""
    def size(self, factor=2.0, *, deep=None):
        """Of a method."""
        return f"{factor!r:>{LIMIT}}" if deep is None else math.nan
def nothing():
    """Only this."""
'''


def tree(text):
    return fingerprint_module._tree(text.encode())[0]


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("Of a module.", "Of a module,\nin other words.", True),
        ("Of a class.", "", True),
        ("Of a field.", "Of an attribute.", True),
        ('        """Of a method."""\n', "", True),
        ("Only this.", "Only that.", True),
        ("# a comment", "", True),
        ("import math\n", "import math\n\n\n", True),
        ("factor=2.0, *, deep=None", "\nfactor = 2.0,\n  *,\n  deep=None,\n", True),
        ("2.0", "2.5", False),
        ("2.0", "2", False),
        ("deep=None", "deep=0", False),
        ("LIMIT = 3", "LIMIT = 4", False),
        ('"a"', '"b"', False),
        ("!r", "!s", False),
        ("is None", "is not None", False),
        ("*, deep", "deep", False),
        ("math.nan", "(math.nan,)", False),
        ("import math", "import cmath as math", False),
        ("name: str", "label: str", False),
        ("def nothing", "async def nothing", False),
        ("LIMIT = 3", "LIMIT = 3\nLIMIT = 3", False),
    ],
)
def test_words_are_no_code(before, after, same):
    """Docstrings, comments and layout may change; a default, a constant, a name or a statement is other code."""
    assert before in CODE
    assert (tree(CODE) == tree(CODE.replace(before, after))) is same


def test_trees_of_any_depth_and_files_that_are_no_python():
    long = "x = " + "1 + " * 900
    assert len({tree(text) for text in (f"{long}1", f"{long}2", "x = (", "x = ((")}) == 4


def test_the_code_of_any_measure():
    """Of a lambda, a closure or a partial: its file with what that imports; without a file, nobody knows."""
    closure = lambda seed: seed  # noqa: E731
    assert re.fullmatch("[0-9a-f]{64}", code_of(closure))
    assert code_of(partial(closure, 3)) == code_of(closure)
    assert code_of(train) != code_of(closure)
    assert fingerprint(train) == code_of(train)
    assert code_of(type(closure)(closure.__code__, {"__name__": "nowhere"})) == "unknown"


def test_what_a_process_pays_at_import():
    """CPU seconds until a fingerprint could be asked for; help pays none of it."""
    line = "import time, hashlib, ast, importlib.metadata; import grsd.runs; t = time.process_time(); "
    line += "import grsd.runs.fingerprint; print(time.process_time() - t)"
    took = [float(subprocess.run([sys.executable, "-c", line], capture_output=True, check=True).stdout) for _ in "123"]
    assert min(took) < 0.03
    line = "import sys\nfrom grsd import cli\ntry:\n    cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
    line += "assert 'grsd.runs.fingerprint' not in sys.modules"
    subprocess.run([sys.executable, "-c", line], capture_output=True, check=True)
