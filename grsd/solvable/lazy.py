"""Linear regression on a power-law spectrum: the lazy regime, in which the spectrum does not move.

Loss and exponent are the literature's (source and capacity conditions; the paper's power law with v = 0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import gamma, gammainc
from torch import Tensor, nn

from grsd.solvable.modes import not_negative, rotation, time_array
from grsd.support.values import fits_memory, positive, seed_of, whole_number

DECAYS = (0.01, 10.0)


@dataclass(frozen=True)
class LazyPowerLaw:
    r"""A linear model with lambda_k = k^-a and target weights w_k, lambda_k w_k^2 = k^-(1+r), started at zero.

    .. math:: e_k(t) = -\sqrt{N \lambda_k}\, w_k e^{-\lambda_k t}, \qquad L(t) = \frac{|e|^2}{2N}
              = \frac12 \sum_k k^{-1-r} e^{-2 k^{-a} t} \to \frac{\Gamma(r/a)}{2a} (2t)^{-r/a} .

    The kernel is constant: M' = 0, no flux, v = 0.

    Args:
        a: decay of the spectrum, a > 0.
        r: decay of the target's energy, r > 0.
        modes: K, the modes (and samples, N = K) of the torch module; the closed-form loss sums over all modes.
        seed: of the rotation that mixes the samples.

    Errors: ``ValueError`` for an exponent that is not positive or fewer than one mode.
    """

    a: float
    r: float
    modes: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        positive("LazyPowerLaw", "a", self.a, *DECAYS)
        positive("LazyPowerLaw", "r", self.r, *DECAYS)
        fits_memory("LazyPowerLaw", "modes", whole_number("LazyPowerLaw", "modes", self.modes, 1) ** 2)
        seed_of("LazyPowerLaw", "seed", self.seed)

    @property
    def eigenvalues(self) -> Float[np.ndarray, " K"]:
        """Return lambda_k, k = 1..K; 1 / time."""
        return np.arange(1, self.modes + 1) ** -float(self.a)

    @property
    def loss_exponent(self) -> float:
        """r / a: L ~ t^-(r/a)."""
        return self.r / self.a

    def velocity(self, time: float) -> Float[np.ndarray, " K"]:
        """Return v = 0 for every mode; 1 / time^2."""
        return np.zeros(self.modes)

    def error(self, time: float) -> Float[np.ndarray, " K"]:
        """Return e_k(t) in the eigenbasis."""
        time = not_negative("LazyPowerLaw.error", "time", time)
        k = np.arange(1, self.modes + 1)
        return -math.sqrt(self.modes) * k ** (-(1 + self.r) / 2) * np.exp(-self.eigenvalues * time)

    def loss(self, times: float | Sequence[float] | np.ndarray, *, tail: bool = True) -> Float[np.ndarray, " T"]:
        """Return L(t) = |e|^2 / (2N), shape (T,).

        ``tail``: include the modes above K, integrated from K + 1/2 (an incomplete Gamma function, which is
        (K + 1/2)^-r / (2r) while lambda_K t is small); if False, return the loss of the torch module.
        """
        times = time_array("LazyPowerLaw.loss", times)
        kept = np.array([float(np.square(self.error(t)).sum()) for t in times]) / (2 * self.modes)
        if not tail:
            return kept
        first, order = self.modes + 0.5, self.r / self.a
        x = np.maximum(2 * times * first**-self.a, 1e-300)
        return kept + first**-self.r / (2 * self.a) * gamma(order) * gammainc(order, x) * x**-order

    def asymptotic_loss(self, times: float | Sequence[float] | np.ndarray) -> Float[np.ndarray, " T"]:
        """Return Gamma(r/a) (2t)^(-r/a) / (2a), the limit of the loss of all modes at late times; times > 0."""
        order = self.r / self.a
        return gamma(order) / (2 * self.a) * (2 * time_array("LazyPowerLaw.asymptotic_loss", times)) ** -order

    def problem(self) -> tuple[nn.Linear, Float[Tensor, "K K"], Float[Tensor, "K 1"]]:
        """Return (module, inputs, targets): a ``nn.Linear`` at zero, X = Q diag(sqrt(N lambda)), y = X w."""
        module = nn.Linear(self.modes, 1, bias=False, dtype=torch.float64, device="cpu")
        nn.init.zeros_(module.weight)
        mix = rotation(self.modes, self.seed)
        inputs = mix * torch.from_numpy(np.sqrt(self.modes * self.eigenvalues))
        return module, inputs, (mix @ torch.from_numpy(-self.error(0.0)))[:, None]
