r"""The budget between two states from products with their kernels alone: Lanczos vectors, and the errors they may have.

After m steps from e, w_a(M) e = |e| V w_a(T) 1, where V is the basis and T the tridiagonal matrix. All terms of the
budget are products of these vectors, so that only T of each run and the overlaps V_1^T V_0 of two bases are needed.
Each value is the mean of Gauss's and Radau's rules; the other rules that the same steps allow, and the rules of fewer
steps, say how far it may be off (``grsd.krylov.rules``). Source: this project's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.nn.functional import pad

from grsd.jacobian.operators import KernelProducts
from grsd.krylov import KrylovSpectrum, Tridiagonal, lanczos
from grsd.krylov.rules import QuadratureRule, alternatives, gauss, with_node
from grsd.krylov.spectrum import COUNT, EXTRAPOLATION_SMOOTHINGS, FEWER_STEPS, FLAGS, hidden_shares
from grsd.shells.windows import LEAST_SHARE, LogShells
from grsd.training.dense import exchange, log_eigenvalues, shares, upward

Values = dict[str, Tensor]
PLAIN = {"dtype": torch.float64, "device": "cpu"}  # of everything of the size of the steps or of the shells


@dataclass(frozen=True)
class KrylovState:
    """The loss, the force e (D,) and the products with M of one state.

    ``own``: the Lanczos steps from e, ``None`` if e = 0. ``steps``, ``tolerance``: as for ``krylov_spectrum``.
    """

    loss: float
    force: Tensor
    products: KernelProducts
    own: Tridiagonal | None
    steps: int
    tolerance: float

    @classmethod
    def of(cls, loss: float, force: Tensor, products: KernelProducts, steps: int, tolerance: float) -> KrylovState:
        """Take the steps from the state's own force."""
        return cls(loss, force, products, _taken(products, force, steps), steps, tolerance)

    def from_force_of(self, other: KrylovState) -> Tridiagonal | None:
        """Return the Lanczos steps with this state's M from the force of ``other``."""
        return self.own if other is self else _taken(self.products, other.force, self.steps)

    def range(self) -> tuple[float, float]:
        """Return the logs of the smallest Ritz value above the floor and of the largest; (inf, -inf) if M e = 0."""
        values = None if self.own is None else torch.linalg.eigvalsh(self.own.matrix)
        if values is None or float(values[-1]) <= 0:
            return math.inf, -math.inf
        return math.log(max(float(values[0]), _floor(self.own, self.force))), math.log(float(values[-1]))


def krylov_step(
    before: KrylovState, after: KrylovState, shells: LogShells, indices: np.ndarray, samples: int
) -> dict[str, np.ndarray | xr.DataArray]:
    """Return the variables of the budget between two states, by name, with their stated errors as ``NAME_error``."""
    shells = replace(shells, span=(indices[0] * shells.width, (indices[-1] + 1) * shells.width))
    sides, states, size = {"before": before, "after": after}, (before, after), len(indices)
    steps = {(i, j): states[i].from_force_of(states[j]) for i in (0, 1) for j in (0, 1)}
    steps = {at: run for at, run in steps.items() if run is not None}
    floors = [max([_floor(run, before.force) for (i, _), run in steps.items() if i == k] or [0.0]) for k in (0, 1)]
    pumped = [sum(run.norm**2 * float(run.matrix[0, 0]) for (i, _), run in steps.items() if i == k) for k in (0, 1)]
    rho = math.log(pumped[1] / pumped[0]) if min(pumped) > 0 else math.nan
    runs = {at: _Run(run, floors[at[0]], shells, indices, 0.0 if rho != rho else rho, at) for at, run in steps.items()}

    names = {"transport": (size, size), "flux": (size - 1,), "relaxation": (size,), "moved": (size,), "grown": (size,)}
    names |= {"growth_rayleigh": (size, size), "growth_rayleigh_order": (size, size)}
    total, error = ({name: torch.zeros(shape, **PLAIN) for name, shape in names.items()} for _ in "ab")
    for j in {j for _, j in runs}:
        one, other = runs[1, j], runs[0, j]
        overlap = (one.taken.basis @ other.taken.basis.T).to("cpu", torch.float64)
        _add(total, _exchanged(one.best.vectors @ overlap @ other.best.vectors.T))
        for own, beside, turned in ((one, other.best.vectors @ overlap.T, 1), (other, one.best.vectors @ overlap, -1)):
            _add(total, own.alone(own.best))
            for group, joined in own.differences():
                found = _exchanged(turned * group.vectors @ beside.T) | own.alone(group)
                _add(error, {name: joined(part.abs(), 0) for name, part in found.items()})
            _add(error, own.unresolved(beside))
    parts = [total["relaxation"], total["grown"], total["moved"] - total["grown"]]
    found = {name: total[name] for name in names if name not in ("moved", "grown")}
    found |= {f"{name}_error": error[name] for name in found}
    rounding = len(before.force) * torch.finfo(before.force.dtype).eps * sum(run.taken.norm**2 for run in runs.values())
    found["log_growth_rayleigh"] = torch.tensor(rho, **PLAIN)
    found["laziness_rayleigh"] = shares(parts, torch.tensor(rounding, **PLAIN))
    found |= {f"loss_{side}": torch.tensor(state.loss, **PLAIN) for side, state in sides.items()}
    step = {name: value.numpy() for name, value in found.items()}
    for k, side in enumerate(sides):
        step |= _energies(side, states[k], runs.get((k, k)), shells, size, samples)
    errors = [error["relaxation"], error["grown"], error["moved"] + error["grown"]]
    change_error = torch.from_numpy(step["energy_before_error"] + step["energy_after_error"])
    step["laziness_rayleigh_error"] = _share_errors(parts, errors, change_error).numpy()
    return step | {"mask": _mask(step, max(floors), indices * shells.width, before.tolerance)}


