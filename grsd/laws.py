r"""The shell law fitted to an ensemble of energy budgets, and the test that may refuse it.

The law (C4 of arXiv 2512.18209 in this project's operational form) is one of

.. math:: u(s) = [r +] c\, e^{(b-1)(s - s_0)}, \qquad
          K_{ab} = \frac{T_{ab}}{\sqrt{E_a E_b}} = \kappa(a-b)\, e^{(b-1)((s_a + s_b)/2 - s_0)} ,

s_0 a reference. Over R runs u is the ratio of sums, sum F / sum eps, since a density can come near zero; K is the mean
of the runs' own K, which for sharp shells is bounded by twice the norm of the rotation between the two. Runs are the
only independent units: every interval is a delete-one-run jackknife of the whole fit with Student's (or Hotelling's)
quantile on R - 1 degrees of freedom, and the test flips the sign of whole runs' residuals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import xarray as xr
from scipy import special, stats

from grsd.checks import whole

OBSERVABLES = ("coupling", "velocity")
LEAST_RUNS = 4
EXPONENTS = (-5.0, 7.0)
MOST_FLIPS = 4096


@dataclass(frozen=True)
class LawFit:
    """A fitted law. G = 1 for the velocity (c), G = k_max for the coupling (kappa(1) .. kappa(k_max)).

    Attributes:
        observable: "velocity" or "coupling".
        exponent, exponent_interval: b, dimensionless.
        amplitudes, amplitude_intervals: c or kappa (G,), (G, 2), each at ``level`` on its own; units 1 / time.
        log_amplitude_intervals: of log |c| or log |kappa| (G, 2); minus infinity to infinity where a sign is unsure.
        covariance: of the amplitudes (G, G), jackknife.
        scale, scale_interval: r of a common scale M' = r M, units 1 / time; None where it was not fitted.
        reference: s_0 in log eigenvalue, where the amplitudes are quoted.
        positions, separations: s (m,) and a - b (m,) of what was fitted (separation 0 for the velocity).
        values, standard_errors, fitted: (m,), 1 / time.
        runs, degrees_of_freedom: R and R - 1.
        conclusive: False where b ran into the end of its range, or where a free scale cannot be told from the law
            because the interval of b contains 1.
    """

    observable: str
    exponent: float
    exponent_interval: tuple[float, float]
    amplitudes: np.ndarray
    amplitude_intervals: np.ndarray
    log_amplitude_intervals: np.ndarray
    covariance: np.ndarray
    scale: float | None
    scale_interval: tuple[float, float] | None
    reference: float
    positions: np.ndarray
    separations: np.ndarray
    values: np.ndarray
    standard_errors: np.ndarray
    fitted: np.ndarray
    level: float
    runs: int
    degrees_of_freedom: int
    conclusive: bool

    def distance(self, amplitudes: Sequence[float] | np.ndarray) -> float:
        """Hotelling's T^2 of a vector of amplitudes (G,) from the estimate."""
        given = np.asarray(amplitudes, dtype=float)
        if given.shape != self.amplitudes.shape:
            raise ValueError(
                f"LawFit.distance(amplitudes): expected {len(self.amplitudes)} numbers, got {amplitudes!r}"
            )
        gap = given - self.amplitudes
        return float(gap @ np.linalg.solve(self.covariance, gap))

    @property
    def region(self) -> float:
        """The joint region: all amplitudes with ``distance`` at most this, G (R - 1) / (R - G) F(G, R - G)."""
        count, runs = len(self.amplitudes), self.runs
        return float(stats.f.ppf(self.level, count, runs - count) * count * (runs - 1) / (runs - count))

    def contains(self, amplitudes: Sequence[float] | np.ndarray) -> bool:
        """Whether the joint region at ``level`` contains these amplitudes, quoted at ``reference``."""
        return self.distance(amplitudes) <= self.region


@dataclass(frozen=True)
class LawTest:
    """The test of a law on one or several shell widths.

    Attributes:
        p: share of the sign patterns (the identity among them) whose statistic is at least the observed one.
        p_by_width: the same for each width alone.
        statistic: the largest over widths of |sum_r rho_r|^2, rho_r the runs' standardized residuals, less its mean
            over sign patterns and in units of its standard deviation over them.
        defect, defect_interval: D^2, the share of the squared observable that the law leaves unexplained, from products
            of different runs only (unbiased up to the fit; may be negative), and its jackknife interval at ``level``.
        flips: number of sign patterns; all 2^(R-1) of them up to 4096, so that p >= 1 / flips.
        fits: one ``LawFit`` a width.
        parameters, observations: fitted and observed numbers over all widths.
    """

    p: float
    p_by_width: tuple[float, ...]
    statistic: float
    defect: float
    defect_interval: tuple[float, float]
    flips: int
    fits: tuple[LawFit, ...]
    parameters: int
    observations: int


