r"""The exact energy budget between two states of any training, whatever the optimizer, loss and number of steps.

Let M_0, M_1 be the tangent kernels of two states on the same inputs, w_a the windows of the shells on the same edges,
e_0, e_1 the forces dl/df, E_a = 1/2 <e, w_a(M) e>, De = e_1 - e_0 and ebar their mean. Then, exactly,

.. math:: E_a(1) - E_a(0) = R_a + \sum_b T_{ab}, \qquad
          R_a = \tfrac12 \langle De, [w_a(M_0) + w_a(M_1)]\, \bar e\rangle, \qquad
          T_{ab} = \tfrac14 \sum_j \langle w_a(M_1) e_j, w_b(M_0) e_j\rangle - (a \leftrightarrow b).

It needs no derivative of M and divides by no gap. The identity is this project's; the shells are the paper's
(arXiv 2512.18209).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from grsd.decomposition import Spectrum, spectrum
from grsd.jacobian import exact_derivatives
from grsd.jacobian.prepare import prepare
from grsd.kernel.computation import KernelComputation
from grsd.shells.budget import log_range
from grsd.shells.forces import Loss, check_loss, fitting_targets, loss_and_force
from grsd.shells.windows import LEAST_MODES, LEAST_SHARE, MASK_FLAGS, LogShells, mask_flags, shell_coords
from grsd.support.arguments import described, listed
from grsd.support.checks import floating_dtype, memory_bytes
from grsd.support.provenance import provenance
from grsd.support.values import choice, fits_memory, instance, said

State = nn.Module | tuple[nn.Module, Mapping[str, Tensor]]
SHELL, PAIR, SCALAR = ("shell",), ("shell", "shell_from"), ()
LEGS = {
    "growth": "a growth of the whole kernel",
    "crossing": "eigenvalues that move relative to each other",
    "rotation": "eigenvectors that rotate",
}
PARTS = ("frozen", "growth", "rest")
VARIABLES = {
    "energy_before": (SHELL, "energy E_a of the first state", "energy"),
    "energy_after": (SHELL, "energy E_a of the second state", "energy"),
    "relaxation": (SHELL, "change of energy by the change of the force, R_a", "energy"),
    "transport": (PAIR, "energy gained from shell_from by the change of the kernel, T_ab", "energy"),
    "flux": (("boundary",), "energy carried upward through the boundary, sum of T_ab over a >= c > b", "energy"),
    **{leg: (PAIR, f"transport by {text}, mean of two orders", "energy") for leg, text in LEGS.items()},
    **{
        f"{leg}_order": (PAIR, f"transport by {text}, growth first minus growth last", "energy")
        for leg, text in LEGS.items()
    },
    "loss_before": (SCALAR, "mean loss of the first state", "loss"),
    "loss_after": (SCALAR, "mean loss of the second state", "loss"),
    "loss_dissipation_before": (SHELL, "-dL/dt under gradient flow, <e, w_a M e> / N, first state", "loss/time"),
    "loss_dissipation_after": (SHELL, "-dL/dt under gradient flow, <e, w_a M e> / N, second state", "loss/time"),
    "spectral_position_before": (SCALAR, "<e, M e> / (<e, e> tr M), first state", "1"),
    "spectral_position_after": (SCALAR, "<e, M e> / (<e, e> tr M), second state", "1"),
    "log_growth": (SCALAR, "mean change of log eigenvalues in order, over modes above both floors, rho", "1"),
    "grown_modes": (SCALAR, "number of modes whose eigenvalues are above both floors", "1"),
    "laziness": (("part",), "signed share of the change of the shells' energies, <part, change> / |change|^2", "1"),
    "modes_before": (SHELL, "effective number of modes of the first state", "1"),
    "modes_after": (SHELL, "effective number of modes of the second state", "1"),
}
MAY_LACK = {"spectral_position_before", "spectral_position_after", "laziness"}  # NaN if e = 0, or if nothing changes


def checkpoint_budget(
    before: State,
    after: State,
    inputs: Tensor,
    targets: Tensor,
    shells: LogShells,
    *,
    loss: Loss = "mse",
    method: str = "dense",
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    memory_limit: str | int | None = None,
    parameters: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Compute the exact energy budget between two states of any training: E_after - E_before = R_a + sum_b T_ab.

    Args:
        before, after: two states of one network, each a module or (module, state_dict). The modules are not changed.
        inputs: the samples on which both states are compared, shape (N, ...); they need not be those trained on.
        targets: for ``mse`` of exactly the output's shape; for ``cross-entropy`` class labels (N,).
        shells: their width and smoothing; without a span they cover both spectra.
        loss: sets e, the force dl/df of each sample's loss. ``"mse"``: l = |f - y|^2 / 2, e the residual;
            ``"cross-entropy"``: e = softmax minus one-hot; or a function of (outputs, targets) that returns the losses
            (N,), whose force comes by autograd.
        method: ``"dense"``, by the whole kernels.
        dtype, device, memory_limit: as for ``tangent_kernel``.
        parameters: values to write into the attributes besides versions and settings.

    Returns: a dataset with

        * ``energy_before``, ``energy_after`` over ``shell``; ``relaxation(shell)`` R_a, what the change of e did at the
          mean of the two kernels' windows; ``transport(shell, shell_from)`` T_ab, what the change of the kernel did,
          antisymmetric; ``flux(boundary)``, the sum of T_ab over a >= c > b;
        * ``growth``, ``crossing``, ``rotation`` over pairs of shells: transport along a path of kernels from M_0 to
          M_1. First all eigenvalues grow by e^rho, then each takes its own new value in ascending order, then the
          eigenvectors rotate. Given are the mean of this path and of the one in the opposite order, growth last, and
          their difference in ``growth_order``, ``crossing_order``, ``rotation_order``. ``log_growth`` rho is the mean
          change of log eigenvalues over the ``grown_modes`` above both precision floors. Each part is antisymmetric;
          their sums over ``shell_from`` add to those of ``transport``, single entries need not. Near avoided
          crossings, and within degenerate eigenspaces, only crossing plus rotation has a meaning;
        * ``laziness(part)``: signed shares of the change of the shells' energies, which add to one: ``frozen`` is the
          part of R_a (the same change of e at a kernel that stands still, mean of the first and the second), ``growth``
          that of a growing kernel, ``rest`` that of crossing and rotation; NaN if no energy changes beyond rounding;
        * ``loss_before``, ``loss_after``; ``loss_dissipation_before``, ``loss_dissipation_after`` over ``shell``:
          <e, w_a M e> / N, whose sum is -dL/dt under gradient flow; ``spectral_position_before``,
          ``spectral_position_after``: <e, M e> / (<e, e> tr M), NaN if e = 0;
        * ``modes_before``, ``modes_after``; ``mask(shell)``, zero where the numbers are meaningful, as in
          ``energy_budget`` but for both states together.

    That the budget closes proves its algebra alone: it also closes between two unrelated networks. Transport does not
    add over steps: the sum of the budgets of many small steps is not the budget of the large one, each is exact for its
    own two states. Sums over neighbouring shells are the budget at the coarser width with the same smoothing. As the
    states approach along gradient flow, T divided by the time between them tends to the coupling of ``energy_budget``
    at the midpoint.

    Cost: one kernel and one eigendecomposition per state, one product of (D, D) matrices per pair.
    Errors: ``TypeError``, ``ValueError`` or ``MemoryError`` in one line before any kernel is computed: outputs of
    different shapes, targets that do not fit the loss, NaN, active dropout, samples that depend on each other.
    """
    reading = _Reading("checkpoint_budget", inputs, targets, shells, loss, method, dtype, device, memory_limit)
    described(reading.call, parameters)
    return _budgets(reading, {"before": before, "after": after}, parameters).isel(step=0, drop=True)


