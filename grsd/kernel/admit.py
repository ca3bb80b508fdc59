"""What is refused before any large computing, and the network that is then worked on: a private copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from grsd.checks import (
    FEW,
    check_coupling,
    check_inputs,
    check_module,
    check_outputs,
    floating_dtype,
    repeatable,
    resolve_device,
)
from grsd.tangents import Network, Reading, read


@dataclass(frozen=True)
class Admitted:
    """A network fit for a tangent kernel, its batch on the device, and one reading of it and of a few samples."""

    network: Network
    inputs: Tensor
    reading: Reading
    few: Reading

    @property
    def outputs(self) -> Tensor:
        return self.reading.outputs

    @property
    def samples(self) -> int:
        return len(self.inputs)

    @property
    def classes(self) -> int:
        return self.outputs.numel() // self.samples


Look = Callable[[Network, Tensor, Reading], Reading]


def _read(network: Network, inputs: Tensor, few: Reading) -> Reading:
    return read(network, inputs)


def admit(
    call: str,
    model: nn.Module,
    inputs: Tensor,
    dtype: torch.dtype,
    device: str | torch.device | None,
    look: Look = _read,
) -> Admitted:
    """``look(network, inputs, few)``: the first reading of all samples, after one of a few."""
    check_inputs(call, model, inputs)
    check_module(call, model, device)
    floating_dtype(call, dtype)
    device = resolve_device(call, device, model)
    network = Network(model, dtype, device)
    inputs = inputs.to(device=device, dtype=dtype if inputs.is_floating_point() else None, copy=True)
    readings: list[Reading] = []

    def of_few() -> Tensor:
        readings.append(read(network, inputs[:FEW]))
        return readings[0].outputs

    kept = network.fixed | network.parameters | {"inputs": inputs}
    few = repeatable(call, of_few, kept, lambda: network(network.parameters, inputs[:FEW]))
    fit = isinstance(few, Tensor) and few.ndim in {1, 2} and len(few) > 0 and few.is_floating_point()
    reading = (look if fit else _read)(network, inputs, readings[0])
    check_outputs(call, reading.outputs, len(inputs))
    check_coupling(call, lambda batch: network(network.parameters, batch), inputs, reading.outputs, few)
    return Admitted(network, inputs, reading, readings[0])