@dataclass(frozen=True)
class _Observed:
    """y (1 + R, m): of all runs, then with each run left out; x, group (m,); pumped (1 + R, m): what r multiplies."""

    y: np.ndarray
    x: np.ndarray
    group: np.ndarray
    separations: np.ndarray
    pumped: np.ndarray
    scaled: bool

    @property
    def runs(self) -> int:
        return len(self.y) - 1

    def pseudo(self) -> np.ndarray:
        return _pseudo(self.y)

    def variances(self) -> np.ndarray:
        """Of y: in each group a power law times the square of y's trend.

        R - 1 degrees of freedom are too few for raw weights, and weights that follow the noise cost coverage: the
        power is shrunk, to zero where it is under two standard errors of what chance alone would make of it.
        """
        raw = self.pseudo().var(axis=0, ddof=1) / self.runs
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


def velocity_law(
    budgets: Sequence[xr.Dataset],
    *,
    scale: bool = False,
    window: tuple[float, float] | None = None,
    reference: float | None = None,
    level: float = 0.95,
) -> LawFit:
    """Fit u = c e^{(b-1)(s - s_0)}, with ``scale`` u = r + c e^{(b-1)(s - s_0)}, to the velocities of R >= 4 runs.

    Args:
        budgets: one energy budget a run, over common shells, at matched states of the runs.
        scale: fit a common scale r besides; b near 1 is then not ``conclusive``.
        window: (low, high) in s of the boundaries used; all that no run masks otherwise. The law is to be judged at and
            below the frontier lambda t = 1, and away from the ends of the spectrum.
        reference: s_0; the middle of what is fitted otherwise. Far from the data c inherits the error of b.
        level: of the intervals.

    Source: this project's; theory in README.md. Cost: negligible.
    Errors: ``ValueError`` for fewer than 4 runs, no common unmasked boundary, or fewer than one more than parameters.
    """
    observed = _observe("velocity_law", budgets, "velocity", scale=scale, window=window)
    return _fit_law("velocity", observed, reference, level)


def coupling_law(
    budgets: Sequence[xr.Dataset],
    *,
    k_max: int = 2,
    scale: bool = False,
    window: tuple[float, float] | None = None,
    reference: float | None = None,
    level: float = 0.95,
) -> LawFit:
    """Fit K_ab = kappa(a-b) e^{(b-1)((s_a+s_b)/2 - s_0)}, 1 <= a - b <= k_max, to the couplings of R >= 4 runs.

    K is the mean over runs of T_ab / sqrt(E_a E_b). The end shells, which reach to infinity, are left out; ``window``
    must contain both shells of a pair whole. A common scale adds r eps(s) / sqrt(E_a E_b) to neighbours (exactly, where
    no eigenvalue sits in three windows) and is fitted so. Other arguments and errors as in ``velocity_law``; k_max must
    be under R, or the joint region has no degrees of freedom.
    """
    observed = _observe("coupling_law", budgets, "coupling", k_max=k_max, scale=scale, window=window)
    return _fit_law("coupling", observed, reference, level)


