"""Numbers that do not depend on what else the process has set: torch's, numpy's and xarray's switches as they come."""

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

# Parts of torch.backends, parents first: setting one may set those under it. Older torch lacks some.
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
    """Inside, and restored after: float32 as the default dtype, the CPU as the default device, gradients on, no
    autocast, no flushing of denormals, full precision of products, no nondeterministic choice by timing, no errors from
    numpy's warnings, xarray's own options. Also a decorator.

    ``seed``: of torch's, numpy's and Python's global random numbers, whose states are restored as well; ``None``
    leaves them alone.
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
    """``usual_numbers`` on so many threads of torch and of every BLAS that is loaded."""
    with usual_numbers(seed), threadpool_limits(threads), contextlib.ExitStack() as stack:
        _kept(stack, torch.get_num_threads, torch.set_num_threads, threads)
        yield


def _kept(
    stack: contextlib.ExitStack, get: Callable[[], object], put: Callable[[object], object], value: object
) -> None:
    """``put(value)``, and what ``get()`` gave before when the stack is left; nothing is put that is there already."""

    def putting(wanted: object) -> None:
        if get() != wanted:
            put(wanted)

    stack.callback(putting, get())
    putting(value)


def _full_precision(stack: contextlib.ExitStack) -> None:
    """float32 products in float32, said in torch's old switches and in its new ones.

    The old ones change the new ones, and cannot be read where those say more than they can. Restored are therefore
    first the old ones, as far as they could be read, then the new ones.
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
    """(owner, name, value) of a switch of ``torch.backends``, the value ``None`` where this torch does not have it."""
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
    """Whether this thread takes numbers under the smallest normal one for zero."""
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
