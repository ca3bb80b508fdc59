"""A device that only poses as one: its tensors live on the CPU, but what fails or is slow on a real device raises.

A host tensor that meets a device tensor, and a line of code that reads the device again and again: here both are errors
on any machine. Real devices refuse the first at run time, and wait in the second until all queued work is done.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import moving
import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import grsd
from grsd.jacobian import copies
from grsd.support import checks
from grsd.support.host import reading

NAME = "posing"
_setup_privateuseone_for_python_backend(NAME)
DEVICE = torch.device(NAME, 0)
PACKAGE = str(Path(grsd.__file__).parent)
aten = torch.ops.aten
READS = {
    aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default, aten.nonzero.default,
    aten.masked_select.default, aten._unique2.default, aten.unique_dim.default, aten.repeat_interleave.Tensor,
}  # fmt: skip
COPIES = {aten._to_copy.default, aten.copy_.default}
MOST_READS = 3  # of one line while one run of its function, or of its caller in the same file, goes on: more is a loop


class OnDevice(torch.Tensor):
    """A tensor of the posing device. ``inside``: what it holds, on the CPU."""

    __slots__ = ("inside",)  # not among vars(tensor), which the library copies from parameter to parameter
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inside):
        layout = {"strides": inside.stride(), "storage_offset": inside.storage_offset(), "dtype": inside.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, inside.shape, device=DEVICE, **layout)
        made.inside = inside
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function}: a tensor of the posing device outside of Posing()")

    def __repr__(self):
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"


class Mixed(RuntimeError):
    """A host tensor has met a device tensor."""


class ReadInALoop(RuntimeError):
    """One line has read the device more than ``MOST_READS`` times, not through the library's door."""


class Posing(TorchDispatchMode):
    """Inside, the posing device exists. ``reads``: of each line of the library; ``doors``: reads through the door."""

    def __init__(self, most_reads=MOST_READS):
        super().__init__()
        self.most, self.reads, self.doors, self.running = most_reads, Counter(), Counter(), Counter()

    def __enter__(self):
        self.lifts = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # so that torch.tensor(..., device=DEVICE) is seen here
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(self.lifts)
        self.running.clear()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        there = [value for value in tensors if isinstance(value, OnDevice)]
        wanted = device is not None and torch.device(device).type == NAME
        if not there and not wanted:
            return function(*args, **kwargs)
        if function is aten._has_same_storage_numel.default:
            return len({value.untyped_storage().nbytes() for value in args}) == 1
        to_host = self._check(function, args, kwargs, tensors, there, wanted)
        if function is aten._efficientzerotensor.default:  # which has no memory
            function = aten.zeros.default
        if device is not None:
            kwargs["device"] = torch.device("cpu")
        inner_args, inner = tree_map(inside, (args, kwargs))
        found = function(*inner_args, **inner)
        if to_host:
            return args[0] if function is aten.copy_.default else found
        found = tree_map(lambda value: OnDevice(value) if isinstance(value, torch.Tensor) else value, found)
        return return_and_correct_aliasing(function, args, kwargs, found)

    def _check(self, function, args, kwargs, tensors, there, wanted):
        """Count a read, refuse a mixture; return whether the result is on the host."""
        if function in COPIES:
            to_host = (
                not isinstance(args[0], OnDevice)
                if function is aten.copy_.default
                else not (wanted or kwargs.get("device") is None)
            )
            if to_host:
                self._read(function)
            return to_host
        here = [value for value in tensors if not isinstance(value, OnDevice)]
        if [value for value in here if value.ndim or torch.Tag.pointwise not in function.tags]:
            hosts = [tuple(value.shape) for value in here]
            raise Mixed(f"{function} of {hosts} on the host and {there} at {site(library_frames())}")
        masks = function is aten.index.Tensor and any(
            value is not None and value.dtype in (torch.bool, torch.uint8) for value in args[1]
        )
        if masks or (function in READS and kwargs.get("output_size") is None):
            self._read(function)
        return False

    def _read(self, function):
        stack = library_frames()
        where = site(stack)
        if reading():
            self.doors[where] += 1
            return
        self.reads[where] += 1
        for frame in stack[:2]:
            if frame.f_code.co_filename != stack[0].f_code.co_filename:
                break
            here = where, frame, frame.f_lineno  # the frame itself: its id would be another one's later
            self.running[here] += 1
            if self.running[here] > self.most:
                raise ReadInALoop(f"{function} at {where}, {self.running[here]} times from {site([frame])}")


def library_frames():
    """The running functions of the package, innermost first."""
    frame, found = sys._getframe(), []
    while frame is not None:
        name = frame.f_code.co_filename
        passes = name.endswith("host.py") or frame.f_code.co_name in ("__torch_dispatch__", "__torch_function__")
        if name.startswith(PACKAGE) and not passes:
            found.append(frame)
        frame = frame.f_back
    return found


def site(stack):
    """The line of the innermost function."""
    if not stack:
        return "outside the package"
    return f"{stack[0].f_code.co_filename.removeprefix(PACKAGE)}:{stack[0].f_lineno}"


def moved(value):
    """The value with every tensor and module in it on the posing device."""
    return moving.moved(value, DEVICE)


def inside(value):
    """What a tensor of the device holds; any other value itself."""
    return value.inside if isinstance(value, OnDevice) else value


def let_in(monkeypatch):
    """The library computes where it knows; let it know the posing device and its parameters."""
    monkeypatch.setattr(checks, "KINDS", {*checks.KINDS, NAME})
    monkeypatch.setattr(checks, "PLAIN", [*checks.PLAIN, OnDevice])
    monkeypatch.setattr(copies, "PLAIN", (*copies.PLAIN, OnDevice))