def law_test(
    budgets: Sequence[xr.Dataset] | Sequence[Sequence[xr.Dataset]],
    *,
    observable: str = "coupling",
    k_max: int = 2,
    scale: bool = False,
    window: tuple[float, float] | None = None,
    level: float = 0.95,
) -> LawTest:
    """Test whether couplings (or velocities) follow the law, from R >= 4 runs (R >= 6 for p < .05).

    Args: ``budgets`` is one ensemble, or one for each of several shell widths over the same runs in the same order. One
    width can never exclude a log-periodic law of its own period; two incommensurate widths can (log 2 and log 3), with
    a smoothing of at most .15 periods. Each width is fitted by itself; the residuals are judged together.

    Each run's pseudo-values, less the fit and with the fit's tangent space projected out, are standardized by smoothed
    errors. Under the law they are independent with mean zero; where they are symmetric as well, flipping whole runs is
    exact. The defect uses products of different runs, which is what splitting the runs into halves does, over all
    halves. The velocity is local in s and the sharper observable; couplings average a wave over the shells' width, and
    one shorter than about 1.5 widths is hardly seen in them.

    Source: this project's. Cost: negligible. Errors: as in ``coupling_law``.
    """
    if observable not in OBSERVABLES:
        raise ValueError(f"law_test(observable=...): expected one of {OBSERVABLES}, got {observable!r}")
    widths = [budgets] if len(budgets) and isinstance(budgets[0], xr.Dataset) else list(budgets)
    if not widths or len({len(item) for item in widths}) != 1:
        raise ValueError("law_test(budgets): expected the same number of runs at every width")
    options = {"k_max": k_max, "scale": scale, "window": window}
    observed = [_observe("law_test", item, observable, **options) for item in widths]
    fits = [_fit_law(observable, item, None, level) for item in observed]
    parts = [_standardize(item, fit) for item, fit in zip(observed, fits, strict=True)]
    signs = _signs(len(widths[0]))
    totals = np.stack([np.square(signs @ residuals).sum(1) for residuals, _ in parts])
    scores = (totals - totals.mean(1, keepdims=True)) / totals.std(1, keepdims=True)
    residuals, signals = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    defect, interval = _defect(residuals @ residuals.T, signals @ signals.T, level)
    return LawTest(
        p=_share(scores.max(0)),
        p_by_width=tuple(_share(row) for row in scores),
        statistic=float(scores[:, 0].max()),
        defect=defect,
        defect_interval=interval,
        flips=len(signs),
        fits=tuple(fits),
        parameters=sum(1 + len(fit.amplitudes) + (fit.scale is not None) for fit in fits),
        observations=residuals.shape[1],
    )


def _observe(
    call: str,
    budgets: Sequence[xr.Dataset],
    observable: str,
    *,
    k_max: int = 1,
    scale: bool = False,
    window: tuple[float, float] | None = None,
) -> _Observed:
    low, high = (-np.inf, np.inf) if window is None else window
    if not low < high:
        raise ValueError(f"{call}(window=...): expected (low, high) in log lambda, low < high, got {window!r}")
    if len(budgets) < LEAST_RUNS:
        raise ValueError(f"{call}(budgets): expected at least {LEAST_RUNS} runs, got {len(budgets)}")
    whole(call, "k_max", k_max, 1)
    if k_max >= len(budgets):
        raise ValueError(f"{call}(k_max=...): expected fewer than the {len(budgets)} runs, got {k_max}")
    first = budgets[0]
    for budget in budgets:
        if "coupling" not in budget or budget.energy.ndim != 1:
            raise ValueError(f"{call}(budgets): expected energy budgets of one snapshot each, with a rate")
        if any(budget.attrs[name] != first.attrs[name] for name in ("shell_width", "smoothing")):
            raise ValueError(f"{call}(budgets): expected one shell width and one smoothing in all runs")
    index = _common([budget.shell_index.values for budget in budgets])
    shells = [np.searchsorted(budget.shell_index.values, index) for budget in budgets]
    edges = [np.searchsorted(budget.shell_index.values, index[1:]) - 1 for budget in budgets]
    width = first.attrs["shell_width"]

    def stack(name: str, places: list[np.ndarray]) -> np.ndarray:
        return np.stack([budget[name].values[at] for budget, at in zip(budgets, places, strict=True)])

    boundary = index[1:] * width
    density = stack("density", edges)
    edge_kept = (stack("boundary_mask", edges) == 0).all(0) & (boundary >= low) & (boundary <= high)
    if observable == "velocity":
        flux = stack("flux", edges)[:, edge_kept]
        density = density[:, edge_kept]
        y = _leave_out(flux) / _leave_out(density)
        group = separations = np.zeros(edge_kept.sum(), dtype=int)
        x, ones = boundary[edge_kept], np.ones_like(y)
        observed = _Observed(y, x, group, separations, ones, scale)
    else:
        energy = stack("energy", shells)
        coupling = np.stack(
            [budget.coupling.values[np.ix_(at, at)] for budget, at in zip(budgets, shells, strict=True)]
        )
        kept = (stack("mask", shells) == 0).all(0)
        kept &= (index * width >= low - 1e-9) & ((index + 1) * width <= high + 1e-9)
        ends = [(at == 0) | (at == len(b.shell_index) - 1) for b, at in zip(budgets, shells, strict=True)]
        kept &= ~np.any(ends, axis=0)
        lower, upper = np.nonzero(np.triu(kept[:, None] & kept[None, :], 1))
        apart = index[upper] - index[lower]
        near = apart <= k_max
        lower, upper, apart = lower[near], upper[near], apart[near]
        y = _ratio(coupling[:, upper, lower], energy, upper, lower)
        pumped = np.where(apart == 1, density[:, np.minimum(lower, density.shape[1] - 1)], 0.0)
        x = (index[lower] + index[upper] + 1) * width / 2
        group = np.searchsorted(np.unique(apart), apart)
        observed = _Observed(y, x, group, apart, _ratio(pumped, energy, upper, lower), scale)
        if len(np.unique(apart)) < k_max:
            raise ValueError(f"{call}(k_max={k_max}): no unmasked pair of shells for some separation in the window")
    parameters = len(np.unique(observed.group)) + 1 + scale
    if len(observed.x) <= parameters:
        raise ValueError(
            f"{call}(budgets): {len(observed.x)} unmasked values in the window for {parameters} parameters; at least "
            f"{parameters + 1} are needed"
        )
    return observed


