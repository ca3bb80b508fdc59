"""Judge a condition on anyone's network: train one per seed, measure each, and return the verdict."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from grsd.conditions.contract import Verdict
from grsd.conditions.matched import frontier_window
from grsd.conditions.registry import CONDITIONS
from grsd.flow import Descent, Flow
from grsd.kernel import tangent_kernel
from grsd.support.arguments import integers
from grsd.support.progress import bar
from grsd.support.values import choice, number, said, whole_number

CALL = "judge_models"
FIRST, PER_E_FOLD = 1.0, 2  # of lambda_max(0) t; snapshots per e-fold of time
LEAST_SNAPSHOTS = 6
GIVEN = ("history", "inputs", "targets", "parameters", "ensemble")


def judge_models(
    condition: str,
    make: Callable[..., nn.Module],
    inputs: Tensor,
    targets: Tensor,
    *,
    seeds: Sequence[int] = range(8),
    depths: Sequence[int] | None = None,
    log_loss: float = -2.0,
    latest: float = 1e5,
    tolerance: float = 1e-4,
    progress: bool | None = None,
    **options: object,
) -> Verdict:
    """Return the verdict on one condition for your own network.

    Args:
        condition: a name in ``grsd.conditions.CONDITIONS``, such as "evolution" (condition 3) or "invariance" (4).
        make: makes the network of a seed, ``make(seed)``; of a depth and a seed if ``depths`` are given, which
            "propagation" needs: ``make(depth, seed)``.
        inputs, targets: as in ``grsd.gradient_flow``.
        seeds: one network each. Most verdicts need 8.
        log_loss: where training ends and where the conditions that are read at one loss are read: the log of the loss
            over its start.
        latest: where training ends at the latest, in units of 1 / lambda_max(0).
        options: of the condition's ``measure`` and ``judge``. Where ``judge`` needs a ``window``, it reaches up to the
            frontier lambda t = 1 unless you give one.

    Cost: a gradient flow per network, with a kernel and its rate at two times per e-fold, for conditions that follow
    the training; one kernel or less for the others. Errors: before anything runs, ``TypeError`` or ``ValueError`` in
    one line; ``ValueError`` if a network does not reach ``log_loss``; as ``measure`` and ``judge``.
    """
    which = CONDITIONS[choice(CALL, "condition", condition, tuple(CONDITIONS))]
    if not callable(make):
        raise TypeError(f"{CALL}(make=...): expected a function of the seed, got {said(make)}")
    seeds = integers(CALL, "seeds", list(seeds) if isinstance(seeds, range) else seeds)
    depths = None if depths is None else integers(CALL, "depths", depths, low=1)
    if which.name == "propagation" and depths is None:
        raise ValueError(f"{CALL}('propagation', ..., depths=...): expected depths, at least three, got None")
    number(CALL, "log_loss", log_loss, high=-1e-6)
    number(CALL, "latest", latest, 10.0)
    own = {
        what: {name for name in inspect.signature(getattr(which, what)).parameters if name not in GIVEN}
        for what in ("measure", "judge")
    }
    for name in options:
        if name not in own["measure"] | own["judge"]:
            known = ", ".join(sorted(own["measure"] | own["judge"]))
            raise TypeError(f"{CALL}({name}=...): {condition} takes {known}")
    measuring = {name: value for name, value in options.items() if name in own["measure"]}
    if "log_loss" in own["measure"]:
        measuring["log_loss"] = log_loss
    places = [(depth, seed) for seed in seeds for depth in depths or [None]]
    ensemble = []
    for depth, seed in bar(places, show=progress, desc=f"{condition}", unit="network"):
        labels = {"seed": seed} | ({} if depth is None else {"depth": depth})
        model = make(seed) if depth is None else make(depth, seed)
        if which.reads == "start":
            ensemble.append(which.measure(model, inputs, targets, parameters=labels, **measuring))
        else:
            flow = flow_to_loss(model, inputs, targets, log_loss, latest=latest, tolerance=tolerance)
            ensemble.append(which.measure(flow, parameters=labels, **measuring))
    judging = {name: value for name, value in options.items() if name in own["judge"]}
    if "window" in own["judge"] and "window" not in judging:
        judging["window"] = frontier_window(ensemble)
    return which.judge(ensemble, **judging)


def flow_to_loss(
    model: nn.Module, inputs: Tensor, targets: Tensor, log_loss: float, *, latest: float = 1e5, tolerance: float = 1e-4
) -> Flow:
    """Return the gradient flow of a network from time 0, at two times per e-fold, until its loss has fallen.

    The first time after 0 is 1 / lambda_max(0), or earlier if the loss may have fallen so far before.

    Args: ``log_loss``: log of the loss over its start, at which it ends, after at least six times; ``latest``: where
    it ends at the latest, in units of 1 / lambda_max(0). Errors: ``ValueError`` if it does not get so far.
    """
    call = "flow_to_loss"
    number(call, "log_loss", log_loss, high=-1e-6)
    number(call, "latest", latest, 10.0)
    descent = Descent(model, inputs, targets, tolerance=tolerance)
    top = float(torch.linalg.eigvalsh(tangent_kernel(model, inputs))[-1])
    first = min(FIRST, -log_loss / 4)  # the loss falls by at most 2 lambda_max t while the kernel does not grow
    steps = int(np.ceil(PER_E_FOLD * np.log(latest / first)))
    snapshots, rows = [], []
    for time in [0.0, *(np.geomspace(first, latest, whole_number(call, "latest", steps, 1) + 1) / top)]:
        snapshots.append(descent.snapshot(float(time)))
        rows.append(descent.row())
        if len(rows) > LEAST_SNAPSHOTS and np.log(rows[-1]["loss"] / rows[0]["loss"]) <= log_loss:
            history: xr.Dataset = descent.history([snapshot.time for snapshot in snapshots], rows)
            return Flow(tuple(snapshots), descent.inputs, descent.targets, history)
    reached = float(np.log(rows[-1]["loss"] / rows[0]["loss"]))
    raise ValueError(
        f"{call}(log_loss={log_loss:g}): after {latest:g} / lambda_max the log of the loss has fallen by "
        f"{-reached:.3g} only; take a log_loss nearer to 0 or a later latest"
    )
