"""Reset torch's, numpy's and xarray's switches to their defaults, so that the process's settings change no number."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import scipy.linalg  # noqa: F401  its own copy of BLAS must be there before its threads are counted
import torch
import xarray as xr
from threadpoolctl import threadpool_limits

# Parts of torch.backends, parents first: setting a parent may set its children. Older torch lacks some.
PRECISIONS = (
    "",
    "cudnn.",
    "cudnn.conv.",
    "cudnn.rnn.",
    "cuda.matmul.",
    "mkldnn.matmul.",
    "mkldnn.conv.",
    "mkldnn.rnn.",
)
SWITCHES = {
    "cudnn.enabled": True,
    "cudnn.benchmark": False,
    "cudnn.deterministic": True,
    "mkldnn.enabled": True,
    "mkldnn.deterministic": False,
    "opt_einsum.enabled": False,
    "cuda.matmul.allow_fp16_reduced_precision_reduction": True,
    "cuda.matmul.allow_bf16_reduced_precision_reduction": True,
}
ATTENTION = ("flash", "mem_efficient", "math", "cudnn")
OPTIONS = {"arithmetic_join": "inner", "keep_attrs": "default", "use_bottleneck": True, "use_numbagg": True}


@contextlib.contextmanager
def usual_numbers(seed: int | None = None) -> Iterator[None]:
    """Compute under the usual switches, and restore the process's own afterwards. Also a decorator.

    The switches: float32 is the default dtype, the CPU is the default device, gradients are on, autocast is off,
    denormals are kept, products have full precision, no algorithm is chosen by timing, numpy's warnings raise no
    errors, and xarray has its own options.

    ``seed``: sets torch's, numpy's and Python's global random states, which are restored as well; ``None`` leaves
    them alone.
    """
    backends = torch.backends
    with contextlib.ExitStack() as stack:
        kept = partial(_kept, stack)
        _full_precision(stack)
        for path, value in SWITCHES.items():
            part, name, before = _found(path)
            if before is not None:
                stack.callback(setattr, part, name, before)
                setattr(part, name, value)
        for name in ATTENTION:
            kept(getattr(backends.cuda, f"{name}_sdp_enabled"), getattr(backends.cuda, f"enable_{name}_sdp"), True)
        kept(backends.mha.get_fastpath_enabled, backends.mha.set_fastpath_enabled, True)
        kept(_deterministic, _set_deterministic, (False, False))
        kept(torch.get_default_dtype, torch.set_default_dtype, torch.float32)
        kept(_flushes, torch.set_flush_denormal, False)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        stack.enter_context(xr.set_options(**OPTIONS))
        if seed is not None:
            stack.enter_context(_random(seed))
        yield


@contextlib.contextmanager
def pinned(threads: int, seed: int | None = None) -> Iterator[None]:
    """Apply ``usual_numbers``, with ``threads`` threads for torch and for every loaded BLAS."""
    with usual_numbers(seed), threadpool_limits(threads), contextlib.ExitStack() as stack:
        _kept(stack, torch.get_num_threads, torch.set_num_threads, threads)
        yield


def _kept(
    stack: contextlib.ExitStack, get: Callable[[], object], put: Callable[[object], object], value: object
) -> None:
    """Put ``value``, and put back the old value of ``get()`` when the stack closes; equal values are not put."""

    def putting(wanted: object) -> None:
        if get() != wanted:
            put(wanted)

    stack.callback(putting, get())
    putting(value)


def _full_precision(stack: contextlib.ExitStack) -> None:
    """Compute float32 products in float32, by torch's old switches and by its new ones.

    Setting an old switch changes the new ones, and an old switch cannot be read if the new ones hold a state that it
    cannot express. So the readable old switches are restored first, then the new ones.
    """
    backends = torch.backends
    old = [
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
        (lambda: backends.cuda.matmul.allow_tf32, partial(setattr, backends.cuda.matmul, "allow_tf32"), False),
        (lambda: backends.cudnn.allow_tf32, partial(setattr, backends.cudnn, "allow_tf32"), False),
    ]
    readable = []
    for get, put, _ in old:
        with contextlib.suppress(RuntimeError):
            readable.append((put, get()))
    new = [_found(f"{part}fp32_precision") for part in PRECISIONS]
    for part, name, before in reversed(new):
        if before is not None:
            stack.callback(setattr, part, name, before)
    for put, before in readable:
        stack.callback(put, before)
    for part, name, before in new:
        if before is not None:
            setattr(part, name, "ieee")
    for _, put, value in old:
        put(value)


def _found(path: str) -> tuple[object, str, object]:
    """Return (owner, name, value) of a switch of ``torch.backends``; the value is ``None`` if this torch lacks it."""
    *path, name = path.split(".")
    part = torch.backends
    for step in path:
        part = getattr(part, step, None)
    return part, name, getattr(part, name, None)


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_deterministic(state: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(state[0], warn_only=state[1])


def _flushes() -> bool:
    """Return whether this thread flushes denormal numbers to zero."""
    return sys.float_info.min / 2 == 0


@contextlib.contextmanager
def _random(seed: int) -> Iterator[None]:
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(cuda):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed_all(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
