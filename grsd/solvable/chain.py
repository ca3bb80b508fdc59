"""Deep linear networks on inputs with a power law in the error: the kernel grows as one clock.

The two-layer limit is the model of Bordelon, Atanasov and Pehlevan (arXiv 2409.17858); the spectrum with equally many
modes in every shell, the residual chains and everything measured on them are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from grsd.solvable.modes import rotation, time_array
from grsd.support.values import SEEDS, fits_memory, flag, number, positive, seed_of, whole_number

TOLERANCE = 1e-10
LARGEST = 600.0


class ChainModule(nn.Module):
    """f(x) = V B_L ... B_1 A x without biases, B = 1 + W / sqrt(L) with skips and B = W without.

    Input (N, K), output (N, C). ``first`` is A, ``inner`` the W, ``readout`` V.
    """

    def __init__(self, state: ChainState, skips: bool) -> None:
        super().__init__()
        weights = {"first": state.first, "readout": state.readout}
        self.branch_scale = branch_scale(len(state.inner), skips)
        self.skips = skips
        like = {"bias": False, "dtype": torch.float64, "device": "cpu"}
        width, features = state.first.shape
        self.first = nn.Linear(features, width, **like)
        self.inner = nn.ModuleList(nn.Linear(width, width, **like) for _ in state.inner)
        self.readout = nn.Linear(width, len(state.readout), **like)
        with torch.no_grad():
            for name, weight in weights.items():
                getattr(self, name).weight.copy_(torch.from_numpy(weight))
            for layer, weight in zip(self.inner, state.inner, strict=True):
                layer.weight.copy_(torch.from_numpy(weight))

    def forward(self, x: Float[Tensor, "N K"]) -> Float[Tensor, "N C"]:
        h = self.first(x)
        for layer in self.inner:
            branch = self.branch_scale * layer(h)
            h = h + branch if self.skips else branch
        return self.readout(h)


@dataclass(frozen=True, eq=False)
class ChainState:
    """The weights at a time: ``first`` (n, K), ``inner`` (L, n, n), ``readout`` (C, n)."""

    time: float
    first: Float[np.ndarray, "n K"]
    inner: Float[np.ndarray, "L n n"]
    readout: Float[np.ndarray, "C n"]


@dataclass(frozen=True)
class LinearChain:
    r"""A linear network of L inner layers on K modes, N = K, with the error energy E ~ lambda^beta below each lambda.

    .. math:: f = V B_L \cdots B_1 A\,x, \quad X = \sqrt{N} Q\,\mathrm{diag}(\lambda)^{1/2}, \quad
              \lambda_k |w^*_k|^2 = h\,\lambda_k^{\beta}, \quad w^T = V B_L \cdots B_1 A .

    log lambda_k has one place, drawn uniformly, in each of K cells of width h from 0 down to ``lowest``, so that every
    shell holds equally many modes and the spectrum runs out late; the directions of the w*_k in the C outputs are
    drawn, as orthogonal frames of C consecutive modes. In the basis of the modes, for one output, M is a Lambda +
    Lambda^(1/2) A^T S A Lambda^(1/2) with a = |V B|^2 and S of rank n: the kernel is explicit, and the flow needs
    products with the small matrices alone. It is integrated to a relative error of 1e-10 a step.

    Args:
        beta: source exponent; below 1 the task is hard, and the lazy loss falls as t^-beta.
        layers: L inner layers, 0 for two layers in all. ``skips``: B = 1 + W / sqrt(L) instead of B = W.
        start: scale of A (standard deviation start / sqrt(K)) and V (start / sqrt(n)). ``inner``: that of W.
        lopsided: factor of V, with its inverse on A: the outputs at the start stay, and the kernel is larger.
        bend: (place, other): below log lambda = place the energy falls with the exponent ``other`` instead of beta.
        wiggle: (size, period) in log lambda of a factor 1 + size cos of the energy; size below 1.
        modes: K. ``outputs``: C; D = K C. ``width``: n, at least C. ``lowest``: smallest log lambda.
        seed: of the spectrum, the directions and the weights.

    Errors: ``ValueError`` for parameters outside these ranges.
    """

    beta: float = 0.4
    layers: int = 0
    skips: bool = True
    start: float = 0.5
    inner: float = 1.0
    lopsided: float = 1.0
    bend: tuple[float, float] | None = None
    wiggle: tuple[float, float] = (0.0, 1.0)
    modes: int = 120
    outputs: int = 4
    width: int = 16
    lowest: float = -22.0
    seed: int = 0

    def __post_init__(self) -> None:
        call = "LinearChain"
        positive(call, "beta", self.beta, 0.01, 10.0)
        whole_number(call, "layers", self.layers, 0)
        flag(call, "skips", self.skips)
        positive(call, "start", self.start, 1e-6, 1e6)
        number(call, "inner", self.inner, 0.0, 1e3)
        positive(call, "lopsided", self.lopsided, 1e-6, 1e6)
        number(call, "lowest", self.lowest, -LARGEST, -1.0)
        size = whole_number(call, "modes", self.modes, 2), whole_number(call, "width", self.width, 1)
        if whole_number(call, "outputs", self.outputs, 1) > size[1]:
            raise ValueError(f"{call}(outputs=...): expected at most width = {size[1]}, got {self.outputs!r}")
        numbers = (size[0] * self.outputs) ** 2 + size[0] * size[1] + self.layers * size[1] ** 2
        fits_memory(call, "modes, outputs, width", numbers)
        seed_of(call, "seed", self.seed)
        if self.bend is not None:
            number(call, "bend", self.bend[0], self.lowest, 0.0)
            positive(call, "bend", self.bend[1], 0.01, 10.0)
        number(call, "wiggle", self.wiggle[0], 0.0, 0.99)
        positive(call, "wiggle", self.wiggle[1])

    @property
    def clock_exponent(self) -> float | None:
        """The limit of t u from a small start: c in M ~ t^c. None with skips, where it has no closed form (L > 0).

        With P = L + 2 balanced layers the kernel grows as |w|^(2 (P-1) / P), |w|^2 ~ tau^(1-beta), d tau = a dt, so
        that 1 + c = P / (1 + (P-1) beta); 0 for beta >= 1. For P = 2 it is (1-beta) / (1+beta).
        """
        if self.layers and self.skips:
            return None
        depth = self.layers + 2
        return max(0.0, depth / (1 + (depth - 1) * self.beta) - 1)

    def spectrum(self) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, "K C"]]:
        """Return lambda, descending, and w*."""
        rng = np.random.default_rng((self.seed, 0))
        step = -self.lowest / self.modes
        s = -step * (np.arange(self.modes) + rng.uniform(0, 1, self.modes))
        log_energy = self.beta * s
        if self.bend is not None:
            place, other = self.bend
            log_energy = np.where(s < place, self.beta * place + other * (s - place), log_energy)
        size, period = self.wiggle
        energy = step * np.exp(log_energy) * (1 + size * np.cos(2 * math.pi * s / period))
        frames = rng.standard_normal((math.ceil(self.modes / self.outputs), self.outputs, self.outputs))
        directions = np.linalg.qr(frames)[0] * rng.choice([-1.0, 1.0], (len(frames), 1, self.outputs))
        directions = directions.transpose(0, 2, 1).reshape(-1, self.outputs)[: self.modes]
        return np.exp(s), np.sqrt(energy / np.exp(s))[:, None] * directions

    def initial(self) -> ChainState:
        """Return the weights at time 0."""
        rng = np.random.default_rng((self.seed, 1))
        n, k = self.width, self.modes
        first = self.start / self.lopsided / math.sqrt(k) * rng.standard_normal((n, k))
        readout = self.start * self.lopsided / math.sqrt(n) * rng.standard_normal((self.outputs, n))
        return ChainState(0.0, first, self.inner / math.sqrt(n) * rng.standard_normal((self.layers, n, n)), readout)

    def states(self, times: Sequence[float] | np.ndarray) -> list[ChainState]:
        """Integrate the gradient flow from the start and return the weights at increasing ``times``."""
        call = "LinearChain.states"
        times = time_array(call, times)
        if not (np.diff(times) > 0).all():
            raise ValueError(f"{call}(times=...): expected increasing times, got {times!s:.60}")
        eigenvalues, targets = self.spectrum()
        start = self.initial()
        shapes = start.first.shape, start.inner.shape, start.readout.shape
        ends = np.cumsum([math.prod(shape) for shape in shapes])

        def split(flat: np.ndarray) -> list[np.ndarray]:
            return [part.reshape(shape) for part, shape in zip(np.split(flat, ends[:-1]), shapes, strict=True)]

        def rate(_: float, flat: np.ndarray) -> np.ndarray:
            parts = _rates(*split(flat), eigenvalues, targets, self.skips)
            return np.concatenate([part.ravel() for part in parts])

        flat = np.concatenate([part.ravel() for part in (start.first, start.inner, start.readout)])
        found = solve_ivp(
            rate, (0.0, times[-1]), flat, method="DOP853", t_eval=times, rtol=TOLERANCE, atol=TOLERANCE / 100
        )
        if not found.success:
            raise ArithmeticError(f"{call}(times=...): the integration stopped: {found.message}")
        return [ChainState(float(t), *split(y)) for t, y in zip(times, found.y.T, strict=True)]

    def error(self, state: ChainState) -> Float[np.ndarray, "K C"]:
        """Return e in the basis of the modes, sqrt(N lambda) (w - w*)."""
        eigenvalues, targets = self.spectrum()
        above = _backward(state.inner, state.readout, self.skips)[0]
        return np.sqrt(self.modes * eigenvalues)[:, None] * ((above @ state.first).T - targets)

    def loss(self, state: ChainState) -> float:
        """Return L = |e|^2 / (2 N)."""
        return float(np.square(self.error(state)).sum() / (2 * self.modes))

    def clock(self, state: ChainState) -> float:
        """Return a = |V B|^2 / C, the factor by which Lambda has grown below the modes that are being learned."""
        return float(np.square(_backward(state.inner, state.readout, self.skips)[0]).sum() / self.outputs)

    def matrices(self, state: ChainState) -> tuple[Float[Tensor, "D D"], Float[Tensor, "D D"], Float[Tensor, " D"]]:
        """Return (M, M', e) at ``state`` in the basis of the modes, D = K C; M' by forward mode along the flow."""
        eigenvalues, targets = self.spectrum()
        weights = state.first, state.inner, state.readout
        rates = _rates(*weights, eigenvalues, targets, self.skips)
        root = torch.from_numpy(np.sqrt(eigenvalues))

        def kernel(*parts: Tensor) -> Tensor:
            return _kernel(*parts, root, self.skips)

        primal, tangent = ([torch.from_numpy(part) for part in parts] for parts in (weights, rates))
        found = torch.func.jvp(kernel, tuple(primal), tuple(tangent))
        return *found, torch.from_numpy(self.error(state)).reshape(-1)

    def problem(
        self, state: ChainState | None = None
    ) -> tuple[ChainModule, Float[Tensor, "K K"], Float[Tensor, "K C"]]:
        """Return (module at ``state``, or at the start; inputs X; targets X w*)."""
        eigenvalues, targets = (torch.from_numpy(part) for part in self.spectrum())
        inputs = rotation(self.modes, (7 * self.seed + 3) % SEEDS) * torch.sqrt(self.modes * eigenvalues)
        return ChainModule(state or self.initial(), self.skips), inputs, inputs @ targets


def branch_scale(layers: int, skips: bool) -> float:
    """Return what multiplies W: 1 / sqrt(L) with skips, 1 without."""
    return 1 / math.sqrt(layers) if skips and layers else 1.0


def _backward(inner: np.ndarray | Tensor, readout: np.ndarray | Tensor, skips: bool) -> list[np.ndarray | Tensor]:
    """Return df/dh_l for l = 0, ..., L, each (C, n)."""
    scale, found = branch_scale(len(inner), skips), [readout]
    for weight in reversed(list(inner)):
        branch = scale * (found[-1] @ weight)
        found.append(found[-1] + branch if skips else branch)
    return found[::-1]


def _rates(
    first: np.ndarray, inner: np.ndarray, readout: np.ndarray, eigenvalues: np.ndarray, targets: np.ndarray, skips: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the time derivatives of the weights under gradient flow."""
    scale, above = branch_scale(len(inner), skips), _backward(inner, readout, skips)
    pull = -eigenvalues * ((above[0] @ first).T - targets).T
    h, turned = first @ pull.T, np.empty_like(inner)
    for layer, weight in enumerate(inner):
        turned[layer] = scale * (h @ above[layer + 1]).T
        branch = scale * (weight @ h)
        h = h + branch if skips else branch
    return above[0].T @ pull, turned, h.T


def _kernel(first: Tensor, inner: Tensor, readout: Tensor, root: Tensor, skips: bool) -> Tensor:
    """Return M (K C, K C): each layer adds the products of what enters it, times those of df/dh in the outputs."""
    scale, above = branch_scale(len(inner), skips), _backward(inner, readout, skips)
    entering = first * root
    found = torch.kron(torch.diag(root.square()), above[0] @ above[0].T)
    for layer, weight in enumerate(inner):
        found = found + scale**2 * torch.kron(entering.T @ entering, above[layer + 1] @ above[layer + 1].T)
        branch = scale * (weight @ entering)
        entering = entering + branch if skips else branch
    return found + torch.kron(entering.T @ entering, torch.eye(len(readout), dtype=root.dtype, device=root.device))
