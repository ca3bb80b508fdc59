import json

import numpy as np
import pytest
import xarray as xr

from grsd.evidence import tables
from grsd.support.provenance import provenance


@pytest.fixture
def here(monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "project", lambda: tmp_path)
    return tmp_path


def example():
    values = np.random.default_rng(0).standard_normal((2, 3)) * 1e-7
    data = xr.Dataset(
        {
            "share": (("effect", "runs"), values, {"units": "1", "long_name": "a share"}),
            "hits": (("effect", "runs"), np.arange(6).reshape(2, 3)),
            "nominal": ("runs", [0.05, 1 / 3, np.nan]),
        },
        {"effect": ("effect", [0.1, 0.2], {"units": "1/time"}), "runs": [6, 8, 16]},
    )
    return data.assign_attrs(provenance({"seed": 3, "window": (-1.0, 2.0)}) | {"count": np.int64(5)})


def test_a_table_is_read_back_exactly(here):
    path = tables.save_table(example(), "02_calibration-power")
    assert path == here / "data" / "tables" / "02_calibration-power.csv"
    found = tables.read_table("02_calibration-power")
    xr.testing.assert_identical(found[["share", "hits"]].drop_attrs(), example()[["share", "hits"]].drop_attrs())
    assert found.share.attrs == example().share.attrs
    assert found.effect.attrs == {"units": "1/time"}
    assert found.attrs["seed"] == 3
    assert found.attrs["count"] == 5
    assert np.isnan(found.nominal.sel(runs=16)).all()
    assert found.attrs["window"] == "(-1.0, 2.0)"
    before = path.read_bytes()
    assert tables.save_table(found, "02_calibration-power").read_bytes() == before
    head = "".join(line[2:] for line in path.read_text().splitlines() if line.startswith("#"))
    assert json.loads(head)["attributes"]["versions"]


def test_refusals(here):
    for name in ("power", "../02_a-b", "02_Power-x"):
        with pytest.raises(ValueError, match="expected NOTEBOOK-WHAT"):
            tables.save_table(example(), name)
    with pytest.raises(FileNotFoundError, match=r"no table 02_a-b; `grsd data data/tables/02_a-b.csv` makes it"):
        tables.read_table("02_a-b")
    with pytest.raises(FileNotFoundError, match=r"`grsd data data/predictions/09_a-b.csv` makes it"):
        tables.read_table("09_a-b", "predictions")
