r"""Condition 4: log-shift invariance of the renormalized couplings between shells.

The condition is named by arXiv 2512.18209; what is measured and how it is judged is this project's. With
K_ab = T_ab / sqrt(E_a E_b) over runs at one matched loss, at and below the frontier lambda t = 1,

.. math:: K_{ab} = \kappa(a - b)\, e^{(b - 1)(s_a + s_b)/2} \, ,

and the defect D^2 is the share of the squared couplings that the best such law leaves unexplained (``grsd.laws``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from grsd.evidence import Rule
from grsd.laws import LawTest, judge_observed, observe, resampled
from grsd.laws.ensemble import Ensemble
from grsd.runs import Spec, at_width, ensemble
from grsd.support.arguments import dataset, integers, listed, required_window
from grsd.support.provenance import provenance
from grsd.support.values import flag, number, positive, real, whole

WIDTHS = (math.log(2), math.log(3))
SMOOTHING = 0.1
LEAST_RUNS = 8
LEAST_OBSERVED, MOST_DRAWN = 4, 1_000_000
MADE = "it with invariance.measure(specs)"
RULE = Rule(
    statistic="D^2 of the couplings",
    direction="at most",
    threshold=0.04,
    reason="a law that leaves 4 % of the squared couplings unexplained is followed within 20 % in root mean square",
)
LINEAR = ("energy", "dissipation", "modes", "density", "coupling", "scale_coupling", "drift", "flux", "flux_crossing")
MASKS = ("mask", "boundary_mask")
LOG_LOSS = "log of the loss over the loss at time 0"


@dataclass(frozen=True)
class Invariance:
    """Whether the couplings collapse.

    Attributes:
        verdict: "holds", "fails" or "inconclusive".
        defect, interval: D^2 and its 95 % jackknife interval over runs.
        p: of the sign flips, all widths together; the smallest possible is 2^(1 - runs).
        exponents, exponent_intervals: b fitted at each width.
        window: (low, high) in log eigenvalue of what was judged. ``runs``: R. ``test``: everything else.
    """

    verdict: str
    defect: float
    interval: tuple[float, float]
    p: float
    exponents: tuple[float, ...]
    exponent_intervals: tuple[tuple[float, float], ...]
    window: tuple[float, float]
    runs: int
    test: LawTest

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.verdict}: D^2 = {self.defect:.3f} [{low:.3f}, {high:.3f}], p = {self.p:.3f}, {self.runs} runs"


def measure(
    specs: Sequence[Spec], *, log_loss: float = -2.0, workers: int | None = None, progress: bool | None = None
) -> xr.Dataset:
    """The energy budgets of several runs where each has brought its loss to e^``log_loss`` of that at time 0.

    Args:
        specs: the runs (``Spec.with_seeds``), measured at one or several shell widths; kept as ``grsd.ensemble`` does.
        log_loss: natural log of loss / loss at time 0, negative. Between the two snapshots around it everything is
            interpolated linearly in this log; the flows pass it at different ``time(run)``.

    Returns: the variables of ``energy_budget`` over (run, ...), on the shells that all runs reach, the second width's
    with names that end in ``_2`` as in ``at_width``; ``seed(run)``, ``time(run)``; provenance in the attributes.
    Errors: ``ValueError`` for no runs, or a run whose snapshots do not bracket that loss; as ``grsd.ensemble``.
    """
    specs = list(specs)
    if not specs:
        raise ValueError("invariance.measure(specs): expected at least one grsd.Spec, got none")
    found = ensemble(specs, workers=workers, threads=1, progress=progress)
    parts = [at_loss(run, log_loss, spec) for run, spec in zip(found, specs, strict=True)]
    edges = [name for name in parts[0].coords if str(name).startswith(("shell_lower", "shell_upper"))]
    parts = [part.drop_vars(edges, errors="ignore") for part in parts]
    joined = xr.concat(parts, dim="run", join="inner", data_vars="all", coords="minimal", combine_attrs="drop")
    for name in joined.variables:
        joined[name].attrs = dict(parts[0][name].attrs) if name in parts[0] else {}
    first = {name: value for name, value in specs[0].to_dict().items() if not isinstance(value, list)}
    settings = {"shell_widths": list(specs[0].shell_widths), "smoothing": specs[0].shells[0].smoothing}
    settings |= {"shell_width": specs[0].shell_widths[0], "log_loss": log_loss}
    seeds = ("run", [spec.seed for spec in specs], {"long_name": "seed of the initial weights"})
    return joined.assign_coords(seed=seeds).assign_attrs(provenance(first) | settings)


def at_loss(run: xr.Dataset, log_loss: float, spec: object = "run") -> xr.Dataset:
    """The budget of a run (``grsd.run``) where its loss is e^``log_loss`` of that at time 0; see ``measure``."""
    call = "invariance.measure"
    log_loss = number(call, "log_loss", log_loss)
    needed = {"loss": ("time",), "start_loss": (), "time": ("time",)}
    dataset(call, "run", run, needed, "it with grsd.run(spec)")
    losses = np.append(run.loss.values, run.start_loss.values)
    if not run.sizes["time"] or not ((losses > 0) & (losses < math.inf)).all():
        raise ValueError(f"{call}(run=...): expected finite losses above 0 at some times")
    for name in run.data_vars:
        if run[name].dtype.kind not in "biuf":
            raise TypeError(f"{call}(run=...): expected real numbers in {str(name)!r}, got {run[name].dtype}")
    passed = np.log(run.loss.values / float(run.start_loss))
    after = int(np.argmax(passed <= log_loss))
    if not passed[after] <= log_loss or after == 0:
        raise ValueError(
            f"invariance.measure(log_loss={log_loss:g}): {spec} has snapshots from {passed[0]:.2f} to "
            f"{passed[-1]:.2f} of it; choose one between, or other times"
        )
    share = (log_loss - passed[after - 1]) / (passed[after] - passed[after - 1])
    before, behind = run.isel(time=after - 1, drop=True), run.isel(time=after, drop=True)
    budget = xr.Dataset(attrs=run.attrs)
    for name in run.data_vars:
        stem = str(name).rstrip("_0123456789")
        if stem in LINEAR:
            budget[name] = (1 - share) * before[name] + share * behind[name]
        elif stem in MASKS:
            budget[name] = before[name] | behind[name]
        if name in budget:
            budget[name].attrs = run[name].attrs
    times = np.log(run.time.values[after - 1 : after + 1])
    time = math.exp((1 - share) * times[0] + share * times[1])
    return budget.assign(time=((), time, {"long_name": "time at which the loss is passed", "units": "time"}))


def budgets_of(measured: xr.Dataset) -> list[list[xr.Dataset]]:
    """What ``grsd.laws`` takes: for each shell width the budgets of all runs."""
    dataset("budgets_of", "measured", measured, dict.fromkeys(("seed", "time", "energy", "coupling")), MADE)
    if "run" not in measured.sizes or "shell_widths" not in measured.attrs:
        raise ValueError(f"budgets_of(measured=...): expected a dimension 'run' and 'shell_widths'; make {MADE}")
    runs = [measured.isel(run=number).drop_vars(["seed", "time"]) for number in range(measured.sizes["run"])]
    return [[at_width(run, width) for run in runs] for width in np.atleast_1d(measured.shell_widths).tolist()]


def frontier_window(measured: xr.Dataset, reach: float = math.inf) -> tuple[float, float]:
    """(low, high) in log eigenvalue: up to the frontier lambda t = 1 (geometric mean over runs), ``reach`` down."""
    dataset("frontier_window", "measured", measured, {"time": None}, MADE)
    if not measured.time.size or not ((measured.time.values > 0) & (measured.time.values < math.inf)).all():
        raise ValueError("frontier_window(measured=...): expected finite times after 0")
    if real(reach) != math.inf:
        positive("frontier_window", "reach", reach)
    frontier = -float(np.log(measured.time).mean())
    return frontier - reach, frontier


def judge(
    measured: xr.Dataset | Sequence[Sequence[xr.Dataset]],
    *,
    window: tuple[float, float] | None = None,
    observable: str = "coupling",
    k_max: int = 2,
    scale: bool = False,
) -> Invariance:
    """Judge log-shift invariance: the defect of the law with its interval, and the verdict.

    Args:
        measured: from ``measure``, or budgets for each of several widths (planted ones).
        window: (low, high) of log eigenvalue, required: the verdict depends on it. ``frontier_window(measured)``
            reaches up to the frontier, infinite ends take everything.
        observable: "coupling", the condition itself; "velocity", a sharper consequence.
        k_max: largest a - b. ``scale``: remove a common scale M' = r M, fitted besides.

    Verdict [ours]: holds where the upper 95 % limit of D^2 is at most .04; fails where p < .05 and its lower limit is
    above; otherwise, and with fewer than 8 runs, inconclusive. Errors: as in ``grsd.laws.law_test``.
    """
    window = required_window("invariance.judge", window)
    observed = _observed("invariance.judge", measured, window, observable, k_max, scale)
    test = judge_observed(observable, observed)
    return Invariance(
        verdict=_verdict(test),
        defect=test.defect,
        interval=test.defect_interval,
        p=test.p,
        exponents=tuple(fit.exponent for fit in test.fits),
        exponent_intervals=tuple(fit.exponent_interval for fit in test.fits),
        window=window,
        runs=test.fits[0].runs,
        test=test,
    )


def power(
    measured: xr.Dataset | Sequence[Sequence[xr.Dataset]],
    runs: Sequence[int],
    *,
    window: tuple[float, float] | None = None,
    observable: str = "coupling",
    lawful: bool = False,
    draws: int = 40,
) -> xr.Dataset:
    """How often each verdict would come out with so many runs, by simulation from the measured ones.

    Simulated runs are normal, with the covariance between shells that the measured runs have, and with their mean or,
    ``lawful``, that of the fitted law (``grsd.laws.resampled``). ``draws`` ensembles a size; other arguments as in
    ``judge``.

    Returns: ``share(runs, verdict)`` of the draws, and ``half_width(runs)`` of the interval of D^2, the median.
    """
    call = "invariance.power"
    window = required_window(call, window)
    runs, flags = integers(call, "runs", runs, low=LEAST_OBSERVED), flag(call, "lawful", lawful)
    whole(call, "draws", draws, 1)
    if max(runs) * draws > MOST_DRAWN:
        raise ValueError(f"{call}(runs, draws): expected at most {MOST_DRAWN} runs drawn, got {max(runs) * draws}")
    observed = _observed(call, measured, window, observable, 2, False)
    verdicts = ("holds", "inconclusive", "fails")
    share, half = np.zeros((len(runs), len(verdicts))), np.zeros((len(runs), draws))
    for row, count in enumerate(runs):
        for draw in range(draws):
            test = judge_observed(observable, resampled(observable, observed, count, draw, lawful=flags))
            share[row, verdicts.index(_verdict(test))] += 1 / draws
            half[row, draw] = np.ptp(test.defect_interval) / 2
    data = {"share": (("runs", "verdict"), share), "half_width": ("runs", np.median(half, axis=1))}
    return xr.Dataset(data, {"runs": list(runs), "verdict": list(verdicts)}, {"draws": draws})


def _observed(
    call: str,
    measured: xr.Dataset | Sequence[Sequence[xr.Dataset]],
    window: tuple[float, float],
    observable: str,
    k_max: int,
    scale: bool,
) -> list[Ensemble]:
    if isinstance(measured, xr.Dataset):
        measured = budgets_of(measured)
    measured = listed(call, "measured", measured, "shell widths, or a dataset from measure")
    return observe(measured, observable=observable, k_max=k_max, scale=scale, window=window)


def _verdict(test: LawTest) -> str:
    verdict = RULE.verdict(*test.defect_interval)
    if test.fits[0].runs < LEAST_RUNS or (verdict == "fails" and test.p >= 0.05):
        return "inconclusive"
    return verdict
