r"""One step of training by shell: what the step without noise does, what the noise of the minibatch adds, the rest.

A step leads from theta_0 to theta_1; without noise, with the gradient of all samples, it would have led to theta_d.
With J and the second derivative H = d^2 l / df^2 of the loss at theta_0, the force e = dl/df changes to first order by
a = H J (theta_d - theta_0) without noise and by b = H J (theta_1 - theta_d) through it. The relaxation of the budget
between the states, R_a = 1/2 <De, [w_a(M_0) + w_a(M_1)] ebar>, is then exactly, with w_0 = w_a(M_0),

.. math:: R_a = \underbrace{\langle a, w_0 e_0\rangle}_{descent} + \underbrace{\tfrac12 \langle a, w_0 a\rangle}_{
          overshoot} + \underbrace{\langle b, w_0 (e_0 + a)\rangle}_{fluctuation} + \underbrace{\tfrac12 \langle b, w_0
          b\rangle}_{heating} + rest ,

and the rest, of second order in the step, is the curvature of the network and the movement of the windows, each
without noise and through it, and what is of third order. The split is this project's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from grsd.flow.states import State, module_of
from grsd.jacobian import exact_derivatives
from grsd.jacobian.network import Parameters
from grsd.jacobian.prepare import PreparedModel, prepare
from grsd.jacobian.products import push
from grsd.losses import Loss, check_loss, fitting_targets, force_along
from grsd.shells.windows import LEAST_MODES, LEAST_SHARE, MASK_FLAGS, LogShells, mask_flags, shell_coords
from grsd.support.arguments import described, listed
from grsd.support.checks import in_one_line
from grsd.support.provenance import provenance
from grsd.support.values import said
from grsd.training.dense import DenseState, log_eigenvalues
from grsd.training.reading import Reading

STATES = {"before": "before the step", "expected": "after the step without noise", "after": "after the step"}
FIRST_ORDER = {
    "descent": "first order of the step without noise, <a, w e>",
    "overshoot": "second order of the step without noise at a network that stays linear, <a, w a> / 2",
    "fluctuation": "linear in the noise, <b, w (e + a)>",
    "heating": "quadratic in the noise at a network that stays linear, <b, w b> / 2",
}
REST = {
    "curvature_drift": "force beyond first order, step without noise, <De_d - a, w e>",
    "curvature_noise": "force beyond first order, through the noise, <De - De_d - b, w e>",
    "windows_drift": "windows that move, step without noise",
    "windows_noise": "windows that move, through the noise",
    "higher": "what is of third order in the step",
}
VARIABLES = {
    **{f"energy_{state}": f"energy E_a {text}" for state, text in STATES.items()},
    "relaxation": "change of energy by the change of the force, R_a",
    **{name: f"part of the relaxation: {text}" for name, text in FIRST_ORDER.items()},
    "rest": "part of the relaxation: the sum of the five below",
    **{name: f"part of the rest: {text}" for name, text in REST.items()},
    "transport": "change of energy by the change of the kernel, sum of T_ab over b",
    "transport_drift": "part of the transport: the step without noise",
    "transport_noise": "part of the transport: through the noise",
}


def next_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, objective: Callable[[nn.Module], Tensor]
) -> dict[str, Tensor]:
    """Return the state dict that the optimizer's next step would give with the gradient of ``objective``.

    Args:
        model: the network as it is before the step. ``optimizer``: one that holds its parameters, with the state that
            it has before the step (momentum, second moments).
        objective: returns a scalar loss of the network that it is given: the mean over all samples for the
            ``expected`` state of ``step_budget``, the mean over a minibatch for an ``after``.

    Neither the model nor the optimizer changes.
    Errors: ``TypeError`` for what is no module or optimizer; ``ValueError`` if the optimizer holds other parameters;
    ``RuntimeError`` in one line if the step fails.
    """
    call = "next_state"
    for name, value, kind in (("model", model, nn.Module), ("optimizer", optimizer, torch.optim.Optimizer)):
        if not isinstance(value, kind):
            raise TypeError(f"{call}({name}=...): expected a {kind.__module__}.{kind.__name__}, got {said(value)}")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not held & {id(p) for p in model.parameters()}:
        raise ValueError(f"{call}(model, optimizer): the optimizer holds no parameter of the model")

    def failed(error: Exception) -> str:
        text = (str(error).strip() or "no message").splitlines()[0]
        return f"(model, optimizer, objective): the step failed ({type(error).__name__}: {text})"

    with torch.enable_grad(), in_one_line(call, failed):
        own, twin = copy.deepcopy((model, optimizer))
        twin.zero_grad()
        objective(own).backward()
        twin.step()
    return {name: value.detach() for name, value in own.state_dict().items()}


def step_budget(
    before: State,
    expected: State,
    after: State,
    inputs: Tensor,
    targets: Tensor,
    shells: LogShells,
    *,
    loss: Loss = "mse",
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    memory_limit: str | int | None = None,
    parameters: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Split what one step of any optimizer does to the energies of the shells into drift, noise and the rest.

    Args:
        before, after: the states before and after the step, each a module or (module, state_dict).
        expected: the state that the step would have reached without noise, as from ``next_state``.
        inputs, targets, shells, loss, dtype, device, memory_limit, parameters: as for ``checkpoint_budget``. The inputs
            are all samples, so that the noise of a minibatch drawn from them has mean zero.

    Returns: over ``shell``, in units of energy,

        * ``energy_before``, ``energy_expected``, ``energy_after``; their change is ``relaxation`` plus ``transport``;
        * ``relaxation`` = ``descent`` + ``overshoot`` + ``fluctuation`` + ``heating`` + ``rest``. For the squared error
          under gradient descent overshoot / -descent is eta lambda / 2 in a narrow shell: above 1 the shell is past the
          edge of stability. The fluctuation is linear in the noise and vanishes in the mean over minibatches if the
          step is linear in the gradient (Adam's is not); the heating does not, see ``expected_heating``;
        * ``rest`` = ``curvature_drift`` + ``curvature_noise`` + ``windows_drift`` + ``windows_noise`` + ``higher``: of
          second order in the step, so that half the step leaves a quarter; ``higher`` is of third order. Curvature and
          windows through the noise are of the same order as the heating and do not vanish in the mean either: in
          shells with little energy they can be much larger than it;
        * ``transport`` = ``transport_drift`` + ``transport_noise``, what the change of the kernel did;
        * ``mask``: zero where the numbers are meaningful, as in ``checkpoint_budget`` for the state before.

    Buffers and frozen parameters that change count as curvature. That the parts add up proves the algebra alone.
    Cost: three kernels and eigendecompositions. Errors: as for ``checkpoint_budget``.
    """
    reading = Reading("step_budget", inputs, targets, shells, loss, "dense", dtype, device, memory_limit)
    described(reading.call, parameters)
    return _budgets(reading, before, expected, {"after": after}, parameters).isel(draw=0, drop=True)


