r"""The network linearized about its parameters: its gradient flow in closed form, and its outputs along a training.

.. math:: f(t) = f_0 - K \frac{1 - e^{-M t}}{M} e_0, \qquad e(t) = e^{-M t} e_0,

with M of the training samples, K between any inputs and them, and e_0 = f_0 - Y. At t = infinity this is regression
with the tangent kernel. Source: Jacot et al. 2018, Lee et al. 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from grsd.flow.states import module_of
from grsd.jacobian import exact_derivatives
from grsd.jacobian.operators import KernelProducts
from grsd.kernel import tangent_kernel
from grsd.losses import fitting_targets
from grsd.support.values import said


def linearized_flow(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    times: Sequence[float] | np.ndarray,
    *,
    others: Tensor | None = None,
    parameters: Sequence[str] | None = None,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    memory_limit: str | int | None = None,
) -> xr.Dataset:
    """Return the outputs under gradient flow of |f - y|^2 / (2N) if the kernel stood still, in closed form.

    Args:
        model, inputs, targets: as in ``grsd.gradient_flow``.
        times: increasing, not negative; infinity is the limit, regression with the tangent kernel.
        others: a second batch (N2, ...), such as test inputs, to be predicted too.
        parameters, dtype, device, memory_limit: as in ``grsd.tangent_kernel``; named parameters learn alone.

    Returns: a dataset over ``time``: ``outputs(time, sample, output)``, ``loss(time)`` and, with ``others``,
    ``other_outputs(time, other, output)``. Modes under the precision floor D eps lambda_max never move, so that the
    limit is the regression of least norm. Cost: one kernel, one between the batches, and an eigendecomposition.
    Errors: as ``grsd.tangent_kernel`` and ``grsd.gradient_flow``.
    """
    call = "linearized_flow"
    at = _times(call, times)
    options = {"dtype": dtype, "device": device, "parameters": parameters}
    products = KernelProducts(model, inputs, **options, call=call)
    start = products.outputs
    wanted = fitting_targets(call, "mse", start, targets)
    limits = {"memory_limit": memory_limit, **options}
    kernel = tangent_kernel(model, inputs, **limits)
    error = (start - wanted).reshape(-1)
    eigenvalues, modes = torch.linalg.eigh(kernel.to(error.device))
    floor = len(error) * torch.finfo(error.dtype).eps * float(eigenvalues[-1])
    rates = torch.where(eigenvalues > floor, eigenvalues, torch.zeros_like(eigenvalues))
    along = modes.T @ error
    time = torch.as_tensor(at, dtype=error.dtype, device=error.device)[:, None]
    decay = torch.where(rates > 0, torch.exp(-rates * time), torch.ones_like(rates))
    errors = (decay * along) @ modes.T
    outputs = (start.reshape(-1) + errors - error).view(len(at), len(inputs), -1)
    moved = (1 - decay) * along / torch.where(rates > 0, rates, torch.ones_like(rates))
    data = {
        "outputs": (("time", "sample", "output"), outputs.cpu().numpy(), {"long_name": "outputs on the inputs"}),
        "loss": ("time", errors.square().sum(1).cpu().numpy() / (2 * len(inputs)), {"long_name": "|e|^2 / (2N)"}),
    }
    if others is not None:
        between = tangent_kernel(model, others, others=inputs, **limits).to(error.device)
        first = KernelProducts(model, others, **options, call=call).outputs.reshape(-1)
        found = (first - (moved @ modes.T) @ between.T).view(len(at), len(others), -1)
        text = {"long_name": "outputs on the other inputs"}
        data["other_outputs"] = ("time", "other", "output"), found.cpu().numpy(), text
    coords = {"time": ("time", at, {"long_name": "time of gradient flow", "units": "time"})}
    return xr.Dataset(data, coords, {"largest_eigenvalue": float(eigenvalues[-1]), "samples": len(inputs)})


def linear_outputs(
    model: nn.Module,
    state: nn.Module | Mapping[str, Tensor],
    inputs: Tensor,
    *,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    batch: int = 1000,
) -> Tensor:
    """Return f_0 + J (theta - theta_0) on the inputs, matrix-free: what a linear model would say after a training.

    Args:
        model: the module at theta_0, about which it is linearized.
        state: theta, a module of the same parameters or its state dict, such as a checkpoint of any training.
        batch: samples differentiated at once.

    Returns: of the output's shape. The distance from the true outputs at theta is how far the training is from lazy.
    Errors: as ``grsd.krylov.KernelProducts``; ``ValueError`` for a state that does not fit.
    """
    call = "linear_outputs"
    products = KernelProducts(model, inputs, dtype=dtype, device=device, batch=batch, call=call)
    after = module_of(call, "state", state if isinstance(state, nn.Module) else (model, state))
    there = {name.removeprefix(products.network.prefix): p for name, p in after.named_parameters()}
    change = {}
    for name, p in products.network.parameters.items():
        if name not in there or there[name].shape != p.shape or there[name].device.type == "meta":
            raise ValueError(f"{call}(state=...): expected the parameters of the model, {name!r} is another one there")
        change[name] = there[name].detach().to(p) - p
    with exact_derivatives():
        return products.outputs + products.push(change).view_as(products.outputs)


def _times(call: str, times: object) -> np.ndarray:
    """Increasing times from 0 to infinity, (T,)."""
    try:
        array = np.atleast_1d(np.asarray(times))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        array = np.empty(0)
    array = array.astype(float) if array.dtype.kind in "iuf" else np.empty(0)
    if array.ndim != 1 or not len(array) or not array[0] >= 0 or not (np.diff(array) > 0).all():
        raise ValueError(f"{call}(times): expected increasing times >= 0 of shape (T,), got {said(times)}")
    return array
