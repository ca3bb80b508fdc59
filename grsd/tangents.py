r"""Per-layer inputs and output-backprops of a module, and their exact derivative in a direction.

A parameter used by linear layers has the Jacobian rows

.. math:: \frac{\partial f_{ic}}{\partial W} = \sum_t \delta_{ict}\, a_{it}^T ,

with a the layer's inputs and delta the derivative of output (i, c) in the layer's output, t running over the positions
where the parameter is used. Both are found by adding a zero perturbation to every layer's output; forward mode through
the whole gives their exact derivatives. Layers are recognised where they call ``torch.nn.functional.linear``, so no
hook is ever put on the user's module.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp, vmap
from torch.overrides import TorchFunctionMode

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Use:
    """One call of ``linear``: the trainable parameters it used, by name (None where frozen or absent)."""

    weight: str | None
    bias: str | None


@dataclass(frozen=True)
class Factor:
    """The Jacobian of some parameters in factored form.

    ``features`` a (N, T, p), ``backprops`` delta (C, N, T, q): J_ic = sum_t delta_ict a_it^T. A bias is a column of
    ones among the features. ``names`` are the parameters covered.
    """

    names: tuple[str, ...]
    features: Tensor
    backprops: Tensor


class Network:
    """A module as a function of its trainable parameters, on detached copies: the module itself is never written to."""

    def __init__(self, module: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
        def copied(tensor: Tensor) -> Tensor:
            return tensor.detach().to(device=device, dtype=dtype if tensor.is_floating_point() else None, copy=True)

        self.module = module
        self.parameters = {k: copied(p) for k, p in module.named_parameters() if p.requires_grad}
        self.fixed = {k: copied(p) for k, p in module.named_parameters() if not p.requires_grad}
        self.fixed |= {k: copied(b) for k, b in module.named_buffers()}

    def __call__(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        return functional_call(self.module, parameters | self.fixed, (inputs,))

    def outputs(self, inputs: Tensor) -> Tensor:
        """f(X) with no graph kept."""
        with torch.no_grad():
            return self(self.parameters, inputs)

    def pullback(self, inputs: Tensor, cotangent: Tensor) -> Parameters:
        """J^T cotangent; cotangent has the output's shape."""
        _, pull = vjp(lambda parameters: self(parameters, inputs), self.parameters)
        return pull(cotangent)[0]

    def pullback_and_rate(
        self, inputs: Tensor, cotangent: Tensor, direction: Parameters
    ) -> tuple[Parameters, Parameters]:
        """J^T cotangent and its derivative along ``direction``, the cotangent held fixed."""

        def gradient(parameters: Parameters) -> Parameters:
            return vjp(lambda p: self(p, inputs), parameters)[1](cotangent)[0]

        return jvp(gradient, (self.parameters,), (direction,))


class _Tap(TorchFunctionMode):
    """Sees every call of ``linear`` made with a known parameter; records its inputs and perturbs its output."""

    def __init__(self, parameters: Parameters, perturbations: list[Tensor] | None) -> None:
        super().__init__()
        self.names = {id(p): name for name, p in parameters.items()}
        self.perturbations = perturbations
        self.uses: list[Use] = []
        self.features: list[Tensor] = []
        self.shapes: list[torch.Size] = []

    def __torch_function__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func is not F.linear:
            return out
        features, weight, bias = _linear_arguments(*args, **kwargs)
        use = Use(self.names.get(id(weight)), self.names.get(id(bias)))
        if use == Use(None, None):
            return out
        if self.perturbations is not None:
            out = out + self.perturbations[len(self.uses)]
        self.uses.append(use)
        self.features.append(features)
        self.shapes.append(out.shape)
        return out


