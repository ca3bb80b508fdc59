"""A computation that is no training: what any function of a spec looks like. Top level, so that workers find it."""

import random

import numpy as np
import torch
import xarray as xr
from threadpoolctl import threadpool_info

from grsd.support.values import whole_number


def planted(spec):
    generator = np.random.default_rng(spec["seed"])
    draws = generator.normal(size=whole_number("planted", "draws", spec["draws"], 1))
    return xr.Dataset({"draw": ("sample", draws), "mean": ((), draws.mean())}, attrs={"exponent": spec["exponent"]})


def resumed(spec, scratch):
    """Interrupted once, after its first half."""
    first = scratch.load("half")
    if first is None:
        scratch.save("half", xr.Dataset({"mean": spec["seed"]}))
        raise KeyboardInterrupt
    return first.assign(whole=1)


def wrong(spec):
    return spec


def careless(spec):
    """Leans on what a process may have set: defaults, global random numbers, products in single precision."""
    drawn = torch.rand(40, 40)
    product = drawn @ torch.randn(40, 40)
    image = torch.nn.functional.conv2d(torch.rand(1, 3, 8, 8), torch.rand(4, 3, 3, 3))
    weight = torch.nn.Parameter(torch.ones(3))
    (gradient,) = torch.autograd.grad((weight * 1e-39).sum() * torch.rand(()), weight)
    tiny = np.float64(1e-300) * np.float64(1e-10)
    left = xr.DataArray(np.random.rand(3), {"x": [0, 1, 2]}, attrs={"kept": "perhaps"})
    right = xr.DataArray([random.random()] * 3, {"x": [1, 2, 3]})  # noqa: S311
    return xr.Dataset(
        {
            "product": (("a", "b"), product.numpy()),
            "image": ("c", image.flatten().numpy()),
            "gradient": ("d", gradient.numpy()),
            "tiny": tiny,
            "sum": left + right,
            "blas": (("e", "f"), np.linalg.inv(np.random.rand(60, 60))),
        }
    )


def odd(spec):
    """Attributes and types that netCDF does not have."""
    attributes = {"settings": {"flag": True, "nothing": None}, "function_used": len, "ragged": [[1], [2, 3]]}
    return xr.Dataset({"answer": ("a", [True, False])}, attrs=attributes)


def unkept(spec, scratch):
    """An object that no file can hold; each call is counted in the folder of results."""
    with (scratch.folder.parents[1] / "calls").open("a") as file:
        file.write(".")
    values = np.empty(1, dtype=object)
    values[0] = {spec["seed"], spec["seed"] + 1}
    return xr.Dataset({"x": ("a", values)})


def threads_used(spec):
    blas = [part["num_threads"] for part in threadpool_info()]
    return xr.Dataset({"torch": torch.get_num_threads(), "blas": ("library", sorted(set(blas)))})
