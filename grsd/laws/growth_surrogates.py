"""Ensembles in which it is known what is common to the runs beyond growth: the control and the power of D_0^2."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from grsd.laws.beyond import NEGLIGIBLE
from grsd.laws.crossed import crossed_values
from grsd.laws.ensemble import mean_interval
from grsd.laws.growth_pairs import crossed, growth_pairs
from grsd.support.arguments import integers
from grsd.support.values import flag, number, seed_of, whole_number

OUTCOMES = ("growth only", "inconclusive", "beyond growth")
MOST_DRAWN = 1_000_000


def growth_surrogate(
    ensemble: Sequence[xr.Dataset],
    seed: int,
    *,
    window: tuple[float, float] | None = None,
    k_max: int = 2,
    enlarged: bool = False,
) -> list[xr.Dataset]:
    """Return budgets in which nothing but growth is common to the runs: r_i M, and the remainder of a random sign.

    Run i keeps its energies and its growth r_i; what its couplings and fluxes have beyond r_i, its own measured
    remainder, is multiplied by a sign drawn for the run. So the spread of the runs is as measured, while the remainder
    vanishes in the mean: the right verdict of ``beyond_growth`` is "growth only". Signs cancel to about 1 / R, so with
    24 runs an ensemble whose D_0^2 is above .1 may be "inconclusive" instead; "beyond growth" would be wrong.

    Args:
        ensemble, window, k_max: as for ``beyond_growth``, whose ``rates`` are the r_i.
        enlarged: shift all r_i by one number, so that growth alone gives couplings as large as those that the runs have
            in common. Where kernels hardly grow, little is common to the runs otherwise, and nothing can be decided.

    Returns: budgets without the variables that depend on M' in other ways (``drift``, ``operator``).
    """
    call = "growth_surrogate"
    rng = np.random.default_rng(seed_of(call, "seed", seed))
    enlarged = flag(call, "enlarged", enlarged)
    found = growth_pairs(call, ensemble, k_max, window)[0]
    rates, own = (found.common_rates() if enlarged else found.rates()), found.rates()
    signs = rng.choice([-1.0, 1.0], len(rates))
    made = []
    for budget, r, own_rate, sign in zip(ensemble, rates, own, signs, strict=True):
        grown = {
            "coupling": budget.scale_coupling,
            "flux": budget.density,
            "flux_crossing": budget.density,
            "flux_rotation": 0 * budget.density,
            "velocity": 1 + 0 * budget.density,
        }
        changed = {}
        for name in [name for name in grown if name in budget]:
            part = r * grown[name] + sign * (budget[name] - own_rate * grown[name])
            changed[name] = part.transpose(*budget[name].dims).assign_attrs(budget[name].attrs)
        made.append(budget.drop_vars(["drift", "operator", "operator_normalized"], errors="ignore").assign(changed))
    return made


def growth_power(
    ensemble: Sequence[xr.Dataset],
    runs: Sequence[int],
    *,
    share: float = 0.0,
    window: tuple[float, float] | None = None,
    k_max: int = 2,
    draws: int = 200,
) -> xr.Dataset:
    """Estimate how often D_0^2 is decided in ensembles of ``runs`` runs, if its true value is ``share``.

    Simulated runs take the growth of a measured run drawn at random, ``enlarged`` as in ``growth_surrogate``, and a
    normal remainder with the measured covariance, whose mean has the measured shape, scaled to ``share``.

    Args: ``ensemble`` of R >= 4 runs, ``window`` and ``k_max`` as for ``beyond_growth``; ``runs``: sizes, 8 or more;
    ``share`` from 0 to .9. ``draws``: ensembles per size.
    Returns: ``outcome_share(runs, outcome)`` of the draws that are "growth only", "inconclusive" or "beyond growth" by
    the interval of D_0^2 at 95 %, and ``half_width(runs)``, its median.
    """
    call = "growth_power"
    runs, share = integers(call, "runs", runs, low=8), number(call, "share", share, 0.0, 0.9)
    whole_number(call, "draws", draws, 1)
    if max(runs) * draws > MOST_DRAWN:
        raise ValueError(f"{call}(runs, draws): expected at most {MOST_DRAWN} runs drawn, got {max(runs) * draws}")
    found = growth_pairs(call, ensemble, k_max, window)[0]
    rest = found.without_growth(found.coupling)
    grown = found.common_rates()[:, None] * found.growth
    mean, spread = rest.mean(0), (rest - rest.mean(0)) / np.sqrt(len(rest) - 1)
    common = crossed(grown)
    if not (mean.any() and common > 0):
        raise ValueError(f"{call}(ensemble): expected a remainder other than 0 and couplings common to the runs")
    mean = mean * np.sqrt(share / (1 - share) * common / (mean @ mean))
    rng = np.random.default_rng(0)
    counts, half = np.zeros((len(runs), len(OUTCOMES))), np.zeros((len(runs), draws))
    for row, count in enumerate(runs):
        for draw in range(draws):
            own = mean + rng.normal(size=(count, len(spread))) @ spread
            whole = own + grown[rng.integers(len(grown), size=count)]
            low, high = mean_interval(crossed_values(own @ own.T, whole @ whole.T), 0.95)[1]
            counts[row, 0 if high <= NEGLIGIBLE else 2 if low > NEGLIGIBLE else 1] += 1
            half[row, draw] = (high - low) / 2
    data = {"outcome_share": (("runs", "outcome"), counts / draws), "half_width": ("runs", np.median(half, axis=1))}
    return xr.Dataset(data, {"runs": list(runs), "outcome": list(OUTCOMES)}, {"draws": draws, "share": share})
