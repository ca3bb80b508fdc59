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

from collections.abc import Mapping, Sequence

import torch
import xarray as xr
from torch import Tensor

from grsd.flow.states import State
from grsd.losses import Loss
from grsd.shells.windows import LogShells
from grsd.support.arguments import described, listed
from grsd.support.values import fits_memory
from grsd.training.reading import Reading
from grsd.training.recorder import budgets_between


def checkpoint_budget(
    before: State,
    after: State,
    inputs: Tensor,
    targets: Tensor,
    shells: LogShells,
    *,
    loss: Loss = "mse",
    method: str = "auto",
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    memory_limit: str | int | None = None,
    steps: int = 80,
    tolerance: float = 0.1,
    batch: int = 1000,
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
        method: ``"dense"``, by the whole kernels; ``"krylov"``, by products with them; ``"auto"``: dense if the kernels
            fit into ``memory_limit``.
        dtype, device, memory_limit: as for ``tangent_kernel``.
        steps, tolerance, batch: of the Krylov route, as for ``krylov_spectrum``.
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
        * ``growth_rayleigh``, ``growth_rayleigh_order``, ``laziness_rayleigh``: the same with another growth, which
          needs no eigenvalues: ``log_growth_rayleigh``, the change of the log of <e, M e>, summed over both forces e;
        * ``modes_before``, ``modes_after``; ``mask(shell)``, zero where the numbers are meaningful, as in
          ``energy_budget`` but for both states together.

    The Krylov route gives ``NAME_error``, a stated error, beside each value over shells or boundaries, and lacks what
    needs eigenvectors or every mode: ``growth``, ``crossing``, ``rotation``, ``laziness``, ``spectral_position`` and
    ``modes``. Its mask says which shells have converged, as in ``krylov_spectrum``.

    That the budget closes proves its algebra alone: it also closes between two unrelated states. Transport does not
    add over steps: the sum of the budgets of many small steps is not the budget of the large one, each is exact for its
    own two states. Sums over neighbouring shells are the budget at the coarser width with the same smoothing. As the
    states approach along gradient flow, T divided by the time between them tends to the coupling of ``energy_budget``
    at the midpoint.

    Cost: one kernel and one eigendecomposition per state, one product of (D, D) matrices per pair. Krylov: ``steps``
    products with M four times per pair, three times along a history, and 3 D ``steps`` numbers.
    Errors: ``TypeError``, ``ValueError`` or ``MemoryError`` in one line before any kernel is computed: outputs of
    different shapes, targets that do not fit the loss, NaN, active dropout, samples that depend on each other.
    """
    reading = Reading(
        "checkpoint_budget", inputs, targets, shells, loss, method, dtype, device, memory_limit, steps, tolerance, batch
    )
    described(reading.call, parameters)
    return _budgets(reading, {"before": before, "after": after}, parameters).isel(step=0, drop=True)


def checkpoint_history(
    models: Sequence[State],
    inputs: Tensor,
    targets: Tensor,
    shells: LogShells,
    *,
    loss: Loss = "mse",
    method: str = "auto",
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    memory_limit: str | int | None = None,
    steps: int = 80,
    tolerance: float = 0.1,
    batch: int = 1000,
    parameters: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """``checkpoint_budget`` between each two neighbours of a sequence of states, along ``step``; each kernel once.

    ``models``: two or more states, each a module or (module, state_dict); step k leads from ``models[k]`` to
    ``models[k + 1]``. All steps share their shells: without a span these cover all spectra, so that the
    decompositions of all states are held at once; with a span only two are. Other arguments and errors as there.
    """
    reading = Reading(
        "checkpoint_history",
        inputs,
        targets,
        shells,
        loss,
        method,
        dtype,
        device,
        memory_limit,
        steps,
        tolerance,
        batch,
    )
    described(reading.call, parameters)
    states = listed(reading.call, "models", models, "states, modules or (module, state_dict)", 2)
    return _budgets(reading, {f"models[{k}]": state for k, state in enumerate(states)}, parameters)


def _budgets(reading: Reading, states: Mapping[str, State], parameters: Mapping[str, object] | None) -> xr.Dataset:
    """Return the budgets between neighbouring ``states`` over ``step``; all states are checked before any kernel."""
    forces = [reading.force(name, state).force for name, state in states.items()]
    whole = reading.shells.span is None
    reading.decide(forces[0], len(states) - 1 if whole else 1)
    seen = (reading.look(name, state) for name, state in states.items())
    if whole:
        if reading.route == "dense":
            fits_memory(reading.call, "shells", len(states) * reading.dimension**2)
        seen = list(seen)
    return budgets_between(reading, seen, parameters)
