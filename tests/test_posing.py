"""The whole library on a device that only poses as one. A backend, once registered, stays: so a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch.utils.backend_registration

HERE = Path(__file__).parent


@pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch registers no backend written in Python",
)
@pytest.mark.parametrize(
    ("chosen", "passed"),
    [("not long", "13 passed, 2 deselected"), pytest.param("long", "2 passed, 13 deselected", marks=pytest.mark.long)],
)
def test_the_posing_device(chosen, passed):
    plain = ["-q", "-p", "no:cacheprovider", "-o", "addopts="]  # all other tests enforce the annotations
    command = [sys.executable, "-m", "pytest", *plain, "-m", chosen, str(HERE / "posed.py")]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert passed in done.stdout
