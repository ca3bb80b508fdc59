r"""Condition 1: bounded gradient propagation through the computation graph.

Between nodes l < m of the graph, where h_l is the vector of units at node l, two quantities are measured,

.. math:: G_{lm} = \frac{1}{n_m} \Big| \frac{\partial h_m}{\partial h_l} \Big|_F^2 , \qquad
          \Big| \frac{\partial h_m}{\partial h_l} \Big|_2 ,

G is the factor by which the squared norm of a random gradient at m changes on its way back to l; the operator norm is
that of the worst gradient. "Bounded" asks for an upper limit: ``judge`` asks that neither grows with depth. Whether
gradients also decay is a question of its own: ``judge_two_sided`` refuses both. The condition is the paper's
(arXiv 2512.18209); this form of it, and the rules, are this project's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from grsd.conditions.contract import Estimate, Verdict, conclude, deciding, first_snapshot
from grsd.conditions.graph import CALL, Graph, Nodes, chosen, gains, layers, passed
from grsd.evidence import DecisionRule
from grsd.flow import Flow, Snapshot
from grsd.jacobian import Composed, exact_derivatives, private_copy
from grsd.jacobian.coupling import check_coupling
from grsd.support.arguments import dataset, described, listed
from grsd.support.checks import check_inputs, check_module, floating_dtype, repeatable, resolve_device
from grsd.support.provenance import provenance
from grsd.support.values import choice, flag, instance, said

name = "propagation"
paper = "bounded gradient propagation in the computation graph"
reads = "start"

SIDES = ("input", "output")
CHUNK = 2**23

RULE = DecisionRule(
    statistic="slope on log depth of the largest 1/2 log G and of the largest log operator norm over pairs of nodes",
    direction="at most",
    threshold=0.1,
    reason="gradients then grow by less than depth^.1: a quarter while the depth grows eightfold",
    seeds=4,
)
TWO_SIDED = DecisionRule(
    statistic="slope of the largest |1/2 log G| over pairs of nodes, and of |Lyapunov rate x depth|, on log depth",
    direction="at most",
    threshold=0.1,
    reason="amplitudes then grow or shrink by less than depth^.1: a quarter while the depth grows eightfold",
    seeds=4,
)
WORDS = {
    "growth": "the largest growth 1/2 log G",
    "norm_growth": "the largest log operator norm",
    "decay": "the largest decay -1/2 log G",
    "worst": "the largest |1/2 log G|",
    "rate": "|Lyapunov rate x depth|",
}  # each in nats; growth and decay are 0 where there is none


@dataclass(frozen=True)
class Propagation:
    """Condition 1 over depths and seeds; the verdict's estimate is the slope that decides.

    Attributes:
        slopes, intervals: by the names in ``WORDS``, slopes on log depth, mean over seeds, and their 95 % intervals;
            nats per e-fold. Without operator norms there is no "norm_growth".
        per_seed: the slopes of each seed, by the same names.
        depths, seeds: of the judged networks.
    """

    slopes: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    per_seed: dict[str, np.ndarray]
    depths: tuple[int, ...]
    seeds: tuple[int, ...]


def measure(
    history: Flow | Snapshot | nn.Module,
    inputs: Tensor | None = None,
    targets: Tensor | None = None,
    *,
    node: Nodes | None = None,
    side: str = "input",
    norms: bool = True,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    parameters: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Compute the exact gains between the nodes of one network, averaged over the samples.

    Args:
        history: a flow, of which the first snapshot is read; or, with its batch, a snapshot or any module that maps
            each sample on its own; left untouched.
        inputs: the batch, shape (N, ...). ``targets`` are not read.
        node: submodules, each called once: a regular expression that matches their whole names, a list of names, or a
            function of (name, module). ``None``: all layers (submodules with parameters of their own) except the one
            called first; for a ``grsd.Perceptron`` these are h_1 to h_L. In networks with branches take whole blocks:
            ``nodes(model, inputs)`` finds them.
        side: "input" or "output": a node is the tensor that enters the submodule, or the one that leaves it.
        norms: compute the operator norms too, which doubles the cost.
        device: as in ``grsd.tangent_kernel``.
        parameters: values to write into the attributes; ``judge`` reads ``depth`` (default: the number of nodes) and
            ``seed``.

    Returns: a dataset over (l, m), the nodes in the order of the forward pass; NaN unless l < m:
        ``gain`` G_lm and its ``standard_error`` over samples (dimensionless), ``norm`` |dh_m/dh_l|_2. Over
        ``distance`` m - l: ``amplitude``, the mean of 1/2 log G over pairs, and ``norm_amplitude``, that of the log of
        the norm: how local the propagation is. Scalars in nats: ``growth``, ``decay`` and ``norm_growth``, the largest
        1/2 log G, -1/2 log G and log norm over pairs, or 0; ``worst``, the largest |1/2 log G|; and ``lyapunov``, the
        least-squares slope of 1/2 log G on m - l, per node.

    Cost: one backward pass per unit of each node. Source: this project's form of the paper's condition.
    Errors: ``ValueError`` if no nodes match, a node is called twice or never, or samples depend on each other.
    """
    floating_dtype(CALL, dtype)
    choice(CALL, "side", side, SIDES)
    flag(CALL, "norms", norms)
    described(CALL, parameters)
    model, inputs, _ = first_snapshot(CALL, history, inputs, targets)
    check_inputs(CALL, model, inputs)
    check_module(CALL, model, device)
    place = resolve_device(CALL, device, model)
    private = private_copy(model, dtype, place)
    batch = inputs.to(device=place, dtype=dtype if inputs.is_floating_point() else inputs.dtype)
    names = layers(private, batch[:1]) if node is None else chosen(model, node)
    with exact_derivatives(), Composed(dtype):
        graph = Graph(private, names, side)
        values = repeatable(CALL, lambda: graph(batch)[-1].detach(), private.state_dict())
        check_coupling(CALL, lambda few: graph(few)[-1].detach(), batch, values)
        order, sizes = graph.order, [node[0].numel() for node in graph(batch[:1])]
        few = max(1, CHUNK // (max(sizes) ** 2 * len(sizes)))
        parts = [gains(graph(part), norms) for part in batch.split(few)]
    gain, norm = (torch.cat(kind).cpu().numpy() for kind in zip(*parts, strict=True))
    mean = gain.mean(0)
    error = gain.std(0, ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else np.full_like(mean, np.nan)
    data = xr.Dataset({"gain": (("l", "m"), mean, {"long_name": "|dh_m/dh_l|_F^2 / width of m", "units": "1"})})
    data["standard_error"] = ("l", "m"), error, {"long_name": "standard error of the gain over samples", "units": "1"}
    if norms:
        data["norm"] = ("l", "m"), norm.mean(0), {"long_name": "operator norm of dh_m/dh_l, mean", "units": "1"}
    upper = np.triu_indices(len(mean), 1)
    distance = upper[1] - upper[0]
    with np.errstate(divide="ignore"):
        half = np.log(mean[upper]) / 2
        sizes = {"amplitude": half} | ({"norm_amplitude": np.log(norm.mean(0)[upper])} if norms else {})
    for what, values in sizes.items():
        text = f"mean of {'log norm' if what.startswith('norm') else '1/2 log G'} over pairs at a distance"
        data[what] = "distance", np.bincount(distance, values)[1:] / np.bincount(distance)[1:], {"long_name": text}
        data[what].attrs["units"] = "nats"
    scalars = {"growth": max(half.max(), 0.0), "decay": max(-half.min(), 0.0), "worst": np.abs(half).max()}
    if norms:
        scalars["norm_growth"] = max(sizes["norm_amplitude"].max(), 0.0)
    for what, value in scalars.items():
        data[what] = (), value, {"long_name": f"{WORDS[what]} over pairs", "units": "nats"}
    lyapunov = float((half * distance).sum() / np.square(distance).sum())
    data["lyapunov"] = (), lyapunov, {"long_name": "slope of 1/2 log G on m - l", "units": "nats/node"}
    index = np.arange(1, len(order) + 1)
    coords = {"l": index, "m": index, "l_name": ("l", order), "m_name": ("m", order), "distance": index[:-1]}
    settings = {"depth": len(order), "samples": len(batch), "side": side} | dict(parameters or {})
    return data.assign_coords(coords).assign_attrs(provenance(settings))


def nodes(
    model: nn.Module,
    inputs: Tensor,
    *,
    side: str = "input",
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
) -> list[str]:
    """Return the names of a network's own nodes, for ``measure(..., node=...)``: what everything passes through.

    These are the submodules at whose input, or output (``side``), a single tensor carries all that the model makes of
    its inputs: whole blocks of a network with skips, layers of one without. They are found in the graph of one forward
    pass and listed in the order of their calls; submodules inside a branch, or called more than once, are no nodes.

    Args: as ``measure``; a few samples are enough. Errors: ``ValueError`` if there are fewer than two.
    """
    call = "propagation.nodes"
    floating_dtype(call, dtype)
    choice(call, "side", side, SIDES)
    check_inputs(call, model, inputs)
    check_module(call, model, device)
    place = resolve_device(call, device, model)
    private = private_copy(model, dtype, place)
    batch = inputs[:2].to(device=place, dtype=dtype if inputs.is_floating_point() else inputs.dtype)
    with exact_derivatives(), Composed(dtype):
        found = passed(private, batch, side, call)
    if len(found) < 2:
        raise ValueError(
            f"{call}(model, ...): expected at least 2 submodules that everything passes through, found {found}; name "
            "the nodes yourself, as in measure(model, inputs, node=['blocks.0', 'blocks.1'])"
        )
    return found


def slopes(ensemble: Sequence[xr.Dataset]) -> dict[str, float]:
    """Return slopes on log depth, one network per depth, by the names in ``WORDS``; nats per e-fold."""
    ensemble = listed("propagation.slopes", "ensemble", ensemble, "datasets from propagation.measure")
    depth = np.array([_depth("propagation.slopes", item) for item in ensemble])
    if len(set(depth)) < max(2, len(depth)):
        raise ValueError(f"propagation.slopes(ensemble): expected networks of different depths, got {depth.tolist()}")
    centred = np.log(depth) - np.log(depth).mean()
    names = [what for what in WORDS if what == "rate" or all(what in item for item in ensemble)]
    values = np.array([[_nats(item, what) for what in names] for item in ensemble])
    return dict(zip(names, (centred @ values / np.square(centred).sum()).tolist(), strict=True))


def _nats(item: xr.Dataset, what: str) -> float:
    return abs(float(item.lyapunov)) * item.attrs["depth"] if what == "rate" else float(item[what])


def _depth(call: str, item: object) -> float:
    """Return the depth of one network; refuse a dataset that does not come from ``measure``."""
    needed = ("growth", "decay", "worst", "lyapunov")
    dataset(call, "ensemble", item, dict.fromkeys(needed, ()), "it with propagation.measure")
    depth = item.attrs.get("depth")
    if isinstance(depth, bool) or not isinstance(depth, Real) or not 0 < depth < np.inf:
        raise ValueError(f"{call}(ensemble): expected a positive number in the attribute 'depth', got {said(depth)}")
    known = [*needed, *(["norm_growth"] if "norm_growth" in item else [])]
    if not np.isfinite([float(item[what]) for what in known]).all():
        raise ValueError(f"{call}(ensemble): found NaN or infinity in {' or '.join(map(repr, known))}")
    return float(depth)


def judge(ensemble: Sequence[xr.Dataset], *, rule: DecisionRule = RULE) -> Verdict:
    """Judge condition 1, an upper bound: it holds if gradients, random and worst, do not grow with depth.

    The upper 95 % limits of the slopes on log depth of the largest 1/2 log G and, where it was measured, of the largest
    log operator norm must be at most .1. Decay is not refused.

    Args: ``ensemble`` from ``measure`` with the attributes ``depth`` and ``seed``, the same depths for every seed.
    Returns: a verdict whose ``details`` are a ``Propagation``.
    Errors: ``ValueError`` for fewer than three depths, fewer seeds than the rule needs, or an incomplete set.
    """
    return _judged("propagation.judge", ensemble, rule, ("growth", "norm_growth"))


def judge_two_sided(ensemble: Sequence[xr.Dataset], *, rule: DecisionRule = TWO_SIDED) -> Verdict:
    """Judge whether random gradients neither grow nor decay with depth: stricter than condition 1; as ``judge``."""
    return _judged("propagation.judge_two_sided", ensemble, rule, ("worst", "rate"))


def _judged(call: str, ensemble: Sequence[xr.Dataset], rule: DecisionRule, decisive: tuple[str, ...]) -> Verdict:
    groups: dict[int, list[xr.Dataset]] = {}
    instance(call, "rule", rule, DecisionRule, "a DecisionRule")
    for item in listed(call, "ensemble", ensemble, "datasets from propagation.measure", 0):
        _depth(call, item)
        if not isinstance(item.attrs.get("seed"), Integral):
            raise ValueError(f"{call}(ensemble): expected measure(..., parameters={{'seed': ...}}); one has none")
        groups.setdefault(int(item.attrs["seed"]), []).append(item)
    if not groups:
        raise ValueError(f"{call}(ensemble): expected at least 3 depths and some seeds, got none")
    depths = {tuple(sorted(int(item.attrs["depth"]) for item in group)) for group in groups.values()}
    if len(depths) != 1 or len(set(next(iter(depths)))) < 3 or len(groups) < rule.seeds:
        raise ValueError(
            f"{call}(ensemble): expected at least 3 depths, the same for each of at least {rule.seeds} "
            f"seeds, got depths {sorted(depths)} over {len(groups)} seeds"
        )
    found = [slopes(group) for group in groups.values()]
    names = [what for what in WORDS if all(what in one for one in found)]
    per_seed = {what: np.array([one[what] for one in found]) for what in names}
    judged = {what: rule.interval(values) for what, values in per_seed.items()}
    middle, around = ({what: pick(ends) for what, ends in judged.items()} for pick in (lambda e: e[0], lambda e: e[1:]))
    details = Propagation(middle, around, per_seed, next(iter(depths)), tuple(groups))
    judging = [what for what in decisive if what in names]
    verdicts = {rule.verdict(*around[what]) for what in judging}
    verdict = next(word for word in ("fails", "inconclusive", "holds") if word in verdicts)
    estimates = [
        Estimate(f"the slope of {WORDS[what]} on log depth", middle[what], around[what], rule.threshold)
        for what in judging
    ]
    options = {"least": rule.seeds, "seeds": len(groups), "confidence": rule.confidence}
    return conclude(name, verdict, deciding(verdict, estimates), len(ensemble), details, **options)
