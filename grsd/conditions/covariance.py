r"""Time-rescaling covariance of gradient flow: exact between problems, a hypothesis along one run.

Multiplying outputs and targets by sqrt(kappa) turns M into kappa M; the same weights are reached at times t / kappa, so
that v[kappa M](kappa lambda, t / kappa) = kappa^2 v[M](lambda, t). Along one run, the hypothesis
v(kappa lambda, t / kappa) = kappa^2 v(lambda, t) means that t u is a function of lambda t alone: there is no other
scale. (arXiv 2512.18209 names the covariance of gradient flow; the distinction and the measures are this project's.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from torch import Tensor, nn

from grsd.conditions.contract import Estimate, Verdict, conclude
from grsd.conditions.matched import at_first_width, history_of
from grsd.decomposition import spectrum
from grsd.evidence import DecisionRule
from grsd.flow import Flow, gradient_flow
from grsd.kernel import tangent_kernel_and_rate
from grsd.laws.signflip import crossed_share
from grsd.shells import LogShells, energy_budget
from grsd.shells.windows import MOST_SHELLS
from grsd.support.arguments import attribute, dataset, finite, listed
from grsd.support.checks import check_inputs
from grsd.support.values import instance, level_of, number, positive, said, whole_number

name = "covariance"
paper = "the time-rescaling covariance of gradient flow"
reads = "history"

SHELLS = LogShells(math.log(2), 0.1)
NEEDED = ("flux", "density", "boundary_mask", "time", "boundary")
LEAST_RUNS = 3
MOST_EFOLDS = 100.0
RULE = DecisionRule(
    statistic="D^2 of t u as a function of lambda t",
    direction="at most",
    threshold=0.01,
    reason="t u is then one function of lambda t within 10 % in root mean square; exact models that keep the "
    "covariance give 1e-5 or less, one that breaks it .014 to .04",
)


class Rescaled(nn.Module):
    """``model`` with its outputs multiplied by ``factor``."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        instance("Rescaled", "model", model, nn.Module, "a torch.nn.Module")
        super().__init__()
        self.model = model
        self.factor = number("Rescaled", "factor", factor)

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.model(x)


def between_problems(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    time: float,
    shells: LogShells,
    *,
    steps: int = 2,
    tolerance: float = 1e-4,
) -> xr.Dataset:
    """Compare the velocities of a problem at ``time`` with those of the problem rescaled by kappa = e^{steps * width}.

    Both are trained from the start, the rescaled one up to time / kappa. Returns ``velocity(boundary)``, ``rescaled``
    (u / kappa of the rescaled problem at the boundary ``steps`` shells higher) and ``mask``; the attributes are
    ``kappa`` and ``discrepancy``, the largest |difference| over the largest |u| at unmasked boundaries. The two agree
    up to rounding, since the steps of both flows scale alike.
    Source: this project's. Errors: ``ValueError`` for less than one step; as ``gradient_flow``.
    """
    call = "between_problems"
    instance(call, "shells", shells, LogShells, "LogShells")
    check_inputs(call, model, inputs)
    instance(call, "targets", targets, Tensor, "a torch.Tensor")
    positive(call, "time", time)
    if whole_number(call, "steps", steps, 1) > MOST_EFOLDS / shells.width:
        raise ValueError(
            f"{call}(steps=...): expected kappa = e^(steps width) of at most e^{MOST_EFOLDS:g}, got {steps!r}"
        )
    kappa = math.exp(steps * shells.width)
    budgets = []
    for factor in (1.0, math.sqrt(kappa)):
        scaled, goal, end = Rescaled(model, factor), factor * targets, time / factor**2
        flow = gradient_flow(scaled, inputs, goal, [end], tolerance=tolerance, progress=False)
        last = flow.snapshots[-1]
        modes = spectrum(*tangent_kernel_and_rate(last.model, flow.inputs, flow.targets))
        budgets.append(energy_budget(modes, last.error, shells))
    first, second = (budget.assign_coords(boundary=budget.shell_index.values[1:]) for budget in budgets)
    second = second.assign_coords(boundary=second.boundary - steps)
    first, second = xr.align(*(item[["velocity", "boundary_mask"]] for item in (first, second)), join="inner")
    found = xr.Dataset(
        {
            "velocity": first.velocity,
            "rescaled": second.velocity / kappa,
            "mask": first.boundary_mask | second.boundary_mask,
        }
    ).assign_coords(boundary=first.boundary * shells.width)
    kept = found.where(found.mask == 0, drop=True)
    if not kept.sizes["boundary"]:
        raise ValueError(
            f"{call}(shells=...): no boundary is unmasked in both problems; take wider shells or more samples"
        )
    gap = np.abs(kept.velocity - kept.rescaled).max() / np.abs(kept.velocity).max()
    return found.assign_attrs(kappa=kappa, discrepancy=float(gap))


@dataclass(frozen=True)
class Collapse:
    """t u against x = log(lambda t), dimensionless, at several times of the same runs.

    ``values``, ``standard_errors`` (T, m): NaN where a time does not reach x. ``times`` (T,): geometric means over
    runs. ``defect``: D^2, the share of the squared t u that no single function of x explains, from products of
    different runs (0 under covariance). ``interval``: its 95 % jackknife interval.
    """

    x: np.ndarray
    times: np.ndarray
    values: np.ndarray
    standard_errors: np.ndarray
    defect: float
    interval: tuple[float, float]
    runs: int


