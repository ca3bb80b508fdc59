"""Arguments and results of the public calls, moved to a device and compared; used on a posing device and on CUDA."""

import copy
from dataclasses import fields, is_dataclass
from functools import cache

import calls
import numpy as np
import torch
import xarray as xr
from torch import nn

from grsd.krylov.tridiagonal import Tridiagonal

LEAST = 30  # of the public calls take tensors or modules


def holds_tensors(value):
    if isinstance(value, dict):
        return any(map(holds_tensors, value.values()))
    if type(value) in (list, tuple):
        return any(map(holds_tensors, value))
    if is_dataclass(value) and not isinstance(value, type):
        return any(holds_tensors(getattr(value, field.name)) for field in fields(value))
    return isinstance(value, (torch.Tensor, nn.Module))


def moved(value, device):
    """The value with every tensor and module in it on the device; what stays on the CPU by contract stays."""
    if isinstance(value, (torch.Tensor, nn.Module)):
        return copy.deepcopy(value).to(device)
    if isinstance(value, dict):
        return {name: moved(part, device) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(moved(part, device) for part in value)
    if is_dataclass(value) and not isinstance(value, (type, Tridiagonal)) and holds_tensors(value):
        parts = {field.name: moved(getattr(value, field.name), device) for field in fields(value) if field.init}
        return type(value)(**parts)
    return value


def same(found, expected, host, rtol=1e-6, atol=1e-9):
    """Equal up to rounding: tensors, datasets, and what holds them. ``host``: brings a tensor of the device home."""
    if isinstance(expected, torch.Tensor):
        there = host(found.detach())
        return bool(torch.allclose(there, expected.detach(), rtol=rtol, atol=atol, equal_nan=True))
    if isinstance(expected, xr.Dataset):
        names = [name for name in expected.data_vars if expected[name].dtype.kind == "f"]
        return all(np.allclose(found[name], expected[name], rtol=rtol, atol=atol, equal_nan=True) for name in names)
    if isinstance(expected, dict):
        return all(same(found[name], value, host, rtol, atol) for name, value in expected.items())
    if isinstance(expected, (list, tuple)):
        return all(same(*pair, host, rtol, atol) for pair in zip(found, expected, strict=True))
    if is_dataclass(expected):
        names = [field.name for field in fields(expected)]
        return all(same(getattr(found, name), getattr(expected, name), host, rtol, atol) for name in names)
    return True


@cache
def with_tensors():
    found = {name: public for name, public in calls.PUBLIC.items() if holds_tensors(public.arguments())}
    assert len(found) >= LEAST
    return found
