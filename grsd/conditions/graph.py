"""The nodes of a network's computation graph, and the exact Jacobians between them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from grsd.support.arguments import listed
from grsd.support.checks import check_outputs, repeatable
from grsd.support.values import said

Nodes = str | Sequence[str] | Callable[[str, nn.Module], bool]
CALL = "propagation.measure"


def layers(model: nn.Module, inputs: Tensor) -> list[str]:
    """Return the submodules with parameters of their own, in the order of their calls, without the first.

    Those that are called more than once, or with whole numbers, are left out.
    """
    called: dict[str, int] = {}
    whole: set[str] = set()
    own = {name: part for name, part in model.named_modules() if name and [*part.parameters(recurse=False)]}

    def count(_: nn.Module, given: tuple, *, name: str) -> None:
        called[name] = called.get(name, 0) + 1
        if given and isinstance(given[0], Tensor) and not given[0].is_floating_point():
            whole.add(name)

    hooks = [part.register_forward_pre_hook(partial(count, name=name)) for name, part in own.items()]
    repeatable(CALL, lambda: model(inputs), model.state_dict())
    called.clear()
    model(inputs)
    for hook in hooks:
        hook.remove()
    names = [name for name in [*called][1:] if called[name] == 1 and name not in whole]
    if len(names) < 2:
        several = [name for name, times in called.items() if times > 1]
        more = f" and {', '.join(several)!s:.80} more than once" if several else ""
        raise ValueError(
            f"{CALL}(node=None): expected at least 2 layers after the first, {type(model).__name__} calls "
            f"{names!s:.80}{more}; name the submodules, as in "
            r"node=r'blocks\.\d+', or take node=propagation.nodes(model, inputs)"
        )
    return names


def chosen(model: nn.Module, node: Nodes) -> list[str]:
    """Return the names of the submodules that ``node`` selects. Errors: if fewer than two match, or one is unknown."""
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


def passed(model: nn.Module, inputs: Tensor, side: str, call: str) -> list[str]:
    """Return the submodules through whose tensor at that ``side`` everything passes, in the order of their calls.

    Only submodules that are called once with one real tensor (N, ...) count. Where several have the same tensor, as a
    block and its first layer, the outermost is named. ``model``: a private copy, without trainable parameters.
    """
    repeatable(call, lambda: model(inputs), model.state_dict())
    seen: dict[str, list[tuple[object, int]]] = {}
    sources: list[Tensor] = []

    def keep(name: str, value: object) -> None:
        seen.setdefault(name, []).append((value, value._version if isinstance(value, Tensor) else 0))

    def enter(_: nn.Module, given: tuple, *, name: str) -> None:
        keep(name, given[0] if given else None)

    def leave(_: nn.Module, given: tuple, value: object, *, name: str) -> object:
        whole = bool(given) and isinstance(given[0], Tensor) and not given[0].is_floating_point()
        if whole and isinstance(value, Tensor) and value.is_floating_point() and not value.requires_grad:
            value = value.detach().requires_grad_()  # an embedding: what is made of its tokens begins here
            sources.append(value)
        if side == "output":
            keep(name, value)
        return value

    hooks = []
    for name, part in model.named_modules():
        if name and side == "input":
            hooks.append(part.register_forward_pre_hook(partial(enter, name=name)))
        if name:
            hooks.append(part.register_forward_hook(partial(leave, name=name)))
    batch = inputs.detach()
    outputs = model(batch.requires_grad_() if batch.is_floating_point() else batch)
    for hook in hooks:
        hook.remove()
    check_outputs(call, outputs, len(inputs), positions=True)
    kept: dict[int, str] = {}
    for name, [(value, version), *more] in seen.items():
        fit = isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1 and len(value) == len(inputs)
        if more or not fit or value.grad_fn is None or value._version != version:
            continue
        if not _ends(outputs.grad_fn, value.grad_fn) & _ends(value.grad_fn):
            known = kept.get(id(value))
            kept[id(value)] = name if known is None or known.startswith(f"{name}.") else known
    return list(kept.values())


def _ends(start: object, without: object = None) -> set[int]:
    """Return the leaves of a graph that can be reached from ``start`` without the node ``without``."""
    found, waiting, seen = set(), [start], {without}
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        waiting += [other for other, _ in node.next_functions]
    return found


class Graph:
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


def gains(nodes: list[Tensor], norms: bool) -> tuple[Tensor, Tensor]:
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