def _common(indices: list[np.ndarray]) -> np.ndarray:
    low, high = max(item[0] for item in indices), min(item[-1] for item in indices)
    return np.arange(low, high + 1)


def _leave_out(values: np.ndarray) -> np.ndarray:
    """(R, ...) -> (1 + R, ...): the mean, then the mean without each run."""
    total, runs = values.sum(0), len(values)
    return np.concatenate([total[None] / runs, (total - values) / (runs - 1)])


def _ratio(numerator: np.ndarray, energy: np.ndarray, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    return _leave_out(numerator / np.sqrt(energy[:, upper] * energy[:, lower]))


def _pseudo(estimates: np.ndarray) -> np.ndarray:
    """(1 + R, ...) -> (R, ...): the jackknife's pseudo-values."""
    runs = len(estimates) - 1
    return runs * estimates[:1] - (runs - 1) * estimates[1:]


def _solve(observed: _Observed, weights: np.ndarray, reference: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """b (n,), amplitudes (n, G), r (n,) by variable projection: b on nested grids, the rest linear given b."""
    y, z = observed.y, observed.pumped
    groups = np.arange(observed.group.max() + 1)
    member = (observed.group[None, :] == groups[:, None]).astype(float)

    def project(slope: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shape = np.exp(slope[:, :, None] * (observed.x - reference))
        norm = np.einsum("ngm,m,Gm->ngG", shape**2, weights, member)
        along = np.einsum("ngm,nm,Gm->ngG", shape, weights * y, member) / norm
        cost = (weights * y**2).sum(-1)[:, None] - (along**2 * norm).sum(-1)
        r = np.zeros_like(cost)
        if observed.scaled:
            z_along = np.einsum("ngm,nm,Gm->ngG", shape, weights * z, member) / norm
            zz = (weights * z**2).sum(-1)[:, None] - (z_along**2 * norm).sum(-1)
            zy = (weights * z * y).sum(-1)[:, None] - (z_along * along * norm).sum(-1)
            fine = zz > 1e-10 * (weights * z**2).sum(-1)[:, None]
            r = np.where(fine, zy / np.where(fine, zz, 1.0), 0.0)
            cost = cost - r * np.where(fine, zy, 0.0)
            along = along - r[..., None] * z_along
        return cost, along, r

    rows = np.arange(len(y))
    low, high = EXPONENTS[0] - 1, EXPONENTS[1] - 1
    slope = np.broadcast_to(np.linspace(low, high, 241), (len(y), 241))
    step = (high - low) / 240
    for _ in range(6):
        best = project(slope)[0].argmin(1)
        centre = slope[rows, best]
        slope = np.clip(centre[:, None] + step * np.linspace(-1, 1, 21), low, high)
        step /= 10
    _, amplitudes, r = project(centre[:, None])
    return centre + 1, amplitudes[:, 0], r[:, 0]


def _fit_law(observable: str, observed: _Observed, reference: float | None, level: float) -> LawFit:
    if not 0 < level < 1:
        raise ValueError(f"{observable}_law(level=...): expected a number between 0 and 1, got {level!r}")
    if reference is None:
        reference = float((observed.x.min() + observed.x.max()) / 2)
    variances = observed.variances()
    b, amplitudes, r = _solve(observed, 1 / variances, reference)
    runs = observed.runs
    quantile = stats.t.ppf((1 + level) / 2, runs - 1)

    def interval(estimates: np.ndarray) -> tuple[float, float]:
        half = quantile * np.sqrt((runs - 1) / runs * np.square(estimates[1:] - estimates[1:].mean()).sum())
        return float(estimates[0] - half), float(estimates[0] + half)

    logs = []
    for column in amplitudes.T:
        sure = (np.sign(column) == np.sign(column[0])).all() and column[0] != 0
        logs.append(interval(np.log(np.abs(column))) if sure else (-np.inf, np.inf))
    of_b = interval(b)
    fitted = amplitudes[0][observed.group] * np.exp((b[0] - 1) * (observed.x - reference))
    scaled = observed.scaled
    if scaled:
        fitted = fitted + r[0] * observed.pumped[0]
    inside = ((b > EXPONENTS[0] + 1e-6) & (b < EXPONENTS[1] - 1e-6)).all()
    spread = amplitudes[1:] - amplitudes[1:].mean(0)
    return LawFit(
        observable=observable,
        exponent=float(b[0]),
        exponent_interval=of_b,
        amplitudes=amplitudes[0],
        amplitude_intervals=np.array([interval(column) for column in amplitudes.T]),
        log_amplitude_intervals=np.array(logs),
        covariance=(runs - 1) / runs * spread.T @ spread,
        scale=float(r[0]) if scaled else None,
        scale_interval=interval(r) if scaled else None,
        reference=reference,
        positions=observed.x,
        separations=observed.separations,
        values=observed.y[0],
        standard_errors=np.sqrt(variances),
        fitted=fitted,
        level=level,
        runs=runs,
        degrees_of_freedom=runs - 1,
        conclusive=bool(inside and not (scaled and of_b[0] <= 1 <= of_b[1])),
    )


def _standardize(observed: _Observed, fit: LawFit) -> tuple[np.ndarray, np.ndarray]:
    """(R, m) residuals off the fit's tangent space, and (R, m) pseudo-values, in units of the standard errors."""
    shape = np.exp((fit.exponent - 1) * (observed.x - fit.reference))
    member = observed.group[:, None] == np.arange(len(fit.amplitudes))
    law = fit.amplitudes[observed.group] * shape
    columns = [*(shape[:, None] * member).T, law * (observed.x - fit.reference)]
    if observed.scaled:
        columns.append(observed.pumped[0])
    tangent, _ = np.linalg.qr(np.stack(columns, axis=1) / fit.standard_errors[:, None])
    pseudo = observed.pseudo()
    residuals = (pseudo - fit.fitted) / fit.standard_errors
    return residuals - residuals @ tangent @ tangent.T, pseudo / fit.standard_errors


def _share(scores: np.ndarray) -> float:
    return float(np.mean(scores >= scores[0] - 1e-9))


def _signs(runs: int) -> np.ndarray:
    """(flips, R), the identity first: all sign patterns up to a common sign, or 4096 drawn ones."""
    if 2 ** (runs - 1) <= MOST_FLIPS:
        return np.array([(1, *rest) for rest in product((1, -1), repeat=runs - 1)], dtype=float)
    drawn = np.random.default_rng(0).choice([-1.0, 1.0], size=(MOST_FLIPS, runs))
    drawn[0] = 1
    return drawn


def _defect(residual_gram: np.ndarray, signal_gram: np.ndarray, level: float) -> tuple[float, tuple[float, float]]:
    """sum over r != q of rho_r . rho_q / the same of the pseudo-values, and its delete-one-run jackknife interval."""

    def crossed(gram: np.ndarray) -> np.ndarray:
        off = gram - np.diag(np.diag(gram))
        return np.concatenate([[off.sum()], off.sum() - 2 * off.sum(1)])

    estimates = crossed(residual_gram) / crossed(signal_gram)
    runs = len(residual_gram)
    error = np.sqrt((runs - 1) / runs * np.square(estimates[1:] - estimates[1:].mean()).sum())
    half = stats.t.ppf((1 + level) / 2, runs - 1) * error
    return float(estimates[0]), (float(estimates[0] - half), float(estimates[0] + half))
