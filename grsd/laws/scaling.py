"""A power law with an offset in anyone's table, beside the rival laws that the same table would allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from grsd.laws.alternatives import designs, predict
from grsd.laws.ensemble import jackknife_interval, leave_out
from grsd.laws.power_law import LARGEST_EXPONENT, Profile, Table
from grsd.shells.common import LEAST_RUNS
from grsd.support.arguments import LARGEST, SMALLEST, vector
from grsd.support.values import between, level_of, number, said, seed_of

CALL = "fit_power_law"
LEAST_POINTS = 6
RIVALS = ("exponential", "log-parabola", "broken power law")
PARAMETERS = {"exponential": 3, "log-parabola": 3, "broken power law": 4}
ALPHA = 0.05
NESTED = ("log-parabola", "broken power law")  # contain a power law without offset
REFITS = 4  # of the fit whose values the relative errors follow
PERMUTATIONS, MOST_DRAWS = 999, 10_000
ROUNDING = 1e-16  # of the sum of squares of the table, below which residuals mean nothing


@dataclass(frozen=True)
class PowerLawFit:
    """A fitted y = a x^-b + c.

    Attributes:
        exponent, amplitude, offset: b, a, c; ``..._interval``: each at ``level`` on its own; infinite ends are not
            bounded by the table. Units: none, those of y x^b, those of y.
        verdict: "power law", if every rival law is refused by the table and the power law is not; "another law", if
            it is refused beside one; "not told apart" from the rivals that the reason names; "not determined", if the
            table does not bound b.
        reason: one sentence with the numbers.
        rival_p: by rival, the share of tables drawn from that rival law that speak for the power law as clearly as
            this one does: small where the rival is refused. ``law_p``: the same with the two exchanged.
        residual_p: p-value of neighbouring residuals hanging together; below .05 intervals are too short.
        points, runs: of the table; ``x``, ``y``, ``fitted``: (n,), by increasing x.
    """

    exponent: float
    exponent_interval: tuple[float, float]
    amplitude: float
    amplitude_interval: tuple[float, float]
    offset: float
    offset_interval: tuple[float, float]
    level: float
    verdict: str
    reason: str
    rival_p: dict[str, float]
    law_p: dict[str, float]
    residual_p: float
    points: int
    runs: int
    x: np.ndarray
    y: np.ndarray
    fitted: np.ndarray
    _profiles: tuple[Profile, ...] = field(repr=False)

    def __str__(self) -> str:
        names = ("exponent", "amplitude", "offset")
        values = [(name, getattr(self, name), getattr(self, f"{name}_interval")) for name in names]
        parts = [f"{name} {value:.4g} [{low:.4g}, {high:.4g}]" for name, value, (low, high) in values]
        return f"{self.verdict}: {', '.join(parts)}; {self.reason}"

    def predict(self, x: Sequence[float] | np.ndarray) -> xr.Dataset:
        """Return ``y`` of the law at x (m,), with ``low`` and ``high`` at ``level``: of the law, without new noise."""
        call = "PowerLawFit.predict"
        at = vector(call, "x", x, low=SMALLEST)
        first, *rest = self._profiles
        if rest:
            each = np.array([own.values(np.array([own.b]), at)[0][0] for own in self._profiles])
            value = each[0]
            low, high = np.array([jackknife_interval(column, self.level) for column in each.T]).T
        else:
            value, low, high = first.around(at)
        names = {"y": value, "low": low, "high": high}
        return xr.Dataset({name: ("x", found) for name, found in names.items()}, {"x": at}, {"level": self.level})


def fit_power_law(
    x: Sequence[float] | np.ndarray,
    y: Sequence[float] | Sequence[Sequence[float]] | np.ndarray,
    *,
    errors: Sequence[float] | np.ndarray | None = None,
    offset: float | None = None,
    level: float = 0.95,
    draws: int = 199,
    seed: int = 0,
) -> PowerLawFit:
    """Fit y = a x^-b + c, 0 <= b <= 10, to a table, with intervals and with the rival laws it cannot exclude.

    Args:
        x: (n,) positive, n >= 6 different values. y: (n,) positive, one value each, whose errors are independent;
            or (R, n), R >= 4 independent runs over the same x, such as learning curves, which are never independent
            along x: then only runs count as units.
        errors: (n,) standard errors of y up to a common factor; ``None``: in proportion to the law.
        offset: c if it is known, 0 for a pure power law; ``None``: it is fitted.
        level: of the intervals. draws: simulated tables for each comparison with a rival. seed: of these.

    Rivals: an exponential with the same offset; a log-parabola; a power law with a break. Each is compared by the ratio
    of the sums of squares, judged against tables drawn from either law (Cox 1961, Williams 1970): a table that is too
    short or too noisy does not tell them apart, and the verdict says so. With a given offset the last two contain the
    power law, which then stands unless it is refused beside them.
    Cost: about .3 s. Errors: ``TypeError`` or ``ValueError`` in one line for other shapes, values that are not
    positive, repeated x, too few points or runs, or a table without any variation.
    """
    level = level_of(CALL, level)
    between(f"{CALL}(draws=...)", draws, 19, MOST_DRAWS, "more tell nothing new")
    seed_of(CALL, "seed", seed)
    x, rows, scale = _table(x, y, errors)
    if offset is not None:
        offset = number(CALL, "offset", offset, -LARGEST, LARGEST)
        if not (rows > offset).all():
            raise ValueError(
                f"{CALL}(offset={offset:g}): expected an offset below every y, the least is {rows.min():g}"
            )
    mean = rows.mean(0)
    table = Table(x, scale if scale is not None else mean, offset)
    for _ in range(REFITS if scale is None else 0):
        fitted = table.best("power", mean[None])[2][0]
        table = Table(x, np.maximum(fitted, mean / 2), offset)
    sets = mean[None] if len(rows) == 1 else leave_out(rows)
    profiles = tuple(Profile.of(table, one, level) for one in sets)
    found = _values(profiles, level)
    _, squares, fitted = table.best("power", mean[None])
    floor = ROUNDING * float(np.square(mean / table.scale).sum())
    rival_p, law_p, best = _against_rivals(table, rows, fitted[0], float(squares[0]), floor, draws, seed)
    exact = float(squares[0]) <= 100 * floor
    residual_p = 1.0 if exact else _hang_together((mean - fitted[0]) / table.scale, seed)
    ends = (found["exponent"][1][0] <= 0, not found["exponent"][1][1] < LARGEST_EXPONENT)
    nested = () if offset is None else NESTED
    verdict, reason = _judged(rival_p, law_p, best, ends, residual_p, len(rows), nested)
    values = {
        key: part for name, pair in found.items() for key, part in zip((name, f"{name}_interval"), pair, strict=True)
    }
    return PowerLawFit(
        **values, level=level, verdict=verdict, reason=reason, rival_p=rival_p, law_p=law_p, residual_p=residual_p,
        points=len(x), runs=len(rows), x=x, y=mean, fitted=fitted[0], _profiles=profiles,
    )  # fmt: skip


def _table(x: object, y: object, errors: object) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return x (n,) increasing, y (R, n), errors (n,) or None; refuse what is no table."""
    x = vector(CALL, "x", x, LEAST_POINTS, SMALLEST, wanted="positive numbers (n,)")
    try:
        rows = np.asarray(y.detach().cpu() if hasattr(y, "detach") else y)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        rows = np.empty(0, dtype=object)
    if rows.dtype.kind not in "iuf" or rows.ndim not in (1, 2) or rows.shape[-1] != len(x):
        raise ValueError(f"{CALL}(y): expected numbers ({len(x)},) or (runs, {len(x)}), as x has, got {said(y)}")
    rows = np.atleast_2d(rows).astype(float)
    if not ((rows >= SMALLEST) & (rows <= 1 / SMALLEST)).all():
        raise ValueError(f"{CALL}(y): expected positive finite numbers, got {said(rows.ravel()[np.argmin(rows > 0)])}")
    if 1 < len(rows) < LEAST_RUNS:
        raise ValueError(
            f"{CALL}(y): expected one run or at least {LEAST_RUNS}, for intervals over runs, got {len(rows)}"
        )
    order = np.argsort(x)
    x, rows = x[order], rows[:, order]
    if (np.diff(x) <= 0).any():
        raise ValueError(
            f"{CALL}(x): expected different values, {x[:-1][np.diff(x) <= 0][0]:g} occurs twice; take means"
        )
    if np.ptp(rows.mean(0)) <= 1e-12 * rows.max():
        raise ValueError(f"{CALL}(y): expected values that change with x, all are {rows[0, 0]:g}")
    if errors is None:
        return x, rows, None
    if len(rows) > 1:
        raise ValueError(f"{CALL}(errors=...): expected None with several runs, whose spread gives the errors")
    scale = vector(CALL, "errors=...", errors, len(x), SMALLEST, wanted=f"positive numbers ({len(x)},)")
    if len(scale) != len(x):
        raise ValueError(f"{CALL}(errors=...): expected {len(x)} numbers, one for each y, got {len(scale)}")
    return x, rows, scale[order]