@dataclass(frozen=True)
class _Cut:
    """One run cut into shells by one rule, or by several along the first dimension.

    ``vectors``: the coefficients of w_a(M) e in the basis, (..., shells, k). ``growth``: the transport by a growth of
    this kernel at this e, (..., shells, shells).
    """

    vectors: Tensor
    growth: Tensor


class _Run:
    """The Lanczos steps of kernel i from force j, cut into shells, where i and j are 0 (before) or 1 (after)."""

    def __init__(
        self, taken: Tridiagonal, floor: float, shells: LogShells, indices: np.ndarray, rho: float, at: tuple[int, int]
    ) -> None:
        self.taken, self.floor, self.shells, self.rho, self.at = taken, floor, shells, rho, at
        self.boundaries = torch.as_tensor(indices[1:] * shells.width, **PLAIN)
        self.centre = torch.as_tensor((indices + 0.5) * shells.width, **PLAIN)
        self.best = self._mean(self._pair(taken))

    def differences(self) -> Iterator[tuple[_Cut, Callable[[Tensor, int], Tensor]]]:
        """Yield how other rules differ from the best, and how their differences are joined.

        Of the rules that the steps allow, the farthest counts; of those of fewer steps, which are too few for one of
        them to be surely far where the error is large, all count.
        """
        taken, steps = self.taken, len(self.taken.matrix)
        if not taken.beta:
            return
        lowest = max(float(torch.linalg.eigvalsh(taken.matrix)[0]), self.floor)
        low = max(self.shells.span[0], math.log(lowest)) - EXTRAPOLATION_SMOOTHINGS * self.shells.smoothing
        fewer = np.unique(np.linspace(FEWER_STEPS * steps, steps - 1, COUNT).astype(int)).tolist()
        rivals = [[rule] for rule in alternatives(taken, self.floor, low, self.shells.smoothing)]
        before = [self._pair(taken.first(k)) for k in fewer]
        for group, joined in ((rivals, torch.amax), (before, torch.sum)):
            cut = [self._mean(rules) for rules in group]
            vectors = torch.stack([one.vectors - self.best.vectors for one in cut])
            yield _Cut(vectors, torch.stack([one.growth - self.best.growth for one in cut])), joined

    def alone(self, cut: _Cut) -> Values:
        """Return what this run alone contributes: to the relaxation, and to the growth of its kernel."""
        i, j = self.at
        return {
            "relaxation": (1 if j else -1) * self.taken.norm * cut.vectors[..., 0] / 4,
            "growth_rayleigh": cut.growth / 2,
            "growth_rayleigh_order": -cut.growth if i else cut.growth,
            "grown": cut.growth.sum(-1) / 2,
        }

    def unresolved(self, beside: Tensor) -> Values:
        """Return errors by structure inside isolated Ritz values, and by rounding; ``beside``: what is multiplied."""
        ritz = gauss(self.taken).spectrum(self.floor)
        hidden = torch.from_numpy(hidden_shares(self.taken, ritz, self.shells, self.boundaries.numpy())[0])
        eps = torch.finfo(self.taken.basis.dtype).eps * math.sqrt(self.taken.basis.shape[1])
        lengths = self.best.vectors.norm(dim=1)
        rounded = eps * self.taken.norm + self.floor * torch.exp(-self.centre) / self.shells.smoothing * lengths
        crossed = hidden[:, None] * (self.best.vectors @ beside.T).abs() + torch.outer(rounded, beside.norm(dim=1))
        crossed = (crossed + crossed.T) / 4
        single = hidden * self.best.vectors[:, 0].abs() + rounded
        blurred = torch.outer(rounded, lengths)
        grown = (hidden[:, None] + hidden) * self.best.growth.abs() + blurred + blurred.T
        return {
            "transport": crossed,
            "flux": upward(crossed),
            "moved": self.taken.norm * single / 4,
            "relaxation": self.taken.norm * single / 4,
            "growth_rayleigh": grown / 2,
            "growth_rayleigh_order": grown,
            "grown": grown.sum(1) / 2,
        }

    def _pair(self, taken: Tridiagonal) -> list[QuadratureRule]:
        """Gauss's and Radau's rules, whose mean is best."""
        return [gauss(taken), with_node(taken, -self.floor)] if taken.beta else [gauss(taken)]

    def _mean(self, rules: Sequence[QuadratureRule]) -> _Cut:
        found = [self._cut(rule) for rule in rules]
        return _Cut(*(torch.stack([getattr(one, name) for one in found]).mean(0) for name in ("vectors", "growth")))

    def _cut(self, rule: QuadratureRule) -> _Cut:
        modes = rule.spectrum(self.floor)
        s, g = log_eigenvalues(modes), modes.eigenvectors.T @ rule.start
        shift = -self.rho if self.at[0] else self.rho
        w, moved = (self.shells.derivatives(places, self.boundaries, 0)[0] for places in (s, s + shift))
        ends = (w, moved) if self.at[0] else (moved, w)  # from before to after
        vectors = (w * g) @ modes.eigenvectors.T
        missing = len(self.taken.basis) - vectors.shape[1]
        return _Cut(pad(vectors, (0, missing)), exchange(ends[0], g.square() / 2, ends[1]))


