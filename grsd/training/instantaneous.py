r"""The force of any loss and its rate along any direction: what the budget of one instant needs besides M and M'.

With e = dl/df and theta' any direction, dE_a/dt = <e, w_a e'> + sum_b T_ab, e' = H J theta', H = d^2l/df^2. Along
gradient flow of the loss, theta' = -J^T e / N; for the squared error H = 1 and e' = -M e. Source: this project's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grsd.jacobian.directions import along_parameters
from grsd.jacobian.operators import KernelProducts
from grsd.losses import Loss, check_loss, fitting_targets, force_along, loss_and_force

CALL = "force_and_rate"


@dataclass(frozen=True)
class ForceAndRate:
    """The mean ``loss``, the ``force`` e and its ``rate`` e' along ``direction``, theta' by the parameters' names."""

    loss: float
    force: Float[Tensor, " D"]
    rate: Float[Tensor, " D"]
    direction: dict[str, Tensor]

    def __repr__(self) -> str:
        return f"ForceAndRate(loss={self.loss:.6g}, D={len(self.force)}, {len(self.direction)} parameters)"


def force_and_rate(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    loss: Loss = "mse",
    direction: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    batch: int = 1000,
) -> ForceAndRate:
    """Return e = dl/df and e' along a direction, for ``tangent_kernel_and_rate`` and ``energy_budget``.

    Args:
        model, inputs, dtype, device: as for ``tangent_kernel``; targets, loss: as for ``checkpoint_budget``.
        direction: theta' by the names of ``model.named_parameters()``, such as the step of an optimizer over its
            duration; ``None``: gradient flow of the mean loss, -J^T e / N.
        batch: samples differentiated at once.

    Returns: the loss, e and e' (D,), and the direction. The budget of any training at one instant is then

        now = grsd.force_and_rate(model, inputs, labels, loss="cross-entropy")
        kernel, rate = grsd.tangent_kernel_and_rate(model, inputs, direction=now.direction)
        budget = grsd.energy_budget(grsd.spectrum(kernel, rate), now.force, shells, error_rate=now.rate)

    Errors: as ``checkpoint_budget``; ``ValueError`` for a direction that does not fit the parameters.
    """
    check_loss(CALL, loss)
    products = KernelProducts(model, inputs, dtype=dtype, device=device, batch=batch, call=CALL)
    outputs, network = products.outputs, products.network
    targets = fitting_targets(CALL, loss, outputs, targets)
    value, force = loss_and_force(CALL, loss, outputs, targets)
    if direction is None:
        gradient = products.pull(force.reshape(-1))
        along = {name: -part / len(inputs) for name, part in gradient.items()}
    else:
        along = along_parameters(CALL, network, direction)
    moved = products.push(along).view_as(outputs)
    rate = force_along(CALL, loss, outputs, targets, moved)
    named = {network.prefix + name: part for name, part in along.items()}
    return ForceAndRate(value, force.reshape(-1), rate.reshape(-1), named)
