"""The shells that several runs have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from grsd.support.arguments import budgets_of, listed, optional_window

LEAST_RUNS = 4
READ = ("energy", "mask", "coupling", "flux", "density", "boundary_mask")


@dataclass(frozen=True)
class CommonShells:
    """Budgets of R runs over the shells ``index`` that all of them have."""

    budgets: Sequence[xr.Dataset]
    index: np.ndarray
    width: float
    low: float
    high: float

    def shells(self, name: str) -> np.ndarray:
        """Return the (R, shells) values of a shell variable."""
        return np.stack([b[name].values[at] for b, at in zip(self.budgets, self.places(), strict=True)])

    def boundaries(self, name: str) -> np.ndarray:
        """Return the (R, shells - 1) values of a boundary variable."""
        return np.stack([b[name].values[at[1:] - 1] for b, at in zip(self.budgets, self.places(), strict=True)])

    def places(self) -> list[np.ndarray]:
        """Return the positions of the common shells in each budget."""
        return [np.searchsorted(budget.shell_index.values, self.index) for budget in self.budgets]


def common_shells(
    call: str, budgets: Sequence[xr.Dataset], window: tuple[float, float] | None, name: str = "budgets"
) -> CommonShells:
    """Return the shells that all runs have in common; ``name``: the argument of ``call`` that holds the runs.

    Errors: ``ValueError`` for fewer than 4 runs, runs whose shells differ, or an empty window.
    """
    low, high = optional_window(call, window)
    budgets = listed(call, name, budgets, "runs", LEAST_RUNS)
    if not all(isinstance(budget, xr.Dataset) and "coupling" in budget for budget in budgets):
        raise ValueError(f"{call}({name}): expected energy budgets of one snapshot each, with a rate")
    budgets = budgets_of(call, name, budgets, READ)
    first = budgets[0]
    for budget in budgets:
        if any(budget.attrs[which] != first.attrs[which] for which in ("shell_width", "smoothing")):
            raise ValueError(f"{call}({name}): expected one shell width and one smoothing in all runs")
    ends = [(budget.shell_index.values[0], budget.shell_index.values[-1]) for budget in budgets]
    index = np.arange(max(item[0] for item in ends), min(item[1] for item in ends) + 1)
    if not len(index):
        raise ValueError(f"{call}({name}): expected shells that all runs have, got none; give them one span")
    return CommonShells(budgets, index, first.attrs["shell_width"], low, high)


def same_runs(call: str, name: str, budgets: object, wanted: str, least: int = 1) -> list[list[xr.Dataset]]:
    """Return lists of runs of equal length; ``wanted`` names what the lists belong to, for example "shell width"."""
    groups = [
        listed(call, name, group, "runs")
        for group in listed(call, name, budgets, f"lists of runs, one {wanted}", least)
    ]
    if len({len(group) for group in groups}) != 1:
        raise ValueError(f"{call}({name}): expected the same number of runs at every {wanted}")
    return groups
