"""The couplings of an ensemble beside those that growth of the whole kernel would give, pair by pair of shells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from grsd.laws.coupling import pairs
from grsd.shells.parts import NEEDED
from grsd.support.arguments import whole_budget


@dataclass(frozen=True)
class GrowthPairs:
    """Couplings of R runs in units in which the weights are one: K and z (R, m), both times the root of the weights."""

    coupling: np.ndarray
    growth: np.ndarray
    root: np.ndarray
    x: np.ndarray
    group: np.ndarray

    def only(self, kept: np.ndarray) -> GrowthPairs:
        parts = self.coupling[:, kept], self.growth[:, kept], self.root[kept], self.x[kept], self.group[kept]
        return GrowthPairs(*parts)

    def rates(self) -> np.ndarray:
        return (self.coupling * self.growth).sum(1) / np.square(self.growth).sum(1)

    def common_rates(self) -> np.ndarray:
        """Return r of every run, shifted so that growth alone gives couplings as large as those common to the runs."""
        rates = self.rates()
        size = crossed(self.coupling) / crossed(self.growth)
        return rates - rates.mean() + np.sqrt(max(size, 0.0))

    def without_growth(self, values: np.ndarray) -> np.ndarray:
        """Project z of every run out of values (R, m)."""
        along = (values * self.growth).sum(1) / np.square(self.growth).sum(1)
        return values - along[:, None] * self.growth

    def shapes(self, slope: np.ndarray | float) -> np.ndarray:
        """Return (..., G, m) the shapes of the law, one per separation, for slopes b - 1 (...)."""
        member = self.group[None, :] == np.arange(self.group.max() + 1)[:, None]
        return np.exp(np.asarray(slope)[..., None, None] * (self.x - self.x.mean())) * member * self.root


def crossed(values: np.ndarray) -> float:
    """Return the mean of the products of different runs (R, m), summed over m."""
    runs = len(values)
    return float(np.square(values.sum(0)).sum() - np.square(values).sum()) / (runs * (runs - 1))


def growth_pairs(
    call: str, ensemble: Sequence[xr.Dataset], k_max: int, window: tuple[float, float] | None
) -> tuple[GrowthPairs, np.ndarray, np.ndarray]:
    """Return the weighted pairs, their separations (m,) and their positions (m,)."""
    common, lower, upper = pairs(call, ensemble, k_max, window, "ensemble")
    for budget in common.budgets:
        whole_budget(call, "ensemble", budget, NEEDED)
    energy = common.shells("energy")
    root = np.sqrt(energy[:, upper] * energy[:, lower])
    if not (root > 0).all():
        raise ValueError(f"{call}(ensemble): expected 'energy' above 0 where nothing is masked")

    def normalized(name: str) -> np.ndarray:
        places = zip(common.budgets, common.places(), strict=True)
        return np.stack([budget[name].values[np.ix_(at, at)][upper, lower] for budget, at in places]) / root

    coupling, growth = normalized("coupling"), normalized("scale_coupling")
    separations = common.index[upper] - common.index[lower]
    x = (common.index[lower] + common.index[upper] + 1) * common.width / 2
    near = separations == 1
    size = np.square(coupling[:, near]).mean(0)
    if near.sum() < 2 or not (size > 0).all() or not (np.square(growth).sum(1) > 0).all():
        raise ValueError(f"{call}(ensemble): expected couplings of neighbours other than 0 at 2 or more positions")
    trend = np.polyfit(x[near], np.log(size), 1)
    weight = np.exp(-np.polyval(trend, x) / 2)
    return GrowthPairs(coupling * weight, growth * weight, weight, x, separations - 1), separations, x
