import math
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import grsd
from grsd.studies import independent


class Module(nn.Module):
    """The independent network as a torch module, for the package's own route."""

    def __init__(self, theta, of, residual):
        super().__init__()
        self.theta, self.of, self.residual = nn.Parameter(theta), of, residual

    def forward(self, x):
        return independent.outputs(self.theta, x, self.of, self.residual, "tanh")


@pytest.mark.parametrize("residual", [True, False])
def test_flux_of_two_roads_at_one_moment(residual, monkeypatch):
    """M' of the package against differences of snapshots: second order in their distance."""
    x, y = independent.power_law_data(20, 6, 1.0, 0)
    weights = []
    real = torch.from_numpy

    def noticed(array):
        weights.append(array)
        return real(array)

    monkeypatch.setattr(torch, "from_numpy", noticed)
    found = independent.snapshots(
        x, y, width=12, depth=3, residual=residual, activation="tanh", gain=1.0, loss=0.7, seed=3
    )
    monkeypatch.undo()
    middle = torch.as_tensor(weights[-2])
    model = Module(middle, independent.shapes(6, 12, 3), residual)
    kernel, rate = grsd.tangent_kernel_and_rate(model, x, y)
    assert np.allclose(kernel, found[1][1], rtol=1e-10)
    shells = grsd.LogShells(0.5, 0.2)
    budget = grsd.energy_budget(grsd.spectrum(kernel, rate), torch.as_tensor(found[1][2]), shells)
    flux, density = independent.flux_and_density(found, budget.boundary.values, 0.2)
    assert np.abs(flux - budget.flux).max() < 2e-3 * np.abs(budget.flux).max()
    assert np.abs(density - budget.density).max() < 1e-9 * budget.density.max()


def test_it_uses_nothing_of_the_package():
    source = Path(independent.__file__).read_text(encoding="utf-8")
    assert "grsd" not in source.replace("``grsd``", "")


def test_contrast_is_labelled():
    found = independent.contrast([0, 1, 2], depth=3, width=8, samples=12, activation="tanh")
    assert dict(found.sizes) == {"architecture": 2, "seed": 3, "edge": 13}
    assert np.isfinite(found.drift).all()
    assert (found.time > 0).all()


def test_a_moment_is_a_plain_spec(monkeypatch):
    asked = {}
    monkeypatch.setattr(
        independent, "contrast", lambda seeds, **of: asked.update(of, seeds=list(seeds)) or xr.Dataset()
    )
    independent.contrast_of({"depth": 3, "log_loss": -2.5, "seeds": 2})
    assert asked == {"depth": 3, "log_loss": -2.5, "seeds": [0, 1]}


def test_a_planted_power_law_leaves_nothing():
    edges = np.arange(-3, 0.1, 0.5)
    density = np.exp(np.random.default_rng(0).standard_normal((8, 7)))
    u, defect = independent._law(0.3 * np.exp(0.5 * edges) * density, density, edges)
    assert np.allclose(u, 0.3 * np.exp(0.5 * edges))
    assert abs(defect) < 1e-4
    assert independent._law(np.cos(3 * edges) * density, density, edges)[1] > 0.3
    assert math.isfinite(defect)
