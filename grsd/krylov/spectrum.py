r"""Energies and fluxes from a small tridiagonal matrix, each with the error it may have.

.. math:: E_a = \tfrac12 |e|^2 \langle 1, w_a(T)\, 1\rangle, \qquad
          F(s) = -\tfrac12 |e|^2 \langle 1, (W_s^{[1]} \circ T')\, 1\rangle

with T in its eigenbasis: the energy budget of T, T' and |e| times the first unit vector is that of M, M' and e, as far as
the steps reach. They reach from the top of the spectrum downwards. The error is what the last third of the steps changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from grsd.checks import positive, whole
from grsd.krylov.lanczos import Tridiagonal, lanczos
from grsd.krylov.operator import KernelOperator, Operator, Vector
from grsd.shells import MASK_FLAGS, LogShells, energy_budget, log_range
from grsd.spectrum import Spectrum

NAMES = ("energy", "dissipation", "density", "flux", "velocity")
LEAST_STEPS = 6
EARLIER = 9


@dataclass(frozen=True)
class KrylovSpectrum:
    """What ``steps`` products say about M and M' in the direction of one error; pass it to ``energy_budget``.

    Attributes:
        tridiagonal: T and T'.
        error: e (D,), where the steps started.
        tolerance: the largest stated error, as a share of the value, with which a shell counts as converged.
    """

    tridiagonal: Tridiagonal
    error: Vector
    tolerance: float

    @property
    def dimension(self) -> int:
        """D."""
        return self.error.shape[0]

    @property
    def steps(self) -> int:
        return self.tridiagonal.matrix.shape[0]

    @property
    def eigenvalues(self) -> Float[Tensor, " m"]:
        """Ritz values, ascending; units 1 / time."""
        return torch.linalg.eigvalsh(self.tridiagonal.matrix)

    def shorter(self, steps: int) -> Spectrum:
        """T and T' after so many of the steps, decomposed."""
        matrix, rate = (part[:steps, :steps] for part in (self.tridiagonal.matrix, self.tridiagonal.rate))
        values, vectors = torch.linalg.eigh(matrix)
        floor = self.dimension * torch.finfo(self.error.dtype).eps * float(values[-1])
        return Spectrum(values, vectors, vectors.T @ (rate @ vectors), floor)

    def budget(self, error, shells, parameters=None):
        def of(steps, shells):
            start = torch.zeros(steps, dtype=torch.float64)
            start[0] = self.tridiagonal.norm
            return energy_budget(self.shorter(steps), start, shells, parameters=parameters)[[*NAMES, "mask", "boundary_mask"]]
        last = self.shorter(self.steps)
        shells = replace(shells, span=shells.span or log_range(last))
        data = of(self.steps, shells)
        earlier = [of(int(k), shells) for k in np.unique(np.linspace(2*self.steps/3, self.steps - 1, EARLIER).astype(int))]
        for name in NAMES:
            data[name + "_error"] = np.abs(xr.concat([b[name] for b in earlier], "k") - data[name]).max("k")
        return data


def krylov_spectrum(model: nn.Module, inputs: Tensor, targets: Tensor, *, steps: int = 80, tolerance: float = 0.1,
    batch: int = 500) -> KrylovSpectrum:
    op = KernelOperator(model, inputs, targets, batch=batch, call="krylov_spectrum")
    return KrylovSpectrum(lanczos(op, op.error, steps), op.error, tolerance)
