"""What is refused before any large computing, and the network that is then worked on: a private copy."""

from __future__ import annotations

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
    """A network fit for a tangent kernel, its batch on the device, and one reading of it."""

    network: Network
    inputs: Tensor
    reading: Reading

    @property
    def outputs(self) -> Tensor:
        return self.reading.outputs

    @property
    def samples(self) -> int:
        return len(self.inputs)

    @property
    def classes(self) -> int:
        return self.outputs.numel() // self.samples


def admit(
    call: str, model: nn.Module, inputs: Tensor, dtype: torch.dtype, device: str | torch.device | None
) -> Admitted:
    check_inputs(call, model, inputs)
    check_module(call, model, device)
    floating_dtype(call, dtype)
    device = resolve_device(call, device, model)
    network = Network(model, dtype, device)
    inputs = inputs.to(device=device, dtype=dtype if inputs.is_floating_point() else None, copy=True)
    kept = network.fixed | network.parameters | {"inputs": inputs}
    reading = repeatable(call, lambda: read(network, inputs), kept, lambda: network(network.parameters, inputs[:FEW]))
    check_outputs(call, reading.outputs, len(inputs))
    check_coupling(call, lambda batch: network(network.parameters, batch), inputs, reading.outputs)
    return Admitted(network, inputs, reading)
