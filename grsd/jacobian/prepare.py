"""Refuses unsuitable models before any large computation, and prepares a private copy of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from grsd.jacobian.coupling import COUPLED, is_coupled, parts_of, same_values, the_others
from grsd.jacobian.groups import random_like
from grsd.jacobian.network import Network, Parameters
from grsd.jacobian.selection import matching
from grsd.jacobian.size import evaluated_at_once
from grsd.jacobian.trace import ForwardTrace, foreign_leaves, pull, trace_forward, trace_with_graph, trace_without_calls
from grsd.support.checks import FEW, check_inputs, check_module, check_outputs, floating_dtype, resolve_device
from grsd.support.faults import is_slip
from grsd.support.folders import one_line
from grsd.support.host import changed, read

COUPLED_GRADIENT = (
    "the gradient of a sample's output changes with the other samples of its batch, though the output does not (a "
    "detached mean?); M of a part of the batch is then no part of M: replace that layer"
)


@dataclass
class PreparedModel:
    """A network that is fit for a tangent kernel, its batch on the device, and the traces of its first evaluations.

    ``trace``: of all samples, with its graph if the problem is ``small``. After ``check_samples``: ``few``, a trace
    with its graph of the ``chosen`` samples alone (None if the model does not accept fewer samples), and
    ``gradient``, their J^T u for the random u ``probe``.
    """

    call: str
    model: nn.Module
    network: Network
    inputs: Tensor
    trace: ForwardTrace
    chosen: Tensor
    small: bool
    few: ForwardTrace | None = None
    probe: Tensor | None = None
    gradient: Parameters | None = None
    checked: bool = False

    @property
    def outputs(self) -> Tensor:
        return self.trace.outputs

    @property
    def samples(self) -> int:
        return len(self.inputs)

    @property
    def classes(self) -> int:
        return self.outputs.numel() // self.samples

    def check_samples(self) -> None:
        """Raise ``ValueError`` if the model is random, or if samples depend on each other in outputs or gradients."""
        if self.checked:
            return
        self.checked = True
        call, network, inputs, chosen = self.call, self.network, self.inputs, self.chosen
        parts = parts_of(self.samples, inputs.device)
        if self.few is None:
            self.few = _few(call, self.model, network, inputs, chosen, trace_without_calls)
            parts = parts[1:] if self.few is not None else parts
        if self.few is None:
            parts.append(the_others(parts[0], self.samples))
        few = self.few
        self._check_values(few, parts)
        if few is None:
            return
        if network.keeps and not network.repeats(inputs[chosen]):
            raise ValueError(f"{call}(model, ...): {changes('gives another output each time')}")
        ends = check_leaves(call, network, few, self.trace.leaves, [])
        self.probe = random_like(few.outputs)
        self.gradient = pull(network, few, inputs[chosen], self.probe)
        if self.small:
            check_leaves(call, network, self.trace, few.leaves, ends)
        else:
            self.check_gradient(ends)

    def check_gradient(self, ends: list[Tensor]) -> None:
        """Raise ``ValueError`` if the gradient of a few outputs is another one among other samples."""
        if self.few is not None and self.gradient is not None and len(self.chosen) < self.samples:
            _check_gradient(
                self.call, self.network, self.inputs, self.few, self.chosen, self.probe, self.gradient, ends
            )

    def _check_values(self, few: ForwardTrace | None, parts: list[Tensor]) -> None:
        """Raise ``ValueError`` if the model is random, or if the outputs of some samples depend on the others."""
        network, inputs, outputs = self.network, self.inputs, self.outputs.detach()
        agrees = few is None or same_values(few.outputs.detach(), outputs[self.chosen], outputs)
        if agrees and not is_coupled(partial(network, network.parameters), inputs, outputs, parts):
            return
        again = trace_forward(network, inputs).outputs
        if not torch.equal(again, outputs) and not same_values(again, outputs, outputs):
            raise ValueError(f"{self.call}(model, ...): {changes('gives another output each time')}")
        raise ValueError(f"{self.call}(model, ...): {COUPLED}")

    def release(self) -> None:
        """Free the graphs."""
        self.trace, self.few = self.trace.without_graph(), self.few and self.few.without_graph()


Small = Callable[[Network, ForwardTrace, int], bool]


def prepare(
    call: str,
    model: nn.Module,
    inputs: Tensor,
    dtype: torch.dtype,
    device: str | torch.device | None,
    small: Small | None = None,
    *,
    parameters: Sequence[str] | None = None,
    positions: bool = False,
) -> PreparedModel:
    """Check a model and its inputs, and evaluate it once.

    ``parameters``: patterns of the names of those that count; None: all trainable ones. ``positions``: outputs
    (N, T, C) are allowed too.
    ``small(network, few, samples)``: whether the graph of all samples may be held; if given, the caller has to call
    ``check_samples``. Errors: ``TypeError`` or ``ValueError`` in one line.
    """
    check_inputs(call, model, inputs)
    check_module(call, model, device)
    floating_dtype(call, dtype)
    device = resolve_device(call, device, model)
    network = copied(call, model, dtype, device)
    if parameters is not None:
        network.only([name.removeprefix(network.prefix) for name in matching(call, model, parameters)])
    inputs = inputs.detach().to(device=device, dtype=dtype if inputs.is_floating_point() else None, copy=True)
    kept = network.fixed | network.parameters | {"inputs": inputs}
    before = {name: tensor.clone() for name, tensor in kept.items()}
    direct = small is not None and evaluated_at_once(inputs)
    chosen = parts_of(len(inputs), device)[0] if direct else _chosen(inputs)
    network.forget(inputs[chosen])
    few, fit = None, False
    if direct:
        found = evaluated(call, model, network, inputs, trace_with_graph)
        fit = small is not None and _is_output(found.outputs) and small(network, found, len(inputs))
    else:
        few = _few(call, model, network, inputs, chosen)
        fit = few is not None and small is not None and _is_output(few.outputs) and small(network, few, len(inputs))
        found = evaluated(call, model, network, inputs, trace_with_graph if fit else trace_forward)
    network.composed = found.composed
    check_outputs(call, found.outputs, len(inputs), positions=positions)
    if found.outputs.dtype != dtype:
        raise TypeError(
            f"{call}(dtype={dtype}): the model casts to {found.outputs.dtype} on its way; take dtype="
            f"{found.outputs.dtype}, or a model that follows its inputs"
        )
    written = changed(kept, before)
    if written:
        raise ValueError(f"{call}(model, ...): {changes(f'changes {written[0]!r}')}")
    if found.leaves is not None and not found.outputs.requires_grad:
        raise ValueError(f"{call}(model, ...): no output depends on a trainable parameter; M would be zero")
    prepared = PreparedModel(call, model, network, inputs, found if fit else found.without_graph(), chosen, fit, few)
    if small is None:
        prepared.check_samples()
    return prepared


def _chosen(inputs: Tensor) -> Tensor:
    """Indices of some samples in descending order, without neighbours and without the first sample."""
    samples = len(inputs)
    step = max(2, samples // FEW) if samples > 2 else 1
    return torch.arange(samples - 1, 0 if samples > 1 else -1, -step, device=inputs.device)[:FEW]


def changes(what: str) -> str:
    return f"the model {what} when it is called (dropout or batch norm in training mode?); call model.eval() first"


def _is_output(outputs: object) -> bool:
    return (
        isinstance(outputs, Tensor)
        and outputs.ndim in {1, 2, 3}
        and outputs.numel() > 0
        and outputs.is_floating_point()
    )


def _few(
    call: str,
    model: nn.Module,
    network: Network,
    inputs: Tensor,
    chosen: Tensor,
    by: Callable[[Network, Tensor], ForwardTrace] = trace_with_graph,
) -> ForwardTrace | None:
    try:
        return evaluated(call, model, network, inputs[chosen], by)
    except ValueError:
        if len(chosen) == len(inputs):
            raise
        return None  # the model may need its full batch


def copied(call: str, model: nn.Module, dtype: torch.dtype, device: torch.device) -> Network:
    """The network of a model; a model that cannot be copied is a ``TypeError`` in one line."""
    try:
        return Network(model, dtype, device)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # an attribute of the model may raise anything when it is copied
        if is_slip(error):
            raise
        said = (str(error).strip() or "no message").splitlines()[0]
        raise TypeError(
            f"{call}(model, ...): the model cannot be copied ({type(error).__name__}: {said}); keep what has no copy, "
            "such as locks, generators and tensors with a graph, out of its attributes"
        ) from None


def evaluated(
    call: str, model: nn.Module, network: Network, inputs: Tensor, by: Callable[[Network, Tensor], ForwardTrace]
) -> ForwardTrace:
    """One evaluation; exceptions of the model become a ``ValueError`` in one line, those of the system pass."""
    try:
        return by(network, inputs)
    except (torch.OutOfMemoryError, MemoryError, OSError):
        raise
    except Exception as error:  # raised by the model
        if is_slip(error):
            raise
        said = f"{type(error).__name__}: {one_line((str(error).strip() or 'no message').splitlines()[0])}"
    if network.dtype == torch.float64 and _runs_in_float32(model, network, inputs):
        raise ValueError(
            f"{call}(model, ...): the model cannot be evaluated in torch.float64 ({said}); it can in float32: "
            "take dtype=torch.float32"
        ) from None
    elsewhere = "; what it keeps outside of its parameters and buffers stays on the CPU: make it a buffer"
    raise ValueError(
        f"{call}(model, inputs): the model cannot be evaluated on {len(inputs)} samples of shape "
        f"{tuple(inputs.shape[1:])} and {inputs.dtype} ({said}){elsewhere if 'same device' in said else ''}"
    ) from None


def _runs_in_float32(model: nn.Module, network: Network, inputs: Tensor) -> bool:
    try:
        single = Network(model, torch.float32, inputs.device)
        trace_forward(single, inputs.float() if inputs.is_floating_point() else inputs)
    except Exception as error:  # whatever the reason, float32 does not help
        if is_slip(error):
            raise
        return False
    return True


def check_leaves(
    call: str, network: Network, graph: ForwardTrace, earlier: Parameters | None, ends: list[Tensor]
) -> list[Tensor]:
    """Raise ``ValueError`` if no output depends on a parameter, or if the graph ends in a tensor kept between calls.

    ``earlier``: the leaves of an earlier graph; ``ends``: the other tensors in which it ended. Returns the other
    tensors in which this graph ends: one that the model creates within a call does not occur in two graphs.
    """
    if graph.leaves is None:
        return []
    if not graph.outputs.requires_grad:
        raise ValueError(f"{call}(model, ...): no output depends on a trainable parameter; M would be zero")
    foreign = foreign_leaves(graph.outputs, graph.leaves.values())
    for leaf in foreign:
        before = [name for name, own in (earlier or {}).items() if own is leaf]
        if before:
            raise ValueError(
                f"{call}(model, ...): the model keeps a tensor computed from {before[0]!r} from one call to the next, "
                "outside of its attributes (a global, a closure, a default argument?); make it anew in each call"
            )
        if id(leaf) in network.theirs:
            raise ValueError(
                f"{call}(model, ...): the model uses its {network.theirs[id(leaf)]!r} by a reference that a copy "
                "cannot follow (a closure over the module?); let the function take the module, or make it a method"
            )
        name = network.attributes.name_of(leaf)
        if name is None and not any(leaf is end for end in ends):
            continue
        what = f"a tensor of shape {tuple(leaf.shape)}" if name is None else repr(name)
        raise ValueError(
            f"{call}(model, ...): the model uses {what}, which requires gradients and is none of its parameters "
            "(kept from an earlier call, or a layer in a plain list?); drop it, or register it (nn.Parameter, "
            "nn.ModuleList)"
        )
    return foreign


def _check_gradient(
    call: str,
    network: Network,
    inputs: Tensor,
    few: ForwardTrace,
    chosen: Tensor,
    probe: Tensor,
    gradient: Parameters,
    ends: list[Tensor],
) -> None:
    """Raise ``ValueError`` if the gradient of a few outputs is another one among other samples."""
    others = torch.cat([chosen - 1, chosen.new_zeros(1)])
    batch = inputs[torch.cat([chosen, others[~torch.isin(others, chosen)]])]
    among = trace_with_graph(network, batch)
    check_leaves(call, network, among, few.leaves, ends)
    padded = probe.new_zeros(len(batch), *probe.shape[1:])
    padded[: len(probe)] = probe
    if not same_gradient(pull(network, among, batch, padded), gradient):
        raise ValueError(f"{call}(model, ...): {COUPLED_GRADIENT}")


def same_gradient(one: Parameters, other: Parameters) -> bool:
    """Whether two gradients agree up to rounding errors."""
    differences = [(one[name] - other[name]).square().sum() for name in one]
    squares = read([*differences, *(part.square().sum() for part in one.values())])
    difference, size = sum(squares[: len(one)]), sum(squares[len(one) :])
    eps = max(torch.finfo(part.dtype).eps for part in one.values())
    return difference <= (1e5 * eps) ** 2 * size
