"""Under hostile switches the numbers are the usual ones, and afterwards the switches are as they were."""

import contextlib
import random
import sys

import numpy as np
import planted
import pytest
import torch
import xarray as xr
from test_specs import SMALL

import grsd
from grsd.datasets import images
from grsd.support.pinned import pinned, usual_numbers

SWITCHES = {
    "dtype": (torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "denormals": (lambda: sys.float_info.min / 2 == 0, torch.set_flush_denormal, True),
    "products": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"),
    "tf32": (
        lambda: torch.backends.cudnn.allow_tf32,
        lambda value: setattr(torch.backends.cudnn, "allow_tf32", value),
        False,
    ),
    "deterministic": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True),
    "mkldnn": (
        lambda: torch.backends.mkldnn.enabled,
        lambda value: setattr(torch.backends.mkldnn, "enabled", value),
        False,
    ),
    "fast attention": (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp, False),
    "gradients": (torch.is_grad_enabled, lambda value: torch._C._set_grad_enabled(value), False),
    "threads": (torch.get_num_threads, torch.set_num_threads, 2),
    "device": (torch.get_default_device, torch.set_default_device, torch.device("meta")),
}
CONTEXTS = {
    "inference": lambda: torch.inference_mode(),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "numpy": lambda: np.errstate(all="raise"),
    "xarray": lambda: xr.set_options(keep_attrs=True, arithmetic_join="outer"),
    "device": lambda: torch.device("meta"),
}


@contextlib.contextmanager
def hostile(name):
    """One switch by name, or all of them."""
    with contextlib.ExitStack() as stack:
        for key, (get, put, value) in SWITCHES.items():
            if name in (key, "all"):
                before = get()
                stack.callback(put, None if key == "device" else before)
                put(value)
                assert get() == value
        for key, make in CONTEXTS.items():
            if name in (key, "all"):
                stack.enter_context(make())
        yield
        for key, (get, _, value) in SWITCHES.items():
            if name in (key, "all"):
                assert get() == value, f"{key} is restored"


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    folder = tmp_path_factory.mktemp("usual")
    specs = [
        grsd.Spec.from_dict(SMALL.to_dict() | {"tolerance": 0.01, "dtype": dtype}) for dtype in ("float64", "float32")
    ]
    for spec in specs:
        grsd.run(spec, folder=folder)
    grsd.run({"seed": 1}, planted.careless, folder=folder)
    return specs, sorted(path.name for path in folder.glob("*.nc"))


SINGLY = [*SWITCHES, *sorted(CONTEXTS.keys() - SWITCHES.keys())]


@pytest.mark.parametrize("name", ["all", *(pytest.param(name, marks=pytest.mark.long) for name in SINGLY)])
def test_a_run_has_the_same_bytes(usual, tmp_path, name):
    """A name holds the digest of the bytes. The functions use float32 and float64, numpy, global random numbers."""
    specs, names = usual
    with hostile(name):
        random.seed(9)
        for spec in specs:
            grsd.run(spec, folder=tmp_path)
        grsd.run({"seed": 1}, planted.careless, folder=tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.nc")) == names


@pytest.mark.parametrize("name", ["all", "dtype", "device", "inference", "threads"])
def test_data_and_networks_of_a_spec_are_the_same(name):
    data = SMALL.batch()
    network = SMALL.network(data)
    photographs = grsd.datasets.patches(20)
    drawn = grsd.datasets.power_law(5)
    images._tiles.cache_clear()
    with hostile(name):
        found, again = SMALL.batch(), SMALL.network(data)
        others = [(photographs, grsd.datasets.patches(20)), (drawn, grsd.datasets.power_law(5))]
    for mine, yours in ((data, found), *others):
        assert torch.equal(mine.inputs, yours.inputs)
        assert torch.equal(mine.targets, yours.targets)
        assert not yours.inputs.is_inference()
    for mine, yours in zip(network.parameters(), again.parameters(), strict=True):
        assert mine.dtype == yours.dtype
        assert torch.equal(mine, yours)


def seeded():
    torch.manual_seed(4)
    np.random.seed(4)
    random.seed(4)


def drawn():
    return torch.rand(1, device="cpu").item(), np.random.rand(), random.random()  # noqa: S311


def interrupted():
    with pinned(1, seed=3):
        assert torch.get_num_threads() == 1
        assert torch.get_default_dtype() == torch.float32
        drawn()
        raise KeyboardInterrupt


def test_all_is_restored_after_an_exception():
    """``hostile`` checks its switches; random numbers go on as if nothing had been drawn."""
    seeded()
    expected = drawn()
    seeded()
    with hostile("all"), pytest.raises(KeyboardInterrupt):
        interrupted()
    assert drawn() == expected


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch before its new precision switches")
def test_torchs_new_precision_switches_are_pinned_and_restored():
    """Where the old ones cannot even be read."""
    torch.backends.fp32_precision, torch.backends.cudnn.conv.fp32_precision = "tf32", "ieee"
    read = lambda: (torch.backends.fp32_precision, torch.backends.cudnn.conv.fp32_precision)  # noqa: E731
    try:
        with usual_numbers():
            assert read() == ("ieee", "ieee")
            assert torch.backends.cudnn.allow_tf32 is False
        assert read() == ("tf32", "ieee")
    finally:
        torch.backends.fp32_precision, torch.backends.cudnn.conv.fp32_precision = "none", "tf32"


def test_threads_of_blas_are_pinned():
    from threadpoolctl import threadpool_info, threadpool_limits

    with threadpool_limits(2):
        with pinned(1):
            assert {part["num_threads"] for part in threadpool_info()} == {1}
        assert 2 in {part["num_threads"] for part in threadpool_info()}
