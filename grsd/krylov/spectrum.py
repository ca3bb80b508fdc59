r"""Energies and fluxes from a small tridiagonal matrix, each with the error it may have.

.. math:: E_a = \tfrac12 |e|^2 \langle 1, w_a(T)\, 1\rangle, \qquad
          F(s) = -\tfrac12 |e|^2 \langle 1, (W_s^{[1]} \circ T')\, 1\rangle

in the eigenbasis of T: where the steps have converged, the budget of T, T' and |e| times the first unit vector is that
of M, M' and e. Convergence proceeds from the top of the spectrum downwards; ``grsd.krylov.rules`` bounds the rest.

For another loss than squared error e' is no multiple of M e and need not lie where the steps from e lead. Its share of
the budget is the difference of two energies, each with its own steps and its own error:

.. math:: \langle e, w_a(M)\, e' \rangle = \tfrac14 |e| |e'| \big( \langle p, w_a(M)\, p \rangle -
          \langle q, w_a(M)\, q \rangle \big), \qquad p, q = e / |e| \pm e' / |e'|

Source: this project's, on top of Gauss quadrature by Lanczos (Golub and Meurant 2010).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from grsd.decomposition import Spectrum
from grsd.jacobian.operators import ForcedProducts, KernelOperator, Products, Vector
from grsd.krylov.rules import QuadratureRule, alternatives, best, gauss
from grsd.krylov.tridiagonal import Tridiagonal, lanczos, rounding
from grsd.losses import Loss
from grsd.shells import LogShells, energy_budget, log_range
from grsd.shells.budget import VARIABLES
from grsd.shells.windows import LEAST_LOCAL_MODES, LEAST_MODES, MASK_FLAGS
from grsd.support.values import flag, positive, seed_of, whole_number

CALL = "krylov_spectrum"
SHELL, BOUNDARY = ("energy", "dissipation"), ("density", "flux", "velocity")
JUDGED = {"mask": ("energy",), "boundary_mask": ("density", "flux")}
FLAGS = MASK_FLAGS | {"not_converged": 8}
LEAST_STEPS = 6
FEWER_STEPS, COUNT = 5 / 6, 3
EXTRAPOLATION_SMOOTHINGS = 4.0
ISOLATED = 0.25
SAME_ERROR = 1e-8


@dataclass(frozen=True)
class KrylovSpectrum:
    """Krylov approximation of M and M' as seen from one error vector; ``grsd.energy_budget`` takes it as a spectrum.

    Attributes:
        error: e (D,), the start of the Lanczos steps.
        tridiagonal: T and T' in the Krylov basis of e.
        probes: T in the Krylov bases of random vectors, for the counts of modes; may be empty.
        tolerance: a shell whose energy, and a boundary whose density or flux, has a stated error that is a larger share
            of the value is masked ``not_converged``.
        relaxing: None for squared error, or if it is not asked for. For another loss pairs (c, steps): the relaxation
            is the sum of c times the
            energies that the steps find; no pair if e' = 0.
    """

    error: Vector
    tridiagonal: Tridiagonal
    probes: tuple[Tridiagonal, ...] = ()
    tolerance: float = 0.1
    relaxing: tuple[tuple[float, Tridiagonal], ...] | None = None

    def __repr__(self) -> str:
        steps, values = len(self.tridiagonal.matrix), self.eigenvalues
        rate = "without" if self.tridiagonal.rate is None else "with"
        span = f"Ritz values {float(values[0]):.3g} to {float(values[-1]):.3g}"
        return f"KrylovSpectrum(D={self.dimension}, {steps} steps, {span}, {rate} rate, {len(self.probes)} probes)"

    @property
    def dimension(self) -> int:
        """D."""
        return self.error.shape[0]

    @cached_property
    def floor(self) -> float:
        """The precision floor of M: D * eps * its largest Ritz value; in float32 10 sqrt(D) * eps."""
        top = float(torch.linalg.eigvalsh(self.tridiagonal.matrix)[-1])
        return rounding(self.dimension, self.error.dtype) * top

    @property
    def eigenvalues(self) -> Float[Tensor, " m"]:
        """Ritz values, ascending, dtype and device of the error; units 1 / time."""
        return torch.linalg.eigvalsh(self.tridiagonal.matrix).to(self.error)

    def budget(self, error: Tensor, shells: LogShells, parameters: Mapping[str, object] | None = None) -> xr.Dataset:
        """``energy_budget`` without couplings, drifts and the parts of the flux, which need every mode; flux needs T'.

        ``energy``, ``dissipation``, ``density``, ``flux`` and ``velocity`` have a stated ``_error`` each, the sum of

        * the largest difference from another quadrature rule that the same steps allow;
        * the largest difference from the results of fewer steps, down to five sixths of them;
        * the share of Ritz values that are isolated, like converged eigenvalues, although their residual is not small
          against the smoothing: they may contain structure that no step so far has resolved;
        * rounding errors, as in the dense route.

        For another loss than squared error there is ``relaxation`` too, from the energies of two more vectors; its
        stated error is the sum of theirs. The mask does not judge it: compare it with its own error, which can be a
        larger share of the value than that of the energy, as the two energies may nearly cancel.

        With probes, ``modes`` and ``local_modes`` are means over them; their errors are standard errors plus the change
        during the last third of the steps.
        """
        self._check(error)
        taken, floor = self.tridiagonal, self.floor
        ritz = gauss(taken).spectrum(floor)
        low, high = log_range(ritz)
        shells = replace(shells, span=shells.span or (low, max(high, math.nextafter(low, math.inf))))
        data = _of(best(taken, floor), floor, shells, parameters)
        names = [name for name in (*SHELL, *BOUNDARY) if name in data]
        kept = data[[*names, *JUDGED]]
        rivals = self._rivals(max(low, shells.span[0]), shells.smoothing)
        several = [[_of(rule, floor, shells) for rule in rules] for rules in rivals]
        shares = dict(zip((SHELL, BOUNDARY), hidden_shares(taken, ritz, shells, data.boundary.values), strict=True))
        sizes = {name: np.abs(data[name]) for name in names}
        hidden = {name: part * sizes[name] for group, part in shares.items() for name in group if name in sizes}
        for name in names:
            stated = hidden[name] + self._rounding(ritz, shells, data, name, sizes[name])
            for others in several:
                stated = stated + np.abs([other[name].values - data[name].values for other in others]).max(0)
            kept[f"{name}_error"] = stated.assign_attrs(
                long_name=f"stated error of {name}", units=data[name].attrs["units"]
            )
        if self.relaxing is not None:
            kept = kept.assign(self._relaxation(shells, xr.zeros_like(data.energy)))
        return self._masked(kept, self._counted(shells)).assign_attrs(
            dimension=self.dimension, steps=len(taken.matrix), probes=len(self.probes), tolerance=self.tolerance
        )

    def _check(self, error: Tensor) -> None:
        if not bool((error - self.error).norm() <= SAME_ERROR * self.error.norm()):
            raise ValueError(
                "energy_budget(error=...): expected the error that krylov_spectrum started from, the spectrum's own "
                ".error; another error, or that of another loss, needs steps of its own"
            )

    def _rivals(self, low: float, smoothing: float) -> list[list[QuadratureRule]]:
        """The rules to compare with: all that the steps allow, and the best ones of fewer steps."""
        taken, steps = self.tridiagonal, len(self.tridiagonal.matrix)
        if not taken.beta:
            return []
        fewer = np.unique(np.linspace(FEWER_STEPS * steps, steps - 1, COUNT).astype(int)).tolist()
        before = [best(taken.first(k), self.floor) for k in fewer]
        return [alternatives(taken, self.floor, low - EXTRAPOLATION_SMOOTHINGS * smoothing, smoothing), before]

    def _relaxation(self, shells: LogShells, none: xr.DataArray) -> dict[str, xr.DataArray]:
        """Return the relaxation and its stated error; ``none``: what they are without pairs."""
        value = stated = none
        for scale, steps in self.relaxing or ():
            found = KrylovSpectrum(self.error, steps).budget(self.error, shells)
            value, stated = value + scale * found.energy, stated + abs(scale) * found.energy_error
        _, text, units = VARIABLES["relaxation"]
        return {
            "relaxation": value.assign_attrs(long_name=text, units=units),
            "relaxation_error": stated.assign_attrs(long_name="stated error of relaxation", units=units),
        }

    def _rounding(
        self, ritz: Spectrum, shells: LogShells, data: xr.Dataset, name: str, value: xr.DataArray | np.ndarray
    ) -> xr.DataArray:
        """Rounding errors of eigenvectors, eps sqrt(D) |e|, and of eigenvalues, the floor's share of one smoothing.

        ``value``: the size of what is summed.
        """
        eps = torch.finfo(self.error.dtype).eps * math.sqrt(self.dimension)
        energy = self.tridiagonal.norm**2 / 2
        place, carried = ("shell", data.energy) if name in SHELL else ("boundary", data.density)
        blurred = ritz.floor * np.exp(-data[place]) / shells.smoothing
        if name in ("flux", "velocity"):
            flux = eps * energy * float(self.tridiagonal.rate.abs().max()) + blurred * np.abs(data.flux)
            return flux if name == "flux" else flux / carried + eps * np.sqrt(energy / carried) * value
        return (eps * np.sqrt(energy / carried.where(carried > 0)) + blurred) * value

    def _counted(self, shells: LogShells) -> xr.Dataset:
        """Means and standard errors over the probes: the mean energy of a random vector is 1/2 on every mode."""
        if not self.probes:
            return xr.Dataset()
        width = shells.smoothing * math.sqrt(2 * math.pi)
        fewer = [probe.first(2 * len(probe.matrix) // 3) if probe.beta else probe for probe in self.probes]
        budgets, before = (
            [_of(best(probe, self.floor), self.floor, shells) for probe in run] for run in (self.probes, fewer)
        )
        found = xr.Dataset()
        for name, source, scale in (("modes", "energy", 2.0), ("local_modes", "density", 2 * width)):
            each, less = (scale * xr.concat([part[source] for part in run], "probe") for run in (budgets, before))
            unsure = each.std("probe", ddof=1) / math.sqrt(len(budgets)) + abs((each - less).mean("probe"))
            text = budgets[0][name].attrs
            found[name] = each.mean("probe").assign_attrs(text)
            found[f"{name}_error"] = unsure.assign_attrs(text, long_name=f"error of {name}: standard error and steps")
        return found

    def _masked(self, data: xr.Dataset, counts: xr.Dataset) -> xr.Dataset:
        """Recompute the masks: a Ritz value is no mode, so that only probes give counts of modes."""
        least = {"mask": ("modes", LEAST_MODES), "boundary_mask": ("local_modes", LEAST_LOCAL_MODES)}
        for mask, names in JUDGED.items():
            count, few = least[mask]
            flags = data[mask] & ~np.int8(FLAGS["few_modes"])
            if counts:
                flags = flags + (counts[count] < few) * FLAGS["few_modes"]
            sure = [data[f"{name}_error"] <= self.tolerance * np.abs(data[name]) for name in names if name in data]
            flags = flags + ~np.logical_and.reduce(sure) * FLAGS["not_converged"]
            text = f"{data[mask].attrs['long_name']}; not_converged: stated error above {self.tolerance:g} of the value"
            data[mask] = flags.astype(np.int8).assign_attrs(
                long_name=text, flag_masks=np.array(list(FLAGS.values()), dtype=np.int8), flag_meanings=" ".join(FLAGS)
            )
        return data.assign(counts.data_vars)


def hidden_shares(
    taken: Tridiagonal, ritz: Spectrum, shells: LogShells, boundaries: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of each shell, and of each boundary, that isolated Ritz values with large residuals carry.

    ``ritz``: the spectrum of Gauss's rule of the steps ``taken``. The spectral measure of a Ritz vector has mean theta
    and, exactly, the standard deviation r = |beta_m S_mi|.
    """
    theta, weight = ritz.eigenvalues, ritz.eigenvectors[0].square()
    spread = _spread(taken, ritz, shells.smoothing)
    at = torch.tensor(boundaries, dtype=theta.dtype, device=theta.device)
    _, bell = shells.cumulative(theta, at, ritz.floor)
    parts = (_windows(ritz, shells, at), bell)
    found = [(part * weight) @ spread / (part @ weight).clamp_min(1e-300) for part in parts]
    return found[0].numpy(), found[1].numpy()