def checkpoint_history(
    models: Sequence[State],
    inputs: Tensor,
    targets: Tensor,
    shells: LogShells,
    *,
    loss: Loss = "mse",
    method: str = "dense",
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    memory_limit: str | int | None = None,
    parameters: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """``checkpoint_budget`` between each two neighbours of a sequence of states, along ``step``; each kernel once.

    ``models``: two or more states, each a module or (module, state_dict); step k leads from ``models[k]`` to
    ``models[k + 1]``. All steps share their shells: without a span these cover all spectra, so that the
    decompositions of all states are held at once; with a span only two are. Other arguments and errors as there.
    """
    reading = _Reading("checkpoint_history", inputs, targets, shells, loss, method, dtype, device, memory_limit)
    described(reading.call, parameters)
    states = listed(reading.call, "models", models, "states, modules or (module, state_dict)", 2)
    return _budgets(reading, {f"models[{k}]": state for k, state in enumerate(states)}, parameters)


@dataclass(frozen=True)
class _Force:
    """The loss and the force e (D,) of one state."""

    loss: float
    force: Tensor


@dataclass(frozen=True)
class _Reading:
    """How the states of one call are read; refuses wrong settings at once."""

    call: str
    inputs: Tensor
    targets: Tensor
    shells: LogShells
    loss: Loss
    method: str
    dtype: torch.dtype
    device: str | torch.device | None
    memory_limit: str | int | None

    def __post_init__(self) -> None:
        instance(self.call, "shells", self.shells, LogShells, "LogShells")
        check_loss(self.call, self.loss)
        choice(self.call, "method", self.method, ("dense",))
        floating_dtype(self.call, self.dtype)
        if self.memory_limit is not None:
            memory_bytes(self.call, self.memory_limit)

    def forces(self, states: Mapping[str, State]) -> list[_Force]:
        """Return loss and force of every state after all checks of the states and of the targets."""
        found, first, shape = [], "", None
        for name, state in states.items():
            with exact_derivatives(), self._naming(name):
                outputs = prepare(self.call, self._module(name, state), self.inputs, self.dtype, self.device).outputs
                outputs = outputs.detach()
            if shape is not None and outputs.shape != shape:
                raise ValueError(
                    f"{self.call}({name}=...): expected outputs of shape {tuple(shape)}, as those of {first}, got "
                    f"{tuple(outputs.shape)}; a budget compares states of one network"
                )
            if shape is None:
                first, shape = name, outputs.shape
            targets = fitting_targets(self.call, self.loss, outputs, self.targets)
            loss, force = loss_and_force(self.call, self.loss, outputs, targets)
            found.append(_Force(loss, force.reshape(-1)))
        return found

    def spectra(self, states: Mapping[str, State]) -> Iterator[Spectrum]:
        """Yield the decomposed kernel of each state."""
        for name, state in states.items():
            with exact_derivatives(), self._naming(name):
                module, limits = self._module(name, state), (self.dtype, self.device, self.memory_limit)
                (kernel,) = KernelComputation(self.call, module, self.inputs, None, *limits).total()
                yield spectrum(kernel)

    def _module(self, name: str, state: object) -> nn.Module:
        if isinstance(state, nn.Module):
            return state
        pair = state if isinstance(state, tuple | list) and len(state) == 2 else (None, None)
        if not isinstance(pair[0], nn.Module) or not isinstance(pair[1], Mapping):
            raise TypeError(
                f"{self.call}({name}=...): expected a torch.nn.Module or (module, state_dict), got {said(state)}"
            )
        try:
            module = copy.deepcopy(pair[0])
            module.load_state_dict(pair[1])
        except Exception as error:  # a module may raise anything when it is copied or loaded
            text = " ".join(str(error).split())[:200]
            raise ValueError(f"{self.call}({name}=...): the state does not fit its module ({text})") from None
        return module

    @contextmanager
    def _naming(self, name: str) -> Iterator[None]:
        """Name the state in refusals of its model or of its kernel."""
        try:
            yield
        except (TypeError, ValueError, RuntimeError, MemoryError) as error:
            text = str(error)
            for start in (f"{self.call}(model, ...)", f"{self.call}(model, inputs)", "spectrum(kernel=...)"):
                if text.startswith(start):
                    raise type(error)(f"{self.call}({name}=...){text.removeprefix(start)}") from error.__cause__
            raise


def _budgets(reading: _Reading, states: Mapping[str, State], parameters: Mapping[str, object] | None) -> xr.Dataset:
    """Return the budgets between neighbouring ``states`` over ``step``."""
    forces = reading.forces(states)
    shells, samples, dimension = reading.shells, len(reading.inputs), len(forces[0].force)
    spectra = reading.spectra(states)
    low = high = 0.0
    if shells.span is None:
        fits_memory(reading.call, "shells", len(states) * dimension**2)
        spectra = list(spectra)
        ranges = [log_range(item) for item in spectra]
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    indices = np.array(shells.indices(low, high))
    steps = [
        _step(zip(forces[k : k + 2], pair, strict=True), shells, indices, samples)
        for k, pair in enumerate(pairwise(spectra))
    ]
    data = xr.Dataset()
    for name, (dims, text, units) in VARIABLES.items():
        values = np.stack([step[name] for step in steps])
        if name not in MAY_LACK and not np.isfinite(values).all():
            raise ValueError(
                f"{reading.call}(inputs, targets): the {text} leaves the range of {values.dtype}; choose other units"
            )
        data[name] = (("step", *dims), values, {"long_name": text, "units": units})
    flags = xr.concat([step["mask"] for step in steps], "step")
    text = f"0: kept; below_floor: reaches under a precision floor; few_modes: fewer than {LEAST_MODES:g} in both "
    data["mask"] = flags.assign_attrs(
        long_name=text + f"states; no_energy: energy at most {LEAST_SHARE:g} of all in both states",
        flag_masks=np.array(list(MASK_FLAGS.values()), dtype=np.int8),
        flag_meanings=" ".join(MASK_FLAGS),
    )
    boundary = {"long_name": "log eigenvalue at the boundary", "units": "log(1/time)"}
    coords = shell_coords(indices, shells.width) | {
        "boundary": ("boundary", indices[1:] * shells.width, boundary),
        "part": ("part", list(PARTS)),
        "step": ("step", np.arange(len(steps)), {"long_name": "step, from state k to state k + 1"}),
    }
    settings = {
        "shell_width": shells.width,
        "smoothing": shells.smoothing,
        "loss": check_loss(reading.call, reading.loss),
        "method": reading.method,
        "samples": samples,
        "dimension": dimension,
    }
    return data.assign_coords(coords).assign_attrs(provenance(parameters) | settings)


def _log(found: Spectrum) -> Tensor:
    """Return log eigenvalues, -inf at and below the precision floor."""
    above = found.eigenvalues > found.floor
    return torch.where(above, found.eigenvalues, torch.zeros_like(found.eigenvalues)).log()


def _exchange(after: Tensor, weight: Tensor, before: Tensor) -> Tensor:
    """Return the transport between two kernels with windows ``after`` and ``before`` (shells, D).

    ``weight``: (D, D), the overlaps of their eigenvectors times the amplitudes of e; (D,) if the eigenvectors are the
    same.
    """
    found = (after * weight) @ before.T if weight.ndim == 1 else after @ (weight @ before.T)
    return (found - found.T) / 2


def _step(states: Iterator[tuple[_Force, Spectrum]], shells: LogShells, indices: np.ndarray, samples: int) -> dict:
    """Return the variables of the budget between two states, by name."""
    (force0, modes0), (force1, modes1) = states
    both = torch.stack([force0.force, force1.force], 1).to(modes0.eigenvalues)
    g0, g1 = modes0.eigenvectors.T @ both, modes1.eigenvectors.T @ both
    s0, s1 = _log(modes0), _log(modes1)
    grown = (s0 > -torch.inf) & (s1 > -torch.inf)
    rho = (s1 - s0)[grown].mean()
    at = torch.as_tensor(indices[1:] * shells.width, dtype=s0.dtype, device=s0.device)
    w0, w0_grown, w1, w1_shrunk = (shells.derivatives(s, at, 0)[0] for s in (s0, s0 + rho, s1, s1 - rho))

    weight = (modes1.eigenvectors.T @ modes0.eigenvectors).mul_(g1 @ g0.T / 2)
    own0, own1 = g0.square().mean(1), g1.square().mean(1)
    first = {
        "growth": _exchange(w0_grown, own0, w0),
        "crossing": _exchange(w1, own0, w0_grown),
        "rotation": _exchange(w1, weight, w1),
    }
    last = {
        "rotation": _exchange(w0, weight, w0),
        "crossing": _exchange(w1_shrunk, own1, w0),
        "growth": _exchange(w1, own1, w1_shrunk),
    }
    transport = _exchange(w1, weight, w0)
    legs = {leg: (first[leg] + last[leg]) / 2 for leg in LEGS}
    relaxation = sum(w @ ((g[:, 1] - g[:, 0]) * g.mean(1)) for w, g in ((w0, g0), (w1, g1))) / 2
    shares = torch.stack([relaxation, legs["growth"].sum(1), (legs["crossing"] + legs["rotation"]).sum(1)])
    change = shares.sum(0)
    unit = change.abs().max()
    rounding = len(g0) * torch.finfo(g0.dtype).eps * (own0.sum() + own1.sum())
    unit = torch.where(unit > rounding, unit, torch.full_like(unit, torch.nan))
    scaled = change / unit
    found = {
        "relaxation": relaxation,
        "transport": transport,
        "flux": torch.stack([transport[c:, :c].sum() for c in range(1, len(indices))]) if len(indices) > 1 else at,
        **legs,
        **{f"{leg}_order": first[leg] - last[leg] for leg in LEGS},
        "log_growth": rho,
        "grown_modes": grown.sum(),
        "laziness": (shares / unit) @ scaled / scaled.square().sum(),
    }
    sides = (("before", force0, modes0, g0[:, 0], w0), ("after", force1, modes1, g1[:, 1], w1))
    for side, force, modes, g, w in sides:
        squares = g.square()
        pumped = modes.eigenvalues * squares
        found |= {
            f"energy_{side}": w @ squares / 2,
            f"modes_{side}": w.sum(1),
            f"loss_{side}": torch.as_tensor(force.loss, dtype=g.dtype, device=g.device),
            f"loss_dissipation_{side}": w @ pumped / samples,
            f"spectral_position_{side}": pumped.sum() / squares.sum() / modes.eigenvalues.sum(),
        }
    step = {name: value.cpu().numpy() for name, value in found.items()}
    return step | {"mask": _mask(step, max(modes0.floor, modes1.floor), indices * shells.width)}


def _mask(step: Mapping[str, np.ndarray], floor: float, lowest: np.ndarray) -> xr.DataArray:
    most = {
        name: xr.DataArray(np.maximum(step[f"{name}_before"], step[f"{name}_after"]), dims="shell")
        for name in ("modes", "energy")
    }
    total = max(float(step["energy_before"].sum()), float(step["energy_after"].sum()))
    below = xr.DataArray(lowest < math.log(floor), dims="shell")
    return mask_flags(below, most["modes"], LEAST_MODES, most["energy"], total)
