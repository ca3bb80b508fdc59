"""One thread a worker: two workers share two cores. Set before torch is imported."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GRSD_PROGRESS", "0")

import binding  # noqa: F401  # before the package is imported
import jaxtyping
import pytest
import torch
from models import CASES, ZOO

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture
def as_users_run_it():
    """Without the annotations enforced: wrong types must reach our own refusals, as they do for a user."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(params=CASES, ids=[case.name for case in CASES])
def case(request):
    """(model, inputs, targets) of each row of the shared table."""
    return request.param.make()


@pytest.fixture(params=CASES + ZOO, ids=[case.name for case in CASES + ZOO])
def any_case(request):
    """(model, inputs, targets) of perceptrons and of every other kind of layer."""
    return request.param.make()