def _linear_arguments(
    input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    return input, weight, bias


@contextmanager
def _tapped(parameters: Parameters, perturbations: list[Tensor] | None = None):
    tap = _Tap(parameters, perturbations)
    with tap:
        yield tap


def linear_uses(network: Network, inputs: Tensor) -> tuple[list[Use], list[torch.Size], set[str]]:
    """The calls of ``linear`` in one forward pass, their output shapes, and the parameters that no call uses."""
    with torch.no_grad(), _tapped(network.parameters) as tap:
        network(network.parameters, inputs)
    claimed = {name for use in tap.uses for name in (use.weight, use.bias)}
    return tap.uses, tap.shapes, set(network.parameters) - claimed


def _recorder(network: Network, inputs: Tensor, shapes: list[torch.Size]) -> Callable:
    def record(parameters: Parameters) -> tuple[list[Tensor], list[Tensor]]:
        first = next(iter(parameters.values()))
        zeros = [torch.zeros(shape, dtype=first.dtype, device=first.device) for shape in shapes]

        def perturbed(perturbations: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
            with _tapped(parameters, perturbations) as tap:
                outputs = network(parameters, inputs)
            return outputs, tap.features

        outputs, pull, features = vjp(perturbed, zeros, has_aux=True)
        classes = outputs.shape[1] if outputs.ndim == 2 else 1
        select = torch.eye(classes, dtype=outputs.dtype, device=outputs.device)
        select = select[:, None, :].expand(classes, outputs.shape[0], classes).reshape(classes, *outputs.shape)
        (backprops,) = vmap(pull)(select)
        return features, backprops

    return record


def _group(uses: list[Use], features: list[Tensor], backprops: list[Tensor], bias_column: float) -> list[Factor]:
    """Add up per parameter: every use becomes one more position, so that tied weights are summed before squaring.

    ``bias_column`` is what stands for the bias among the features: 1, or 0 in a derivative.
    """
    apart = _shared_apart(uses)
    grouped: dict[Use, list[int]] = {}
    for index, use in enumerate(uses):
        for key in (Use(use.weight, None), Use(None, use.bias)) if apart else (use,):
            if key != Use(None, None):
                grouped.setdefault(key, []).append(index)

    factors = []
    for key, indices in grouped.items():
        stacked_features, stacked_backprops = [], []
        for index in indices:
            a, delta = features[index], backprops[index]
            samples = a.shape[0]
            positions = a[0, ..., 0].numel()
            columns = [a.reshape(samples, positions, a.shape[-1])] if key.weight is not None else []
            columns += [a.new_full((samples, positions, 1), bias_column)] if key.bias is not None else []
            stacked_features.append(columns[0] if len(columns) == 1 else torch.cat(columns, -1))
            stacked_backprops.append(delta.reshape(delta.shape[0], samples, positions, delta.shape[-1]))
        names = tuple(name for name in (key.weight, key.bias) if name is not None)
        one = len(indices) == 1
        factors.append(
            Factor(
                names,
                stacked_features[0] if one else torch.cat(stacked_features, 1),
                stacked_backprops[0] if one else torch.cat(stacked_backprops, 2),
            )
        )
    return factors


def _shared_apart(uses: list[Use]) -> bool:
    """Whether some weight goes with different biases, or some bias with different weights, in different uses."""
    pairs = {(use.weight, use.bias) for use in uses}
    weights = [w for w, _ in pairs if w is not None]
    biases = [b for _, b in pairs if b is not None]
    return len(set(weights)) < len(weights) or len(set(biases)) < len(biases)


def linear_factors(network: Network, inputs: Tensor) -> list[Factor]:
    """The factored Jacobian of every parameter used by linear layers."""
    uses, shapes, _ = linear_uses(network, inputs)
    with torch.no_grad():
        features, backprops = _recorder(network, inputs, shapes)(network.parameters)
    return _group(uses, features, backprops, 1.0)


def linear_factors_and_rates(network: Network, inputs: Tensor, direction: Parameters) -> list[tuple[Factor, Factor]]:
    """The factors and their exact derivatives along ``direction`` (forward mode through the backward pass)."""
    uses, shapes, _ = linear_uses(network, inputs)
    with torch.no_grad():
        values, rates = jvp(_recorder(network, inputs, shapes), (network.parameters,), (direction,))
    return list(zip(_group(uses, *values, 1.0), _group(uses, *rates, 0.0), strict=True))