def _taken(products: KernelProducts, force: Tensor, steps: int) -> Tridiagonal | None:
    if not bool(force.any()):
        return None
    return lanczos(products, force, steps, rate=False, keep_basis=True)


def _floor(taken: Tridiagonal, force: Tensor) -> float:
    return KrylovSpectrum(force, taken).floor


def _add(total: Values, more: Mapping[str, Tensor]) -> None:
    for name, part in more.items():
        total[name] = total[name] + part


def _exchanged(crossed: Tensor) -> Values:
    """Return the transport from <w_a(M_1) e, w_b(M_0) e>, (..., shells, shells), of one e, and what follows from it."""
    transport = (crossed - crossed.mT) / 4
    rows = transport.reshape(-1, *transport.shape[-2:])
    flux = torch.stack([upward(one) for one in rows]).reshape(*transport.shape[:-2], -1)
    return {"transport": transport, "flux": flux, "moved": transport.sum(-1)}


def _share_errors(parts: Sequence[Tensor], errors: Sequence[Tensor], change_error: Tensor) -> Tensor:
    """Return the errors of the shares of ``parts`` in their sum, to first order."""
    change = sum(parts)
    square = change.square().sum()
    found = []
    for part, error in zip(parts, errors, strict=True):
        share = (part @ change) / square
        found.append((change.abs() @ error + (part - 2 * share * change).abs() @ change_error) / square)
    return torch.stack(found)


def _energies(
    side: str, state: KrylovState, run: _Run | None, shells: LogShells, size: int, samples: int
) -> dict[str, np.ndarray]:
    names = (f"energy_{side}", f"loss_dissipation_{side}")
    if run is None:
        return {f"{name}{kind}": np.zeros(size) for name in names for kind in ("", "_error")}
    found = KrylovSpectrum(state.force, run.taken, tolerance=state.tolerance).budget(state.force, shells)
    step = {}
    for name, own, scale in zip(names, ("energy", "dissipation"), (1, samples), strict=True):
        for kind in ("", "_error"):
            step[f"{name}{kind}"] = np.nan_to_num(found[f"{own}{kind}"].values) / scale  # NaN where nothing is carried
    return step


def _mask(step: Mapping[str, np.ndarray], floor: float, lowest: np.ndarray, tolerance: float) -> xr.DataArray:
    """A shell is converged if the errors of both energies are small beside the larger one."""
    energies = np.stack([step["energy_before"], step["energy_after"]])
    errors = np.stack([step["energy_before_error"], step["energy_after_error"]])
    most, total = energies.max(0), energies.sum(1).max()
    below = lowest < math.log(floor) if floor else np.zeros(len(lowest), bool)
    flags = below * FLAGS["below_floor"] + (most <= LEAST_SHARE * total) * FLAGS["no_energy"]
    flags = flags + ~(errors.max(0) <= tolerance * most) * FLAGS["not_converged"]
    return xr.DataArray(flags.astype(np.int8), dims="shell")