def measure(
    history: Flow | xr.Dataset,
    *,
    shells: LogShells | Sequence[LogShells] = SHELLS,
    parameters: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Measure the shells of one network at its times: ``flux``, ``density``, ``boundary_mask`` over (time, boundary).

    Args: as in ``invariance.measure``; if there are several widths, the first is used.
    """
    (run,) = at_first_width([history_of("covariance.measure", history, shells, parameters)])
    dataset("covariance.measure", "history", run, dict.fromkeys(NEEDED), "it with grsd.run or grsd.shell_history")
    return run


def judge(ensemble: Sequence[xr.Dataset], *, reach: float = 6.0, above: float = 0.0) -> Verdict:
    """Judge whether the covariance holds along runs. Args and errors: as in ``along_runs``.

    Returns: a verdict on D^2 by our ``RULE``, inconclusive with fewer than 8 runs; its ``details`` are a ``Collapse``.
    """
    found = _collapse("covariance.judge", "ensemble", ensemble, reach, above, RULE.confidence)
    verdict = RULE.verdict(*found.interval) if found.runs >= RULE.seeds else "inconclusive"
    decided = Estimate("D^2 of t u as a function of lambda t", found.defect, found.interval, RULE.threshold)
    return conclude(name, verdict, decided, found.runs, found, least=RULE.seeds, confidence=RULE.confidence)


def along_runs(
    histories: Sequence[xr.Dataset], *, reach: float = 6.0, above: float = 0.0, level: float = 0.95
) -> Collapse:
    """Test whether t u is one function of lambda t along R >= 3 runs with snapshots at T >= 2 times.

    Args: ``histories`` from ``grsd.run`` (``flux``, ``density``, ``boundary_mask`` over time and boundary), with one
    shell width; ``reach``, ``above``: the range of x is -reach to ``above``, in e-folds from the frontier lambda t = 1.
    Times may differ between runs; each run's F and eps are interpolated linearly in s. For an exact model pass its one
    history three times.

    Source: this project's. Errors: ``ValueError`` for fewer runs or times, or if no x is reached at two times by all
    runs.
    """
    return _collapse("along_runs", "histories", histories, reach, above, level)


def _collapse(
    call: str, argument: str, histories: Sequence[xr.Dataset], reach: float, above: float, level: float
) -> Collapse:
    level = level_of(call, level)
    histories = at_first_width(listed(call, argument, histories, "histories of runs", 0))
    needed = {"flux": None, "density": None, "boundary_mask": None, "time": ("time",), "boundary": ("boundary",)}
    for item in histories:
        dataset(call, argument, item, needed, "it with grsd.run or grsd.shell_history")
        if not item.sizes["boundary"] or not (item.time.values > 0).all() or {*item.flux.dims} != {"time", "boundary"}:
            raise ValueError(f"{call}({argument}): expected 'flux' over ('time', 'boundary') at times after 0")
        for which in ("flux", "density"):
            finite(call, argument, item, which, (item.boundary_mask == 0).transpose(*item[which].dims).values)
    if len(histories) < LEAST_RUNS or len({item.sizes["time"] for item in histories}) != 1:
        raise ValueError(f"{call}({argument}): expected three or more runs with the same number of snapshots")
    width = attribute(call, argument, histories[0], "shell_width")
    for which, value in {"reach": reach, "above": above}.items():
        number(call, which, value, -MOST_SHELLS * width, MOST_SHELLS * width)
    if not -reach <= above:
        raise ValueError(f"{call}(reach, above): expected -reach <= above, got {said(reach)} and {said(above)}")
    x = width * np.arange(math.ceil(-reach / width), math.floor(above / width) + 1)
    flux, density = (np.stack(part) for part in zip(*(_on_grid(item, x) for item in histories), strict=True))
    reached = np.isfinite(flux).all(0)
    kept = reached.sum(0) >= 2
    if not kept.any():
        raise ValueError(f"{call}({argument}): no place in lambda t is reached, unmasked, at two times of all runs")
    flux, density, reached = flux[..., kept], density[..., kept], reached[:, kept]
    with np.errstate(invalid="ignore"):
        value = flux.sum(0) / density.sum(0)
        departures = (flux - value * density) / density.mean(0)
    pseudo = np.where(reached, value + departures, 0.0)
    residuals = np.where(reached, pseudo - pseudo.sum(1, keepdims=True) / reached.sum(0), 0.0)
    gram = [np.tensordot(item, item, ([1, 2], [1, 2])) for item in (residuals, pseudo)]
    defect, interval = crossed_share(*gram, level)
    times = np.exp(np.mean([np.log(item.time.values) for item in histories], axis=0))
    runs = len(histories)
    errors = np.sqrt(np.square(departures).sum(0) / (runs * (runs - 1)))
    return Collapse(x[kept], times, value, errors, defect, interval, runs)


def _on_grid(history: xr.Dataset, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (t F, eps) of one run at s = x - log t, (T, m); NaN outside its range and next to masked boundaries."""
    s, times = history.boundary.values, history.time.values
    masked = history.boundary_mask.transpose("time", "boundary").values != 0
    parts = []
    for which in ("flux", "density"):
        values = np.where(masked, np.nan, history[which].transpose("time", "boundary").values)
        at = [np.interp(x - math.log(t), s, row, np.nan, np.nan) for t, row in zip(times, values, strict=True)]
        parts.append(np.array(at))
    return parts[0] * times[:, None], parts[1]
