"""Small result tables under data/: text files that diff well, with the versions and settings that made them."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from grsd.support.files import write_atomically
from grsd.support.folders import project

NAME = r"\d\d_[a-z0-9_]+-[a-z0-9-]+"


def path_of(name: str, folder: str = "tables") -> Path:
    """Return data/FOLDER/NAME.csv; ``name`` starts with the name of its notebook, as a figure's name does."""
    if not re.fullmatch(NAME, name):
        raise ValueError(f"table name: expected NOTEBOOK-WHAT such as '02_calibration-power', got {name!r}")
    return project() / "data" / folder / f"{name}.csv"


def refuse_to_replace(name: str, folder: str = "predictions") -> None:
    """Raise ``FileExistsError`` if the prediction is written already."""
    target = path_of(name, folder)
    if target.exists():
        raise FileExistsError(f"{target.name} is there; forecasts once made are not made again")


def save_table(data: xr.Dataset, name: str, folder: str = "tables") -> Path:
    """Write a labelled dataset as a CSV file: one row for each combination of its coordinates.

    The first lines start with "# " and hold JSON: the attributes (provenance, settings), the dimensions, and the
    attributes of each variable. Numbers are read back exactly.
    """
    target = path_of(name, folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    head = {
        "attributes": {key: _plain(value) for key, value in data.attrs.items()},
        "dimensions": list(data.sizes),
        "variables": {key: {k: _plain(v) for k, v in data[key].attrs.items()} for key in data.variables},
    }
    lines = "".join(f"# {line}\n" for line in json.dumps(head, indent=1, ensure_ascii=False).splitlines())
    frame = data.to_dataframe(dim_order=list(data.sizes)).reset_index()
    return write_atomically(target, (lines + frame.to_csv(index=False, lineterminator="\n")).encode())


def read_table(name: str, folder: str = "tables") -> xr.Dataset:
    """Read the dataset that ``save_table`` wrote. Errors: ``FileNotFoundError`` naming the command that makes it."""
    source = path_of(name, folder)
    if not source.exists():
        raise FileNotFoundError(f"no table {name}; `grsd data data/{folder}/{name}.csv` makes it")
    lines = source.read_text(encoding="utf-8").splitlines()
    comments = [line.removeprefix("# ") for line in lines if line.startswith("#")]
    head = json.loads("\n".join(comments))
    frame = pd.read_csv(source, skiprows=len(comments), dtype=str, keep_default_na=False).apply(_numbers)
    data = frame.set_index(head["dimensions"]).to_xarray().assign_attrs(head["attributes"])
    for key, attributes in head["variables"].items():
        data[key].attrs = attributes
    return data


def _numbers(column: pd.Series) -> pd.Series:
    """Return a column as integers or floats, exact to the last bit, or as text if it is not numeric."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return pd.Series([kind(text) for text in column.replace("", "nan")], name=column.name)
    return column


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
