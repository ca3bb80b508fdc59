"""The data of a fit: one observable over R runs on common shells, and its delete-one-run jackknife."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import special, stats


@dataclass(frozen=True)
class Ensemble:
    """An observable y = sum numerator / sum denominator over R runs, at m positions.

    Attributes:
        numerator, denominator: (R, m): F and eps for the velocity, K_ab and 1 for the coupling.
        x: (m,) log eigenvalue. group: (m,) which amplitude of the law applies. separations: (m,) a - b, 0 for u.
        pumped: (1 + R, m) the factor of a common scale r, for all runs, then with each left out; dimensionless.
        scaled: whether r is fitted.
    """

    numerator: np.ndarray
    denominator: np.ndarray
    x: np.ndarray
    group: np.ndarray
    separations: np.ndarray
    pumped: np.ndarray
    scaled: bool

    @property
    def runs(self) -> int:
        return len(self.numerator)

    @cached_property
    def y(self) -> np.ndarray:
        """y (1 + R, m) of all runs, then with each run left out; 1 / time."""
        return leave_out(self.numerator) / leave_out(self.denominator)

    def departures(self, law: np.ndarray) -> np.ndarray:
        """Return (numerator - law denominator) / mean denominator, (R, m); its mean over runs is 0 if y = ``law``."""
        return (self.numerator - law * self.denominator) / self.denominator.mean(0)

    def variances(self) -> np.ndarray:
        """Return smoothed variances of y (m,): in each group a power law times the square of y's trend.

        R - 1 degrees of freedom are too few for raw weights, and weights that follow the noise reduce coverage. So the
        power is shrunk, and set to zero if it is below two standard errors of its distribution under pure chance.
        """
        raw = self.departures(self.y[0]).var(axis=0, ddof=1) / self.runs
        raw = np.maximum(raw, 1e-24 * np.square(self.y[0]).max())
        size = np.maximum(np.abs(self.y[0]), 1e-12 * np.abs(self.y[0]).max())
        smooth = np.empty_like(raw)
        for value in np.unique(self.group):
            here = self.group == value
            x = self.x[here] - self.x[here].mean()
            trend = 2 * np.log(size[here])
            trend = trend.mean() + (trend @ x) / max(x @ x, 1e-300) * x
            excess = np.log(raw[here]) - trend
            power = (excess @ x) / max(x @ x, 1e-300)
            chance = special.polygamma(1, (self.runs - 1) / 2) / max(x @ x, 1e-300)
            power *= max(0.0, 1 - 4 * chance / max(power**2, 1e-300))
            smooth[here] = np.exp(excess.mean() + trend + power * x)
        return smooth

    def enough_for(self, call: str, parameters: int) -> Ensemble:
        """Return itself; raise ``ValueError`` unless there are more values than parameters."""
        if len(self.x) <= parameters:
            raise ValueError(
                f"{call}(budgets): {len(self.x)} unmasked values in the window for {parameters} parameters; at least "
                f"{parameters + 1} are needed"
            )
        return self


def leave_out(values: np.ndarray) -> np.ndarray:
    """Return the mean over runs, then the means without each run: (R, ...) -> (1 + R, ...)."""
    total, runs = values.sum(0), len(values)
    return np.concatenate([total[None] / runs, (total - values) / (runs - 1)])


def jackknife_interval(estimates: np.ndarray, level: float) -> tuple[float, float]:
    """Return the interval of (1 + R,) estimates, the first from all runs, by Student's quantile for R - 1 degrees."""
    runs = len(estimates) - 1
    error = np.sqrt((runs - 1) / runs * np.square(estimates[1:] - estimates[1:].mean()).sum())
    half = stats.t.ppf((1 + level) / 2, runs - 1) * error
    return float(estimates[0] - half), float(estimates[0] + half)


def mean_interval(values: np.ndarray, level: float) -> tuple[float, tuple[float, float]]:
    """Return the mean of R numbers, and its interval by Student's quantile for R - 1 degrees of freedom."""
    runs = len(values)
    mean = float(values.mean())
    half = float(stats.t.ppf((1 + level) / 2, runs - 1) * float(values.std(ddof=1)) / np.sqrt(runs))
    return mean, (mean - half, mean + half)
