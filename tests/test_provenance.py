from importlib.metadata import version

import torch
import xarray as xr

from grsd.support.provenance import PACKAGES, provenance


def test_versions_and_parameters():
    found = provenance({"seed": 3, "residual": True, "dtype": torch.float64, "limit": None, "rate": 0.5, "name": "x"})
    for package in PACKAGES:
        assert f"{package} {version(package)}" in found["versions"]
    assert found["seed"] == 3
    assert found["rate"] == 0.5
    assert [found[name] for name in ("residual", "dtype", "limit", "name")] == ["True", "torch.float64", "None", "x"]
    assert xr.Dataset(attrs=found).attrs == found