def _values(profiles: tuple[Profile, ...], level: float) -> dict[str, tuple[float, tuple[float, float]]]:
    """(value, interval) of exponent, amplitude and offset: by the profile, or by a jackknife over runs."""
    first, *rest = profiles
    if not rest:
        (c,), (low,), (high,) = first.around(None) if first.table.offset is None else [[first.table.offset]] * 3
        return {
            "exponent": (first.b, first.exponent()),
            "amplitude": first.amplitude(),
            "offset": (float(c), (float(low), float(high))),
        }
    columns = zip(*(own.point() for own in profiles), strict=True)
    each = dict(zip(("exponent", "amplitude", "offset"), columns, strict=True))
    return {name: (column[0], jackknife_interval(np.array(column), level)) for name, column in each.items()}


def _against_rivals(
    table: Table, rows: np.ndarray, fitted: np.ndarray, squares: float, floor: float, draws: int, seed: int
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """(p-values of the rivals, of the law beside each, sums of squares of the rivals over that of the law)."""
    rng, mean, runs, points = np.random.default_rng(seed), rows.mean(0), len(rows), len(table.x)

    def drawn(centre: np.ndarray, least: float, parameters: int) -> np.ndarray:
        if runs > 1:
            weights = rng.standard_normal((draws, runs)) / math.sqrt(runs * (runs - 1))
            return centre + weights @ (rows - mean)
        sigma = math.sqrt(least / max(1, points - parameters))
        return centre + sigma * table.scale * rng.standard_normal((draws, points))

    def ratio(rival: str, y: np.ndarray) -> np.ndarray:
        return np.log((_rival(table, rival, y)[0] + floor) / (table.best("power", y)[1] + floor))

    rival_p, law_p, shares = {}, {}, {}
    for rival in RIVALS:
        (least,), (centre,) = _rival(table, rival, mean[None])
        seen = np.log((least + floor) / (squares + floor))
        shares[rival] = float(np.exp(seen))
        against = ratio(rival, drawn(centre, least + floor, PARAMETERS[rival]))
        rival_p[rival] = float((1 + (against >= seen).sum()) / (1 + draws))
        favour = ratio(rival, drawn(fitted, squares + floor, table.free))
        law_p[rival] = float((1 + (favour <= seen).sum()) / (1 + draws))
    return rival_p, law_p, shares


def _rival(table: Table, rival: str, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(sums of squares (D,), fitted values (D, n)) of a rival law for each row of y (D, n)."""
    if rival == "exponential":
        _, squares, fitted = table.best("exponential", y)
        return squares, fitted
    base = table.offset or 0.0
    above = np.maximum(y - base, 1e-6 * np.abs(y).max())
    weights = np.square(above.mean(0) / table.scale)
    fitted = base + np.exp(predict(np.stack(list(designs(rival, np.log(table.x)))), weights, np.log(above)))
    return np.square((y - fitted) / table.scale).sum(-1), fitted


def _hang_together(residuals: np.ndarray, seed: int) -> float:
    """The p-value of neighbouring residuals having the same sign and size more than in any order."""
    rng = np.random.default_rng(seed)
    orders = rng.permuted(np.tile(residuals, (PERMUTATIONS, 1)), axis=1)
    seen, chance = (residuals[1:] * residuals[:-1]).sum(), (orders[:, 1:] * orders[:, :-1]).sum(1)
    return float((1 + (chance >= seen).sum()) / (1 + PERMUTATIONS))


def _judged(
    rival_p: dict[str, float],
    law_p: dict[str, float],
    shares: dict[str, float],
    ends: tuple[bool, bool],
    residual_p: float,
    runs: int,
    nested: tuple[str, ...],
) -> tuple[str, str]:
    """Return the verdict and its reason; a ``nested`` rival contains the power law, which stands unless refused."""
    refused = [rival for rival in RIVALS if law_p[rival] <= ALPHA / len(RIVALS)]
    apart = [rival for rival in RIVALS if rival not in nested]
    close = [rival for rival in apart if rival_p[rival] > ALPHA]
    also = ""
    if residual_p <= ALPHA and runs == 1:
        also = f"; neighbouring residuals hang together, p = {residual_p:.3f}, so that the intervals are too short"
    if refused:
        rival = min(refused, key=shares.get)
        less = f"which leaves {shares[rival]:.2g} of its squares"
        return "another law", f"the power law is refused beside the {rival}, {less}, p = {law_p[rival]:.3f}{also}"
    if any(ends):
        what = "0, a logarithm" if ends[0] else f"{LARGEST_EXPONENT:g}, the largest allowed"
        return "not determined", f"the interval of b reaches {what}: the table is too short or too noisy{also}"
    if close:
        names = " and the ".join(f"{rival}, p = {rival_p[rival]:.2f}," for rival in close).removesuffix(",")
        return "not told apart", f"the table does not exclude the {names}; more decades of x would{also}"
    worst = max(rival_p[rival] for rival in apart)
    straight = ", and asks for no bend" if nested else ""
    return "power law", f"the table refuses the {', the '.join(apart)}, p <= {worst:.3f}{straight}{also}"
