"""What the doors of the public calls let through, and the line they refuse the rest with."""

import math

import numpy as np
import pytest
import torch
import xarray as xr
from material import runs

from grsd.support import arguments, values


def test_values_are_quoted_in_one_short_line():
    assert values.said(np.zeros((2, 2))) == "ndarray of shape (2, 2) and float64"
    assert values.said(torch.zeros(3)) == "Tensor of shape (3,) and torch.float32"
    assert values.said(xr.Dataset({"a": 1, "b": 2})) == "Dataset with a, b"
    assert values.said("x" * 500) == "'" + "x" * 79
    assert "\n" not in values.said(torch.nn.Linear(2, 2))


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("value", [10**400, math.nan, True, "1", None, np.array([1.0, 2.0])])
def test_no_number(value):
    for check in (values.positive, values.number):
        with pytest.raises(ValueError, match=r"^f\(x=\.\.\.\): expected a (positive )?finite number, got .*$"):
            check("f", "x", value)


def test_limits_are_named_where_they_matter():
    with pytest.raises(ValueError, match="of at least 0, got -1"):
        values.number("f", "x", -1, 0.0, 2.0)
    with pytest.raises(ValueError, match="from 0 to 2, got 3"):
        values.number("f", "x", 3, 0.0, 2.0)
    with pytest.raises(MemoryError, match=r"^f\(x=...\): this needs more than a quarter of this machine's memory"):
        values.fits_memory("f", "x", 10**15)
    values.fits_memory("f", "x", 10**6)


@pytest.mark.usefixtures("as_users_run_it")
def test_windows():
    assert arguments.span_of("f", "w", (-math.inf, 3)) == (-math.inf, 3.0)
    assert arguments.optional_window("f", None) == (-math.inf, math.inf)
    for wrong in ((1, 0), (0, 0), (math.nan, 1), "ab", (0, 1, 2), 3, (0, 10**400), torch.zeros(2)):
        with pytest.raises(ValueError, match=r"^f\(w=\.\.\.\): expected \(low, high\) in log lambda, low < high, got "):
            arguments.span_of("f", "w", wrong)


def test_a_budget_is_finite_where_nothing_masks_it():
    budget = runs()[0].copy(deep=True)
    names = ["energy", "flux", "coupling"]
    arguments.budget_of("f", "budget", budget, names)
    kept = np.flatnonzero(budget.mask.values == 0)
    budget.coupling.values[kept[0], kept[1]] = np.nan
    with pytest.raises(ValueError, match=r"^f\(budget\): found NaN or infinity in 'coupling' where nothing is masked$"):
        arguments.budget_of("f", "budget", budget, names)
    budget.mask.values[kept[0]] = 2
    arguments.budget_of("f", "budget", budget, names)
    with pytest.raises(ValueError, match=r"between 1e-100 and 1e\+100, got .*e\+1\d\d: its square leaves the range"):
        arguments.budget_of("f", "budget", budget.assign(flux=budget.flux * 1e150), names)
    with pytest.raises(
        ValueError, match=r"one snapshot per run, 'energy' over .*; choose a time with .isel\(time=...\)"
    ):
        arguments.budget_of("f", "budget", budget.expand_dims("time"), names)
