r"""The shell velocity by another road, as a check on condition 4: nothing else of this package is used here.

Networks are written as functions of one flat vector, gradient flow is integrated by SciPy's DOP853, Jacobians come from
``torch.autograd``, and the flux through s is what is missing in the budget of all energy below it,

.. math:: F(s) = -\frac{d}{dt} \tfrac12 \langle e, W_s(M) e\rangle - \langle e, M W_s(M) e\rangle,
          \qquad W_s(\lambda) = \Phi\!\left(\frac{s - \log\lambda}{\delta}\right),

by a central difference of two snapshots: second order in their distance. M' is never formed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from scipy.integrate import solve_ivp
from scipy.special import ndtr
from torch import Tensor

ACTIVATIONS = {"sine": torch.sin, "tanh": torch.tanh}
TOLERANCE = 1e-7


def power_law_data(samples: int, inputs: int, decay: float, seed: int) -> tuple[Tensor, Tensor]:
    """(X (N, d), y (N,)): Gaussian inputs of covariance k^-decay, targets a random quadratic form of them; float64.

    Inputs and targets are scaled to mean square one.
    """
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, inputs)) * np.arange(1, inputs + 1) ** (-decay / 2)
    x /= np.sqrt(np.square(x).sum(1).mean() / inputs)
    form = rng.standard_normal((inputs, inputs))
    y = np.einsum("ni,ij,nj->n", x, form, x)
    y = (y - y.mean()) / y.std()
    return torch.from_numpy(x), torch.from_numpy(y)


def shapes(inputs: int, width: int, depth: int) -> list[tuple[int, int]]:
    """Of the weight matrices: first, hidden and last layer; biases are left out."""
    return [(width, inputs), *[(width, width)] * (depth - 1), (1, width)]


def outputs(theta: Tensor, x: Tensor, of: Sequence[tuple[int, int]], residual: bool, activation: str) -> Tensor:
    """f(X) (N,) of a perceptron, h <- phi(W h), or h <- h + phi(W h) / sqrt(depth) if ``residual``."""
    phi, at, h = ACTIVATIONS[activation], 0, x
    for number, (rows, columns) in enumerate(of):
        z = h @ theta[at : at + rows * columns].view(rows, columns).T / math.sqrt(columns)
        at += rows * columns
        if number == len(of) - 1:
            return z[:, 0]
        h = h + phi(z) / math.sqrt(len(of) - 2) if residual and number else phi(z)
    return h


def snapshots(
    x: Tensor,
    y: Tensor,
    *,
    width: int,
    depth: int,
    residual: bool,
    activation: str,
    gain: float,
    loss: float,
    seed: int,
) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """(time, M (N, N), e (N,)) three times around the moment when the loss has fallen to ``loss`` of its start.

    The outer two are a hundredth of the elapsed time away. Weights are Gaussian of standard deviation ``gain``, divided
    by the square root of the fan-in.
    """
    of = shapes(x.shape[1], width, depth)
    rng = np.random.default_rng(seed)
    start = gain * rng.standard_normal(sum(rows * columns for rows, columns in of))

    def residual_of(theta: Tensor) -> Tensor:
        return outputs(theta, x, of, residual, activation) - y

    def slope(_: float, flat: np.ndarray) -> np.ndarray:
        theta = torch.from_numpy(flat).requires_grad_(True)
        loss_now = residual_of(theta).square().sum() / (2 * len(y))
        return -torch.autograd.grad(loss_now, theta)[0].numpy()

    first = float(residual_of(torch.from_numpy(start)).square().sum())

    def fallen(_: float, flat: np.ndarray) -> float:
        return math.log(float(residual_of(torch.from_numpy(flat)).square().sum()) / first / loss)

    fallen.terminal = True
    options = {"method": "DOP853", "rtol": TOLERANCE, "atol": 1e-9}
    found = solve_ivp(slope, (0.0, 1e6), start, events=fallen, dense_output=True, **options)
    if not found.t_events[0].size:
        raise ValueError(f"the loss did not fall to {loss:g} of its start: {found.message}")
    end = float(found.t_events[0][0])
    times = [end * 0.99, end, end * 1.01]
    on = solve_ivp(slope, (times[0], times[2]), found.sol(times[0]), t_eval=times, **options)
    result = []
    for time, flat in zip(times, on.y.T, strict=True):
        theta = torch.from_numpy(flat.copy())
        jacobian = torch.autograd.functional.jacobian(residual_of, theta, vectorize=True)
        result.append((time, (jacobian @ jacobian.T / len(y)).numpy(), residual_of(theta).numpy()))
    return result


def flux_and_density(
    snaps: Sequence[tuple[float, np.ndarray, np.ndarray]], edges: np.ndarray, smoothing: float
) -> tuple[np.ndarray, np.ndarray]:
    """F and eps (n,) at ``edges`` (log eigenvalue) at the middle snapshot."""
    below, lost, density = [], [], []
    for _, kernel, error in snaps:
        values, vectors = np.linalg.eigh(kernel)
        values = np.maximum(values, len(values) * np.finfo(float).eps * values[-1])
        energy = np.square(vectors.T @ error) / 2
        z = (edges[:, None] - np.log(values)) / smoothing
        below.append(ndtr(z) @ energy)
        lost.append(2 * ndtr(z) @ (values * energy))
        density.append(np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) / smoothing @ energy)
    change = (below[2] - below[0]) / (snaps[2][0] - snaps[0][0])
    return -change - lost[1], density[1]


def contrast(
    seeds: Sequence[int],
    *,
    depth: int = 16,
    width: int = 48,
    samples: int = 100,
    activation: str = "sine",
    smoothing: float = 0.2,
    reach: float = 6.0,
    log_loss: float = -1.0,
) -> xr.Dataset:
    """Velocities of residual and plain perceptrons of the same seeds where the loss is e^``log_loss`` of its start.

    Returns over (architecture, seed, edge): ``flux``, ``density`` and ``time(architecture, seed)``; over (architecture,
    edge): ``drift``, t u with u the ratio of sums over seeds and t the geometric mean of the times, dimensionless, and
    ``error``, its delete-one jackknife standard error; over architecture: ``defect``, the share of t u squared that the
    best power law leaves, from products of different seeds only, and ``defect_error``. ``edge``: log(lambda t), from
    the frontier 0 down to -``reach``. The data are one draw of ``power_law_data``, decay 1, 20 inputs.
    """
    x, y = power_law_data(samples, 20, 1.0, 0)
    edges = np.arange(-reach, 1e-9, 0.5)
    kinds = {"residual": True, "plain": False}
    flux, density = np.empty((2, 2, len(seeds), len(edges)))
    times = np.empty((2, len(seeds)))
    for kind, residual in enumerate(kinds.values()):
        shared = {"width": width, "depth": depth, "activation": activation, "gain": 1.0, "loss": math.exp(log_loss)}
        found = [snapshots(x, y, residual=residual, seed=seed, **shared) for seed in seeds]
        times[kind] = [snaps[1][0] for snaps in found]
        frontier = -np.log(times[kind]).mean()
        for run, snaps in enumerate(found):
            flux[kind, run], density[kind, run] = flux_and_density(snaps, edges + frontier, smoothing)
    drift, error, defect, defect_error = [], [], [], []
    for kind in range(2):
        t = math.exp(np.log(times[kind]).mean())
        left_out = [slice(None), *([r for r in range(len(seeds)) if r != run] for run in range(len(seeds)))]
        parts = [_law(flux[kind][keep], density[kind][keep], edges) for keep in left_out]
        for value, spread, part in ((drift, error, 0), (defect, defect_error, 1)):
            values = np.array([item[part] for item in parts]) * (t if part == 0 else 1)
            value.append(values[0])
            scatter = np.square(values[1:] - values[1:].mean(0)).sum(0)
            spread.append(np.sqrt((len(seeds) - 1) / len(seeds) * scatter))
    of = ("architecture", "seed", "edge")
    return xr.Dataset(
        {
            "flux": (of, flux),
            "density": (of, density),
            "time": (of[:2], times),
            "drift": (("architecture", "edge"), np.array(drift), {"units": "1", "long_name": "t u"}),
            "error": (("architecture", "edge"), np.array(error), {"units": "1", "long_name": "standard error of t u"}),
            "defect": ("architecture", np.array(defect)),
            "defect_error": ("architecture", np.array(defect_error)),
        },
        {"architecture": list(kinds), "seed": list(seeds), "edge": ("edge", edges, {"long_name": "log(lambda t)"})},
        {
            "depth": depth,
            "width": width,
            "samples": samples,
            "activation": activation,
            "smoothing": smoothing,
            "log_loss": log_loss,
        },
    )


def contrast_of(spec: Mapping[str, int | float]) -> xr.Dataset:
    """``contrast`` of ``spec["seeds"]`` seeds at a depth and a log loss: what can be computed elsewhere and kept."""
    return contrast(range(int(spec["seeds"])), depth=int(spec["depth"]), log_loss=float(spec["log_loss"]))


def _law(flux: np.ndarray, density: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, float]:
    """(u, D^2) of runs (R, n): the best c e^{slope s} by least squares, then products of different runs."""
    u = flux.sum(0) / density.sum(0)
    slopes = np.linspace(-4, 4, 801)
    shape = np.exp(slopes[:, None] * (edges - edges.mean()))
    along = shape @ u / np.square(shape).sum(1)
    best = np.argmax(along**2 * np.square(shape).sum(1))
    mean = density.mean(0)
    crossed = []
    for departure in ((flux - along[best] * shape[best] * density) / mean, flux / mean):
        gram = departure @ departure.T
        crossed.append(gram.sum() - np.trace(gram))
    return u, float(crossed[0] / crossed[1])
