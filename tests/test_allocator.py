"""A kernel that was computed before finds its memory in the process."""

import os
import subprocess
import sys

import pytest

from grsd.support.allocator import VARIABLES

FAULTS = """
import resource, torch, grsd
torch.set_num_threads(1)
model = grsd.networks.Perceptron(8, 4, width=256, depth=4).eval()
inputs = torch.randn(256, 8)
counts = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    grsd.tangent_kernel(model, inputs)
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(counts[2:]))
"""
KEPT = "from grsd.support.allocator import keep_freed_memory as keep; print(keep(), keep())"


def said(program: str, **variables: str) -> str:
    rest = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    run = [sys.executable, "-c", program]
    return subprocess.run(run, env=rest | variables, check=True, capture_output=True, text=True).stdout.strip()


def test_a_second_kernel_of_one_shape_fetches_no_memory_from_the_system():
    if said(KEPT) != "True True":
        pytest.skip("malloc is not glibc's")
    asked = {"MALLOC_TRIM_THRESHOLD_": "131072"}  # glibc's own default
    assert int(said(FAULTS)) < 0.1 * int(said(FAULTS, **asked))


@pytest.mark.parametrize("name", VARIABLES)
def test_who_says_how_malloc_shall_behave_is_left_alone(name):
    value = {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}.get(name, "131072")
    assert said(KEPT, **{name: value}) == "False False"