def step_budgets(
    before: State,
    expected: State,
    after: Sequence[State],
    inputs: Tensor,
    targets: Tensor,
    shells: LogShells,
    *,
    loss: Loss = "mse",
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    memory_limit: str | int | None = None,
    parameters: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """``step_budget`` of several steps from one state, such as with different minibatches, along ``draw``.

    ``after``: the states that they reached; the shells are those of the states before and expected. Each state after
    costs one kernel. Other arguments and errors as there.
    """
    reading = Reading("step_budgets", inputs, targets, shells, loss, "dense", dtype, device, memory_limit)
    described(reading.call, parameters)
    states = listed(reading.call, "after", after, "states, modules or (module, state_dict)")
    return _budgets(reading, before, expected, {f"after[{k}]": state for k, state in enumerate(states)}, parameters)


@dataclass(frozen=True)
class _Start:
    """The state before the step: its kernel, its network, and how forces change with the parameters."""

    reading: Reading
    state: DenseState
    prepared: PreparedModel
    targets: Tensor

    def change(self, direction: Parameters) -> Tensor:
        """Return H J direction (D,)."""
        network, outputs = self.prepared.network, self.prepared.outputs.detach()
        with exact_derivatives():
            pushed = push(network, self.prepared.inputs, direction)
        loss = self.reading.loss
        return force_along(self.reading.call, loss, outputs, self.targets, pushed).reshape(-1)


@dataclass(frozen=True)
class _Form:
    """The quadratic forms <x, w_a(M) y> of all shells."""

    vectors: Tensor
    windows: Tensor

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return self.windows @ ((self.vectors.T @ x) * (self.vectors.T @ y))


def start_of(reading: Reading, before: State) -> _Start:
    """Read the state before a step, with its network."""
    reading.decide(reading.force("before", before).force, 3)
    state, prepared = reading.look("before", before), _prepared(reading, "before", before)
    targets = fitting_targets(reading.call, reading.loss, prepared.outputs.detach(), reading.targets)
    return _Start(reading, state, prepared, targets)


def form_of(state: DenseState, shells: LogShells, indices: np.ndarray) -> _Form:
    """Return the quadratic forms of a state's windows."""
    s = log_eigenvalues(state.spectrum)
    at = torch.as_tensor(indices[1:] * shells.width, dtype=s.dtype, device=s.device)
    return _Form(state.spectrum.eigenvectors, shells.derivatives(s, at, 0)[0])


def shell_dataset(
    reading: Reading, data: Mapping[str, tuple], start: _Start, indices: np.ndarray, parameters: Mapping | None
) -> xr.Dataset:
    """Label ``data`` over the shells, with the mask of the state before."""
    shells, state = reading.shells, start.state
    form = form_of(state, shells, indices)
    energy = (form(state.force, state.force) / 2).cpu().numpy()
    modes = form.windows.sum(1).cpu().numpy()
    below = xr.DataArray(indices * shells.width < np.log(state.spectrum.floor), dims="shell")
    rows = {name: xr.DataArray(values, dims="shell") for name, values in (("modes", modes), ("energy", energy))}
    flags = mask_flags(below, rows["modes"], LEAST_MODES, rows["energy"], float(energy.sum()))
    text = f"0: kept; below_floor: reaches under the precision floor; few_modes: fewer than {LEAST_MODES:g}; "
    flags = flags.assign_attrs(
        long_name=text + f"no_energy: at most {LEAST_SHARE:g} of all",
        flag_masks=np.array(list(MASK_FLAGS.values()), dtype=np.int8),
        flag_meanings=" ".join(MASK_FLAGS),
    )
    coords = {name: of for name, of in shell_coords(indices, shells.width).items() if name != "shell_from"}
    found = xr.Dataset({**data, "mask": flags}, coords)
    for name, variable in found.data_vars.items():
        if not np.isfinite(variable).all():
            raise ValueError(
                f"{reading.call}(inputs, targets): {name} leaves the range of {variable.dtype}; choose other units"
            )
    settings = {
        "shell_width": shells.width,
        "smoothing": shells.smoothing,
        "loss": check_loss(reading.call, reading.loss),
        "samples": len(reading.inputs),
        "dimension": len(state.force),
    }
    return found.assign_attrs(provenance(parameters) | settings)


def _prepared(reading: Reading, name: str, state: State) -> PreparedModel:
    with exact_derivatives(), reading.naming(name):
        module = module_of(reading.call, name, state)
        return prepare(reading.call, module, reading.inputs, reading.dtype, reading.device)


def _budgets(
    reading: Reading, before: State, expected: State, after: Mapping[str, State], parameters: Mapping | None
) -> xr.Dataset:
    """Return the budgets of the steps ``after`` along ``draw``."""
    for name, state in {"before": before, "expected": expected, **after}.items():
        reading.force(name, state)
    start = start_of(reading, before)
    calm, there = reading.look("expected", expected), _prepared(reading, "expected", expected).network.parameters
    here = start.prepared.network.parameters
    ranges = [state.range() for state in (start.state, calm)]
    indices = np.array(reading.shells.indices(min(low for low, _ in ranges), max(high for _, high in ranges)))
    drift = start.change({name: there[name] - here[name] for name in here})
    forms = [form_of(state, reading.shells, indices) for state in (start.state, calm)]
    rows = []
    for name, state in after.items():
        end, at = reading.look(name, state), _prepared(reading, name, state).network.parameters
        noise = start.change({name: at[name] - there[name] for name in here})
        form = form_of(end, reading.shells, indices)
        rows.append(_split((start.state.force, calm.force, end.force), drift, noise, (*forms, form)))
    data = {
        name: (("draw", "shell"), np.stack([row[name].cpu().numpy() for row in rows]), {"long_name": text})
        for name, text in VARIABLES.items()
    }
    data = {name: (dims, values, text | {"units": "energy"}) for name, (dims, values, text) in data.items()}
    found = shell_dataset(reading, data, start, indices, parameters)
    return found.assign_coords(draw=("draw", np.arange(len(rows)), {"long_name": "step from the state before"}))


def _split(
    forces: tuple[Tensor, Tensor, Tensor], a: Tensor, b: Tensor, forms: tuple[_Form, _Form, _Form]
) -> dict[str, Tensor]:
    """Return the variables of one step by name, each (shells,)."""
    e0, ed, e1 = forces
    start, calm, end = forms
    change_d, change = ed - e0, e1 - e0
    mean_d, mean = (e0 + ed) / 2, (e0 + e1) / 2
    beyond_d, beyond = change_d - a, change - change_d - b
    windows_d = (calm(change_d, mean_d) - start(change_d, mean_d)) / 2
    transport_d = sum(calm(e, e) - start(e, e) for e in (e0, ed)) / 4
    transport = sum(end(e, e) - start(e, e) for e in (e0, e1)) / 4
    curved = beyond_d + beyond
    found = {
        "energy_before": start(e0, e0) / 2,
        "energy_expected": calm(ed, ed) / 2,
        "energy_after": end(e1, e1) / 2,
        "relaxation": (start(change, mean) + end(change, mean)) / 2,
        "descent": start(a, e0),
        "overshoot": start(a, a) / 2,
        "fluctuation": start(b, e0 + a),
        "heating": start(b, b) / 2,
        "curvature_drift": start(beyond_d, e0),
        "curvature_noise": start(beyond, e0),
        "windows_drift": windows_d,
        "windows_noise": (end(change, mean) - start(change, mean)) / 2 - windows_d,
        "higher": start(curved, a + b + curved / 2),
        "transport": transport,
        "transport_drift": transport_d,
        "transport_noise": transport - transport_d,
    }
    return found | {"rest": torch.stack([found[name] for name in REST]).sum(0)}
