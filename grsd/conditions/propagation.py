r"""Condition 1: bounded gradient propagation through the computation graph.

Between nodes l < m of the graph, where h_l is the vector of units at node l, two quantities are measured,

.. math:: G_{lm} = \frac{1}{n_m} \Big| \frac{\partial h_m}{\partial h_l} \Big|_F^2 , \qquad
          \Big| \frac{\partial h_m}{\partial h_l} \Big|_2 ,

G is the factor by which the squared norm of a random gradient at m changes on its way back to l. The condition is the
paper's (arXiv 2512.18209); this form of it, and the rule, are this project's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from grsd.conditions.contract import Estimate, Verdict, conclude, deciding, first_snapshot
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

Nodes = str | Sequence[str] | Callable[[str, nn.Module], bool]
SIDES = ("input", "output")
CHUNK = 2**23
CALL = "propagation.measure"

RULE = DecisionRule(
    statistic="slope of the largest |1/2 log G| over pairs of nodes, and of |Lyapunov rate x depth|, on log depth",
    direction="at most",
    threshold=0.1,
    reason="amplitudes then grow or shrink by less than depth^.1: a quarter while the depth grows eightfold",
    seeds=4,
)


@dataclass(frozen=True)
class Propagation:
    """Condition 1 over depths and seeds; the verdict's estimate is the slope that decides.

    Attributes:
        slope, slope_interval: of max |1/2 log G| on log depth, mean over seeds and its 95 % interval; nats per e-fold.
        rate_slope, rate_slope_interval: the same for |Lyapunov rate x depth|.
        per_seed: (seeds, 2), both slopes of each seed.
        depths, seeds: of the judged networks.
    """

    slope: float
    slope_interval: tuple[float, float]
    rate_slope: float
    rate_slope_interval: tuple[float, float]
    per_seed: np.ndarray
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
            called first; for a ``grsd.Perceptron`` these are h_1 to h_L. In networks with branches name whole blocks.
        side: "input" or "output": a node is the tensor that enters the submodule, or the one that leaves it.
        norms: compute the operator norms too, which doubles the cost.
        device: as in ``grsd.tangent_kernel``.
        parameters: values to write into the attributes; ``judge`` reads ``depth`` (default: the number of nodes) and
            ``seed``.

    Returns: a dataset over (l, m), the nodes in the order of the forward pass; NaN unless l < m:
        ``gain`` G_lm and its ``standard_error`` over samples (dimensionless), ``norm`` |dh_m/dh_l|_2. Scalars:
        ``worst``, the largest |1/2 log G|; ``lyapunov``, the least-squares slope of 1/2 log G on m - l, per node.

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
    names = _layers(private, batch[:1]) if node is None else _chosen(model, node)
    with exact_derivatives(), Composed(dtype):
        graph = _Graph(private, names, side)
        values = repeatable(CALL, lambda: graph(batch)[-1].detach(), private.state_dict())
        check_coupling(CALL, lambda few: graph(few)[-1].detach(), batch, values)
        order, sizes = graph.order, [node[0].numel() for node in graph(batch[:1])]
        few = max(1, CHUNK // (max(sizes) ** 2 * len(sizes)))
        parts = [_gains(graph(part), norms) for part in batch.split(few)]
    gain, norm = (torch.cat(kind).cpu().numpy() for kind in zip(*parts, strict=True))
    mean = gain.mean(0)
    error = gain.std(0, ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else np.full_like(mean, np.nan)
    data = xr.Dataset({"gain": (("l", "m"), mean, {"long_name": "|dh_m/dh_l|_F^2 / width of m", "units": "1"})})
    data["standard_error"] = ("l", "m"), error, {"long_name": "standard error of the gain over samples", "units": "1"}
    if norms:
        data["norm"] = ("l", "m"), norm.mean(0), {"long_name": "operator norm of dh_m/dh_l, mean", "units": "1"}
    with np.errstate(divide="ignore"):
        half = np.log(mean) / 2
    upper = np.triu_indices(len(mean), 1)
    distance = upper[1] - upper[0]
    data["worst"] = (), np.abs(half[upper]).max(), {"long_name": "largest |1/2 log G| over pairs", "units": "nats"}
    lyapunov = float((half[upper] * distance).sum() / np.square(distance).sum())
    data["lyapunov"] = (), lyapunov, {"long_name": "slope of 1/2 log G on m - l", "units": "nats/node"}
    index = np.arange(1, len(order) + 1)
    coords = {"l": index, "m": index, "l_name": ("l", order), "m_name": ("m", order)}
    settings = {"depth": len(order), "samples": len(batch), "side": side} | dict(parameters or {})
    return data.assign_coords(coords).assign_attrs(provenance(settings))


def slopes(ensemble: Sequence[xr.Dataset]) -> np.ndarray:
    """Return slopes on log depth of ``worst`` and |``lyapunov`` x depth|, one network per depth; nats per e-fold."""
    ensemble = listed("propagation.slopes", "ensemble", ensemble, "datasets from propagation.measure")
    depth = np.array([_depth("propagation.slopes", item) for item in ensemble])
    if len(set(depth)) < max(2, len(depth)):
        raise ValueError(f"propagation.slopes(ensemble): expected networks of different depths, got {depth.tolist()}")
    values = np.array([[float(item.worst), abs(float(item.lyapunov)) * item.attrs["depth"]] for item in ensemble])
    centred = np.log(depth) - np.log(depth).mean()
    return centred @ values / np.square(centred).sum()


def _depth(call: str, item: object) -> float:
    """Return the depth of one network; refuse a dataset that does not come from ``measure``."""
    dataset(call, "ensemble", item, {"worst": (), "lyapunov": ()}, "it with propagation.measure")
    depth = item.attrs.get("depth")
    if isinstance(depth, bool) or not isinstance(depth, Real) or not 0 < depth < np.inf:
        raise ValueError(f"{call}(ensemble): expected a positive number in the attribute 'depth', got {said(depth)}")
    if not np.isfinite([float(item.worst), float(item.lyapunov)]).all():
        raise ValueError(f"{call}(ensemble): found NaN or infinity in 'worst' or 'lyapunov'")
    return float(depth)


def judge(ensemble: Sequence[xr.Dataset], *, rule: DecisionRule = RULE) -> Verdict:
    """Judge condition 1: it holds if the upper 95 % limits of both slopes on log depth are at most .1.

    Args: ``ensemble`` from ``measure`` with the attributes ``depth`` and ``seed``, the same depths for every seed.
    Returns: a verdict whose ``details`` are a ``Propagation``.
    Errors: ``ValueError`` for fewer than three depths, fewer seeds than the rule needs, or an incomplete set.
    """
    groups: dict[int, list[xr.Dataset]] = {}
    instance("propagation.judge", "rule", rule, DecisionRule, "a DecisionRule")
    for item in listed("propagation.judge", "ensemble", ensemble, "datasets from propagation.measure", 0):
        _depth("propagation.judge", item)
        if not isinstance(item.attrs.get("seed"), Integral):
            raise ValueError(
                "propagation.judge(ensemble): expected measure(..., parameters={'seed': ...}); one has none"
            )
        groups.setdefault(int(item.attrs["seed"]), []).append(item)
    if not groups:
        raise ValueError("propagation.judge(ensemble): expected at least 3 depths and some seeds, got none")
    depths = {tuple(sorted(int(item.attrs["depth"]) for item in group)) for group in groups.values()}
    if len(depths) != 1 or len(set(next(iter(depths)))) < 3 or len(groups) < rule.seeds:
        raise ValueError(
            f"propagation.judge(ensemble): expected at least 3 depths, the same for each of at least {rule.seeds} "
            f"seeds, got depths {sorted(depths)} over {len(groups)} seeds"
        )
    per_seed = np.array([slopes(group) for group in groups.values()])
    (slope, *first), (rate, *second) = (rule.interval(column) for column in per_seed.T)
    verdicts = {rule.verdict(*first), rule.verdict(*second)}
    verdict = next(word for word in ("fails", "inconclusive", "holds") if word in verdicts)
    details = Propagation(slope, tuple(first), rate, tuple(second), per_seed, next(iter(depths)), tuple(groups))
    estimates = [
        Estimate("the slope of the largest |1/2 log G| on log depth", slope, tuple(first), rule.threshold),
        Estimate("the slope of |Lyapunov rate x depth| on log depth", rate, tuple(second), rule.threshold),
    ]
    decided = deciding(verdict, estimates)
    return conclude(
        name,
        verdict,
        decided,
        len(ensemble),
        details,
        least=rule.seeds,
        seeds=len(groups),
        confidence=rule.confidence,
    )


def _layers(model: nn.Module, inputs: Tensor) -> list[str]:
    """Return the submodules with parameters of their own, in the order of their calls, without the first."""
    called: dict[str, None] = {}
    own = {name: part for name, part in model.named_modules() if name and [*part.parameters(recurse=False)]}
    hooks = [
        part.register_forward_pre_hook(lambda _, given, name=name: called.setdefault(name))
        for name, part in own.items()
    ]
    repeatable(CALL, lambda: model(inputs), model.state_dict())
    for hook in hooks:
        hook.remove()
    names = [*called][1:]
    if len(names) < 2:
        raise ValueError(
            f"{CALL}(node=None): expected at least 2 layers after the first, {type(model).__name__} calls {names}; "
            r"name the submodules, as in node=r'blocks\.\d+'"
        )
    return names


def _chosen(model: nn.Module, node: Nodes) -> list[str]:
    modules = dict(model.named_modules())
    if isinstance(node, str):
        try:
            names = [name for name in modules if re.fullmatch(node, name)]
        except re.error as error:
            raise ValueError(f"{CALL}(node=...): {said(node)} is no regular expression: {error}") from None
    elif callable(node):
        try:
            names = [name for name, part in modules.items() if node(name, part)]
        except Exception as error:
            raise TypeError(f"{CALL}(node=...): expected a function of (name, module), {said(error)}") from error
    else:
        names = listed(CALL, "node=...", node, "names of submodules", 0)
        missing = [name for name in names if not isinstance(name, str) or name not in modules]
        if missing:
            raise ValueError(f"{CALL}(node=...): no submodule {missing[0]!r}; there are {', '.join(modules)!s:.200}")
    if len(names) < 2:
        raise ValueError(
            f"{CALL}(node=...): expected at least 2 submodules, got {names}; there are {list(modules)!r:.200}"
        )
    return names


class _Graph:
    """The tensors at the nodes, with their graph, in the order of the calls."""

    def __init__(self, module: nn.Module, names: Sequence[str], side: str) -> None:
        self.module, self.names = module, names
        self.found: dict[str, tuple[Tensor, int]] = {}
        for name in names:
            part = module.get_submodule(name)
            if side == "input":
                part.register_forward_pre_hook(
                    lambda _, given, name=name: self._keep(name, given[0] if given else None)
                )
            else:
                part.register_forward_hook(lambda _, given, value, name=name: self._keep(name, value))

    def _keep(self, name: str, value: object) -> None:
        if name in self.found:
            raise ValueError(f"{CALL}(node=...): {name} is called more than once; a node has one place in the graph")
        if not isinstance(value, Tensor) or not value.is_floating_point():
            what = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{CALL}(node=...): expected one real tensor at {name}, got {what}; try the other side=")
        if not value.requires_grad:
            value.requires_grad_(True)
        self.found[name] = value, value._version

    @property
    def order(self) -> list[str]:
        return list(self.found)

    def __call__(self, inputs: Tensor) -> list[Tensor]:
        self.found = {}
        self.module(inputs.detach())
        missing = [name for name in self.names if name not in self.found]
        if missing:
            raise ValueError(f"{CALL}(node=...): {missing[0]} is not called in the forward pass; leave it out")
        for name, (value, version) in self.found.items():
            if value._version != version:
                raise ValueError(f"{CALL}(node=...): the tensor at {name} is overwritten in place; use inplace=False")
            if value.ndim < 2 or len(value) != len(inputs):
                raise ValueError(
                    f"{CALL}(node=...): expected (N, ...) with N = {len(inputs)} at {name}, got {tuple(value.shape)}"
                )
        return [value for value, _ in self.found.values()]


def _gains(nodes: list[Tensor], norms: bool) -> tuple[Tensor, Tensor]:
    """Return |dh_m/dh_l|_F^2 / n_m and |dh_m/dh_l|_2, each (N, nodes, nodes), NaN unless l < m."""
    samples, count = len(nodes[0]), len(nodes)
    gain, norm = nodes[0].new_full((2, samples, count, count), torch.nan)
    for m in range(1, count):
        for below, jacobian in enumerate(_jacobians(nodes[m], nodes[:m])):
            gain[:, below, m] = jacobian.square().sum((1, 2)) / jacobian.shape[1]
            if norms:
                small = jacobian if jacobian.shape[1] <= jacobian.shape[2] else jacobian.mT
                norm[:, below, m] = torch.linalg.eigvalsh(small @ small.mT)[:, -1].clamp(min=0).sqrt()
    return gain, norm


def _jacobians(top: Tensor, below: list[Tensor]) -> list[Tensor]:
    """Return dtop/dh for each h of ``below``, (N, n_top, n_h).

    Samples are independent, so one backward pass per unit serves the whole batch.
    """
    samples, units = len(top), top[0].numel()
    seeds = torch.eye(units, dtype=top.dtype, device=top.device)[:, None].expand(units, samples, units)
    seeds = seeds.reshape(units, *top.shape)
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    try:
        rows = torch.autograd.grad(top, below, seeds, is_grads_batched=True, **options)
    except RuntimeError:
        each = [torch.autograd.grad(top, below, seed, **options) for seed in seeds]
        rows = [torch.stack(part) for part in zip(*each, strict=True)]
    return [part.detach().reshape(units, samples, -1).transpose(0, 1) for part in rows]
