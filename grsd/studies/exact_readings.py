"""Notebook 02: exact models read like networks, beside the velocities of their modes in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from grsd.decomposition import spectrum
from grsd.kernel import tangent_kernel_and_rate
from grsd.shells import LogShells, energy_budget


@dataclass(frozen=True, eq=False)
class Reading:
    """What shells read of a kernel, its rate and an error, and the truth.

    Args:
        matrices: kernel (D, D), its rate (D, D) and the error, D numbers.
        shells: how they are read.
        eigenvalues, velocity: of the modes, (K,), as the model knows them: lambda and its rate of change.
    """

    matrices: tuple[Tensor, Tensor, Tensor]
    shells: LogShells
    eigenvalues: np.ndarray
    velocity: np.ndarray

    @cached_property
    def budget(self) -> xr.Dataset:
        """``energy_budget``; NaN at masked boundaries."""
        kernel, rate, error = self.matrices
        found = energy_budget(spectrum(kernel, rate), error, self.shells)
        return found.where(found.boundary_mask == 0, drop=False)

    @property
    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """log lambda, ascending, and the true u = velocity / lambda there, 1 / time."""
        order = np.argsort(self.eigenvalues)
        return np.log(self.eigenvalues[order]), (self.velocity / self.eigenvalues)[order]

    @property
    def gap(self) -> float:
        """The largest |reading - truth| over boundaries, relative to the largest |u|; to 1 where nothing moves."""
        s, u = self.curve
        largest = np.abs(u).max() or 1.0
        return float(np.nanmax(np.abs(self.budget.velocity - np.interp(self.budget.boundary, s, u)) / largest))


def of_network(
    module: nn.Module, inputs: Tensor, targets: Tensor, *, device: str | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Kernel, rate and error of a module on its batch."""
    kernel, rate = tangent_kernel_and_rate(module, inputs, targets, device=device)
    with torch.no_grad():
        return kernel, rate, (module(inputs) - targets).to(kernel.device)
