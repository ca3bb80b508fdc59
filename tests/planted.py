"""A computation that is no training: what any function of a spec looks like. Top level, so that workers find it."""

import numpy as np
import xarray as xr

from grsd.checks import whole


def planted(spec):
    generator = np.random.default_rng(spec["seed"])
    draws = generator.normal(size=whole("planted", "draws", spec["draws"], 1))
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
