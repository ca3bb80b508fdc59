r"""The expected heating of the shells by the noise of minibatches, from the kernel alone.

A minibatch of B of N samples gives the gradient g + xi. The kernel tells what xi does to the outputs: with P_i the
projection on the outputs of sample i, J xi = sum_i z_i M P_i e, where z_i = N m_i / B - 1 and m_i counts how often the
sample was drawn. The z_i have covariance c (N delta_ij - 1), c = 1 / B with replacement and (N - B) / (B (N - 1))
without. So, with u_i = H M P_i e and a step eta,

.. math:: \langle heating_a \rangle = \frac{\eta^2}{2} c \Big[ N \sum_i \langle u_i, w_a u_i\rangle -
          \langle \sum_i u_i, w_a \sum_i u_i \rangle \Big] = \frac{\eta^2}{2}\,
          \mathrm{tr}\, w_a H J\, \mathrm{Cov}(\xi)\, J^T H .
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from grsd.flow.states import State
from grsd.losses import Loss, force_along
from grsd.shells.windows import LogShells
from grsd.support.arguments import described
from grsd.support.values import flag, positive, whole_number
from grsd.training.noise import form_of, shell_dataset, start_of
from grsd.training.reading import Reading


def expected_heating(
    state: State,
    inputs: Tensor,
    targets: Tensor,
    shells: LogShells,
    *,
    batch: int,
    learning_rate: float,
    replacement: bool = False,
    loss: Loss = "mse",
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    memory_limit: str | int | None = None,
    parameters: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Return the mean of ``step_budget``'s heating over all minibatches, ``heating(shell)``, in units of energy.

    Args:
        state: before the step, a module or (module, state_dict).
        batch: B <= N samples in a minibatch, whose mean loss gives the gradient.
        learning_rate: what the gradient of the minibatch is multiplied by in the step: eta for gradient descent; with
            momentum and dampening tau eta (1 - tau), also in Nesterov's form eta (1 + mu (1 - tau)). Optimizers whose
            step is not linear in the gradient, such as Adam, have no such number.
        replacement: whether a sample can be drawn twice. Other arguments as for ``step_budget``.

    Cost: one kernel and its eigendecomposition, and N vectors in its eigenbasis. Errors: as for ``step_budget``;
    ``ValueError`` if the batch has more than N samples.
    """
    reading = Reading("expected_heating", inputs, targets, shells, loss, "dense", dtype, device, memory_limit)
    call = reading.call
    described(call, parameters)
    rate = positive(call, "learning_rate", learning_rate)
    drawn, again = whole_number(call, "batch", batch, 1), flag(call, "replacement", replacement)
    samples = len(inputs) if isinstance(inputs, Tensor) and inputs.ndim else 0
    if 0 < samples < drawn:
        raise ValueError(f"{call}(batch=...): expected at most the {samples} samples of the inputs, got {batch!r}")
    start = start_of(reading, state)
    modes, shape = start.state.spectrum, start.prepared.outputs.shape
    indices = np.array(shells.indices(*start.state.range()))
    form = form_of(start.state, shells, indices)
    each = torch.diag(start.state.force).reshape(len(start.state.force), samples, -1).sum(2)
    pushed = modes.eigenvectors @ (modes.eigenvalues[:, None] * (modes.eigenvectors.T @ each.to(modes.eigenvalues)))
    outputs = start.prepared.outputs.detach()
    moved = [force_along(call, loss, outputs, start.targets, column.reshape(shape)).reshape(-1) for column in pushed.T]
    u = modes.eigenvectors.T @ torch.stack(moved, 1)
    spread = 1 / drawn if again else (samples - drawn) / (drawn * max(samples - 1, 1))
    squares = samples * u.square().sum(1) - u.sum(1).square()
    heating = rate**2 / 2 * spread * (form.windows @ squares)
    text = {"long_name": "mean heating over all minibatches", "units": "energy"}
    data = {"heating": (("shell",), heating.cpu().numpy(), text)}
    found = shell_dataset(reading, data, start, indices, parameters)
    return found.assign_attrs(batch=drawn, learning_rate=rate, replacement=int(again))