def _spread(taken: Tridiagonal, ritz: Spectrum, smoothing: float) -> Tensor:
    """How far an isolated Ritz value's measure spreads, as a share of one smoothing, squared, at most 1; else 0."""
    theta, r = ritz.eigenvalues, (taken.beta * ritz.eigenvectors[-1]).abs()
    far = theta.new_full((1,), math.inf)
    gap = torch.minimum(torch.cat([far, theta.diff()]), torch.cat([theta.diff(), far]))
    spread = (r / (smoothing * theta.clamp_min(ritz.floor))).square().clamp_max(1)
    return torch.where(r < ISOLATED * gap, spread, torch.zeros_like(spread))


def _windows(ritz: Spectrum, shells: LogShells, at: Tensor) -> Tensor:
    return shells.derivatives(torch.where(ritz.eigenvalues > ritz.floor, ritz.eigenvalues, 0.0).log(), at, 0)[0]


def _of(
    rule: QuadratureRule, floor: float, shells: LogShells, parameters: Mapping[str, object] | None = None
) -> xr.Dataset:
    return energy_budget(rule.spectrum(floor), rule.start, shells, parameters=parameters)


def krylov_spectrum(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    loss: Loss = "mse",
    steps: int = 80,
    rate: bool = True,
    relaxation: bool = True,
    probes: int = 0,
    tolerance: float = 0.1,
    batch: int = 1000,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
) -> KrylovSpectrum:
    """Krylov approximation of M and M' along gradient flow as seen from e = dl/df; neither matrix is formed.

    Args:
        model, inputs, targets, loss, device: as ``grsd.tangent_kernel_and_rate``. For "mse" e is f(X) - Y.
        steps: m, of Lanczos. Shells converge from the top downwards; masks show which ones need more steps.
        rate: False leaves out M', so that the budget has no flux and no velocity: a quarter of the time.
        relaxation: for another loss than "mse", the budget has <e, w_a e'>, which is -D_a there; it takes m more steps
            from each of two vectors, without M'. False leaves it out.
        probes: number of random sign vectors, 0 or at least 2, for the counts of modes; each takes m more steps
            without M'.
        tolerance: largest stated error of a converged value, as a share of the value.
        batch: samples differentiated at once, whose activations are held. A GPU is idle at 1,000: 20,000 of a small
            network took a twentieth of the time on an H100 at D = 10^6 (data/benchmarks).
        seed: of the probes.
        dtype: of the products; T is float64. float32 halves time and memory and raises the floor.

    Returns: ``KrylovSpectrum``; ``grsd.energy_budget(that, that.error, shells)`` gives the budget with its stated
    errors.
    Cost: the time of about 15 forward passes per step (6 without the rate), half as much again for the relaxation;
    2 D m numbers (D m without the rate) besides the memory of the model.
    Errors: as ``grsd.tangent_kernel_and_rate``; ``ValueError`` if e = 0.
    """
    whole_number(CALL, "steps", steps, LEAST_STEPS)
    positive(CALL, "tolerance", tolerance)
    if whole_number(CALL, "probes", probes, 0) == 1:
        raise ValueError(f"{CALL}(probes=...): expected 0 or at least 2, for a standard error, got 1")
    seed = seed_of(CALL, "seed", seed)
    flag(CALL, "rate", rate)
    flag(CALL, "relaxation", relaxation)
    options = {"loss": loss, "dtype": dtype, "device": device, "batch": batch, "call": CALL}
    operator = (KernelOperator if rate else ForcedProducts)(model, inputs, targets, **options)
    if not bool(operator.error.norm() > 0):
        what = "error f(X) - Y" if loss == "mse" else "force dl/df"
        raise ValueError(f"{CALL}(..., targets): the {what} is zero; there is no energy to follow")
    generator = torch.Generator("cpu").manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.int64, "device": "cpu"}
    signs = (torch.randint(2, (operator.dimension,), **draw) * 2 - 1 for _ in range(probes))
    taken, relaxing = lanczos(operator, operator.error, steps, rate=rate), None
    if relaxation and loss != "mse":
        relaxing = relaxing_steps(operator, operator.error, operator.error_rate(CALL), steps)
    return KrylovSpectrum(
        operator.error,
        taken,
        tuple(lanczos(operator, sign.to(operator.error), steps, rate=False) for sign in signs),
        float(tolerance),
        relaxing,
    )


def relaxing_steps(
    operator: Products, error: Vector, rate: Vector, steps: int
) -> tuple[tuple[float, Tridiagonal], ...]:
    """Return (c, steps) from e / |e| + e' / |e'|, where c = |e| |e'| / 2, and from their difference, with -c.

    ``rate``: e'. A vector that is zero has no steps and contributes nothing.
    """
    size, size_rate = error.norm(), rate.norm()
    if not bool(size_rate > 0):
        return ()
    starts = ((sign, error / size + sign * rate / size_rate) for sign in (1, -1))
    scale = float(size * size_rate) / 2
    return tuple(
        (sign * scale, lanczos(operator, start, steps, rate=False)) for sign, start in starts if bool(start.any())
    )
