"""Two aligned linear layers: a spectrum with exact degeneracies.

The trajectory of the mode strengths is Saxe, McClelland and Ganguli's (arXiv 1312.6120); the velocity of the kernel's
eigenvalues derived from it is this project's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from grsd.solvable.modes import not_negative, rotation, time_array
from grsd.support.values import SEEDS, fits_memory, positive, said, seed_of

STRENGTHS = (1e-100, 1e100)


@dataclass(frozen=True)
class AlignedDeepLinear:
    r"""f(x) = W_2 W_1 x on whitened inputs (X^T X / N = 1), both layers aligned with the target U diag(s) V^T.

    .. math:: a' = 2 a (s - a), \qquad a(t) = \frac{s\, e^{2st}}{e^{2st} - 1 + s/a_0}.

    The kernel has the n^2 eigenvalues a_i + a_j, (i, j) and (j, i) exactly degenerate. The error lives on the pairs
    (i, i): m_i = 2 a_i, v_i = m_i' = m_i (2 s_i - m_i).

    Args:
        strengths: s_i > 0 of the target's n modes.
        start: a_0 > 0, the same for every mode.
        seed: of the rotations U, V, of the hidden layer and of the samples.

    Errors: ``ValueError`` for no strength, or one that is not positive.
    """

    strengths: tuple[float, ...] = (2.0, 1.5, 1.2, 1.0, 0.7, 0.4)
    start: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.strengths, tuple) or not self.strengths:
            raise ValueError(
                f"AlignedDeepLinear(strengths=...): expected a tuple of numbers, got {said(self.strengths)}"
            )
        for value in self.strengths:
            positive("AlignedDeepLinear", "strengths", value, *STRENGTHS)
        positive("AlignedDeepLinear", "start", self.start, *STRENGTHS)
        seed_of("AlignedDeepLinear", "seed", self.seed)
        fits_memory("AlignedDeepLinear", "strengths", len(self.strengths) ** 2)

    def learned(self, time: float) -> Float[np.ndarray, " n"]:
        """Return a_i(t), in a form that does not overflow."""
        s = np.array(self.strengths, dtype=float)
        decayed = np.exp(-2 * s * not_negative("AlignedDeepLinear.learned", "time", time))
        return s / (1 + (s / self.start - 1) * decayed)

    def eigenvalues(self, time: float) -> Float[np.ndarray, " n"]:
        """Return m_i = 2 a_i of the modes that carry error; 1 / time."""
        return 2 * self.learned(time)

    def velocity(self, time: float) -> Float[np.ndarray, " n"]:
        """Return v_i = m_i (2 s_i - m_i); 1 / time^2."""
        m = self.eigenvalues(time)
        return m * (2 * np.array(self.strengths) - m)

    def all_eigenvalues(self, time: float) -> Float[np.ndarray, "n n"]:
        """Return a_i + a_j of the whole kernel, where i is the output's mode and j the input's."""
        a = self.learned(time)
        return a[:, None] + a[None, :]

    def error(self, time: float) -> Float[np.ndarray, " n"]:
        """Return e_i = sqrt(N) (a_i - s_i) on the pairs (i, i), N = n; the error is zero on all other pairs."""
        a = self.learned(time)
        return np.sqrt(len(a)) * (a - np.array(self.strengths))

    def loss(self, times: float | Sequence[float] | np.ndarray) -> Float[np.ndarray, " T"]:
        """Return L(t) = |e|^2 / (2N) = 1/2 sum (s - a)^2, shape (T,)."""
        gaps = [self.learned(t) - np.array(self.strengths) for t in time_array("AlignedDeepLinear.loss", times)]
        return np.square(gaps).sum(1) / 2

    def problem(self, time: float = 0.0) -> tuple[nn.Sequential, Float[Tensor, "n n"], Float[Tensor, "n n"]]:
        """Return (module at ``time``, inputs, targets): two ``nn.Linear`` without bias, X = sqrt(N) Q, N = n."""
        n = len(self.strengths)
        u, v, hidden, mix = (rotation(n, (4 * self.seed + i) % SEEDS) for i in range(4))
        root = torch.from_numpy(self.learned(time)).sqrt()
        model = nn.Sequential(*(nn.Linear(n, n, bias=False, dtype=torch.float64, device="cpu") for _ in range(2)))
        with torch.no_grad():
            model[0].weight.copy_((hidden * root) @ v.T)
            model[1].weight.copy_((u * root) @ hidden.T)
        inputs = n**0.5 * mix
        return model, inputs, inputs @ (v * torch.tensor(self.strengths, dtype=torch.float64, device="cpu")) @ u.T
