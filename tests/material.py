"""Small right arguments for the public calls: a network, its kernel, budgets, histories; each made once."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import xarray as xr
from torch import nn

import grsd
from grsd import krylov, laws, solvable, theory
from grsd.conditions import incoherence, propagation
from grsd.studies import initial_incoherence
from grsd.studies.power_law_scaling import exact

SHELLS = grsd.LogShells(1.0, 0.2)
PLANTED = solvable.PlantedShells(exponent=1.4, drift=0.3, rotation=0.1, modes=60, noise=0.2)
WINDOW = (-10.0, -2.0)
S = np.linspace(-5.0, 0.0, 12)


def model() -> nn.Module:
    return grsd.Perceptron(5, 3, width=4, depth=2).double()


def made(depth: int, seed: int) -> nn.Module:
    return grsd.Perceptron(5, 3, width=4, depth=depth, seed=seed).double()


@cache
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator("cpu").manual_seed(0)
    draw = {"generator": generator, "dtype": torch.float64, "device": "cpu"}
    return torch.randn(4, 5, **draw), torch.randn(4, 3, **draw)


def learning() -> dict[str, object]:
    inputs, targets = batch()
    return {"model": model(), "inputs": inputs.clone(), "targets": targets.clone()}


def start() -> dict[str, object]:
    """What a condition reads where it reads one snapshot."""
    given = learning()
    return {"history": given.pop("model"), **given}


def states() -> dict[str, object]:
    inputs, targets = batch()
    after = grsd.Perceptron(5, 3, width=4, depth=2, seed=1).double()
    return {"before": model(), "after": after, "inputs": inputs.clone(), "targets": targets.clone(), "shells": SHELLS}


def history_of_states() -> dict[str, object]:
    given = states()
    before, after = given.pop("before"), given.pop("after")
    return {"models": [before, (before, after.state_dict()), before], **given}


def files_of_states() -> dict[str, object]:
    given = states()
    before, after = given.pop("before"), given.pop("after")
    return {"model": before, "files": [before.state_dict(), after.state_dict()], **given}


def inference() -> dict[str, object]:
    return {"model": model(), "inputs": batch()[0].clone()}


def digits() -> dict[str, object]:
    """Enough samples for a boundary that is not masked."""
    data = grsd.digits(12)
    model = grsd.Perceptron(64, 10, width=4, depth=2).double()
    return {"model": model, "inputs": data.inputs, "targets": data.targets}


@cache
def matrices() -> tuple[torch.Tensor, torch.Tensor]:
    return grsd.tangent_kernel_and_rate(model(), *batch())


@cache
def decomposed() -> grsd.Spectrum:
    return grsd.spectrum(*matrices())


@cache
def error() -> torch.Tensor:
    inputs, targets = batch()
    with torch.no_grad():
        return model()(inputs) - targets


@cache
def flow() -> grsd.Flow:
    return grsd.gradient_flow(model(), *batch(), [0.5, 1.0, 1.5, 2.0])


@cache
def whole_flow() -> grsd.Flow:
    """With its start; late enough for condition 3."""
    return grsd.gradient_flow(model(), *batch(), [0.0, 0.5, 1.0, 1.5, 2.0, 4.0])


@cache
def history() -> xr.Dataset:
    return grsd.shell_history(flow(), grsd.LogShells(1.0, 0.3))


@cache
def exact_history() -> xr.Dataset:
    return exact.exact_history(solvable.DiagonalNet(3, a=1.1, start=0.1, modes=60), np.geomspace(3, 30, 5))


@cache
def runs() -> list[xr.Dataset]:
    return PLANTED.budgets(range(6), SHELLS)


@cache
def coherences() -> list[xr.Dataset]:
    return [
        incoherence.measure_modes(*initial_incoherence.planted_signs(60, seed=s), SHELLS, flips=19) for s in range(4)
    ]


@cache
def gains() -> list[xr.Dataset]:
    return [
        propagation.measure(
            grsd.Perceptron(5, 3, width=4, depth=depth, seed=seed), batch()[0], parameters={"seed": seed}
        )
        for depth in (3, 4, 5)
        for seed in range(4)
    ]


@cache
def points() -> xr.Dataset:
    rng = np.random.default_rng(0)
    columns = {"t_rho": ("point", rng.uniform(0.1, 1, 48)), "t_omega": ("point", rng.uniform(0.1, 1, 48))}
    coords = {
        "time": ("point", rng.uniform(1, 30, 48)),
        "shell": ("point", rng.uniform(-5, 0, 48)),
        "depth": ("point", np.tile([4, 8], 24)),
        "seed": ("point", np.repeat(np.arange(8), 6)),
    }
    return xr.Dataset(columns, coords)


@cache
def rates(seed: int) -> xr.Dataset:
    """As ``evolution.measure`` gives them."""
    drawn = np.random.default_rng(seed).uniform(0.1, 1, (2, 3, 4))
    data = {name: (("time", "shell"), values) for name, values in zip(("t_rho", "t_omega"), drawn, strict=True)}
    coords = {"time": [1.0, 3.0, 9.0], "shell": [-3.0, -2.0, -1.0, 0.0]}
    return xr.Dataset(data, coords, {"depth": 2, "seed": seed})


@cache
def seen() -> theory.Early:
    return theory.early(exact_history(), 20.0)


@cache
def tridiagonal() -> krylov.KrylovSpectrum:
    return grsd.krylov_spectrum(model(), *batch(), steps=8)


def observed() -> list:
    return laws.observe(runs(), observable="velocity", window=WINDOW)


def shell_runs() -> dict[str, object]:
    return {"budgets": list(runs()), "window": WINDOW}


def beyond() -> dict[str, object]:
    """Pairs of shells enough for either half of the window."""
    return {"ensemble": list(fine()), "window": WINDOW}


def coarse() -> dict[str, object]:
    return {"ensemble": list(runs()), "window": WINDOW, "factors": (1, 2)}


def still(s: np.ndarray, time: float) -> np.ndarray:
    return 0.1 * np.ones_like(s)


def squared(eigenvalue: np.ndarray, time: float) -> np.ndarray:
    return eigenvalue**2


@cache
def fine() -> list[xr.Dataset]:
    return PLANTED.budgets(range(6), grsd.LogShells(0.5, 0.2))


def measured() -> list[xr.Dataset]:
    """As ``invariance.measure`` gives them: planted runs."""
    return [run.assign(time=20.0).assign_attrs(seed=seed) for seed, run in enumerate(runs())]
