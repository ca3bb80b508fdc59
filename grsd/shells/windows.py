"""Log shells: edges at multiples of a width, smooth windows, masks and their reasons."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from grsd.support.arguments import span_of
from grsd.support.values import number, positive

LEAST_MODES = 0.5
LEAST_LOCAL_MODES = 2.0
LEAST_SHARE = 1e-12
WIDTHS = (1e-9, 1e6)  # log eigenvalues are known to 1e-13 and lie within 1e3
FARTHEST = 1e6
MOST_SHELLS = 4096
MASK_FLAGS = {"below_floor": 1, "few_modes": 2, "no_energy": 4}
Labelled = xr.DataArray | np.ndarray


@dataclass(frozen=True)
class LogShells:
    """Shells [a h, (a + 1) h) in s = log lambda, natural logarithm.

    Args:
        width: h > 0.
        smoothing: delta > 0, the standard deviation of the window's edge; ``None`` means h / 5. A structure of period p
            in s is invisible unless delta <= .15 p; if shells are to be merged, take delta <= h / 5 at the finest h.
        span: (low, high) in s that the shells cover; ``None`` covers each spectrum from its smallest eigenvalue above
            the precision floor to its largest. In both cases the end shells reach to infinity.

    Errors: ``ValueError`` for numbers out of range, and for more than 4096 shells: the cost grows with the square of
    their number.
    """

    width: float = math.log(2)
    smoothing: float | None = None
    span: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        positive("LogShells", "width", self.width, *WIDTHS)
        smoothing = max(self.width / 5, WIDTHS[0]) if self.smoothing is None else self.smoothing
        object.__setattr__(self, "smoothing", positive("LogShells", "smoothing", smoothing, *WIDTHS))
        self._count("smoothing", -8 * self.smoothing, 8 * self.smoothing)
        if self.span is not None:
            low, high = span_of("LogShells", "span", self.span)
            if max(abs(low), abs(high)) > FARTHEST:
                raise ValueError(
                    f"LogShells(span=...): expected log eigenvalues of at most {FARTHEST:g} in size, got {self.span!r}"
                )
            self._count("span", low, high)

    def _count(self, name: str, low: float, high: float) -> None:
        count = (high - low) / self.width
        if count > MOST_SHELLS:
            raise ValueError(
                f"LogShells({name}=...): [{low:.6g}, {high:.6g}] in log eigenvalue takes {count:.3g} shells of width "
                f"{self.width:g}, at most {MOST_SHELLS} are made: couplings grow with the square of their number; take "
                "a larger width"
            )

    def indices(self, low: float, high: float) -> range:
        """Return the indices a of the shells that cover [low, high], or the span if there is one."""
        call = "LogShells.indices"
        low, high = self.span or (number(call, "low", low), number(call, "high", high))
        self._count("width", low, high)
        first = math.floor(low / self.width + 1e-9)
        return range(first, max(first + 1, math.ceil(high / self.width - 1e-9)))

    def cumulative(
        self, eigenvalues: Float[Tensor, " D"], boundaries: Float[Tensor, " B"], floor: float
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
        """Return W_s(lambda_u) and dW/ds = -lambda dW/dlambda; W = 1 and dW/ds = 0 at and below the floor."""
        above = eigenvalues > floor
        s = torch.where(above, eigenvalues, torch.ones_like(eigenvalues)).log()
        x = (boundaries[:, None] - s[None, :]) / self.smoothing
        window = torch.where(above, torch.special.ndtr(x), torch.ones_like(x))
        slope = torch.exp(-x.square() / 2) / (self.smoothing * math.sqrt(2 * math.pi))
        return window, torch.where(above, slope, torch.zeros_like(slope))

    def divided_differences(
        self, eigenvalues: Float[Tensor, " D"], boundaries: Float[Tensor, " B"], floor: float, near: float
    ) -> Iterator[Float[Tensor, "D D"]]:
        """Yield [W(lambda_u) - W(lambda_v)] / (lambda_u - lambda_v) for each boundary.

        Eigenvalues closer than ``near`` smoothings in log take the mean of the derivatives dW/dlambda instead.
        """
        window, bell = self.cumulative(eigenvalues, boundaries, floor)
        gap = eigenvalues[:, None] - eigenvalues
        close = gap.abs() <= near * self.smoothing * torch.maximum(eigenvalues[:, None], eigenvalues)
        gap = torch.where(close, torch.ones_like(gap), gap)
        for w, b in zip(window, bell, strict=True):
            slope = -b / eigenvalues.clamp(min=floor)
            yield torch.where(close, (slope[:, None] + slope) / 2, (w[:, None] - w) / gap)

    def derivatives(
        self, s: Float[Tensor, " P"], boundaries: Float[Tensor, " B"], order: int
    ) -> list[Float[Tensor, "shells P"]]:
        """Return the windows w_a and their derivatives in log lambda up to ``order`` <= 3, at log eigenvalues ``s``.

        ``boundaries`` are the interior edges; s = -inf stands for a mode at or below the precision floor.
        """
        x = ((boundaries[:, None] - s[None, :]) / self.smoothing).clamp(-40, 40)
        bell = torch.exp(-x.square() / 2) / (self.smoothing * math.sqrt(2 * math.pi))
        ones = torch.ones_like(s)[None]
        values = [torch.special.ndtr(x), -bell, -x * bell / self.smoothing, (1 - x.square()) * bell / self.smoothing**2]
        return [
            torch.cat([0 * ones, value, (1 if k == 0 else 0) * ones]).diff(dim=0)
            for k, value in enumerate(values[: order + 1])
        ]


def mask_flags(below: Labelled, modes: Labelled, least: float, energy: Labelled, total: object) -> Labelled:
    """Return the sum of the flags of all reasons to mask a shell or boundary; zero if it is kept."""
    flags = below * MASK_FLAGS["below_floor"] + (modes < least) * MASK_FLAGS["few_modes"]
    return (flags + (energy <= LEAST_SHARE * total) * MASK_FLAGS["no_energy"]).astype(np.int8)


def shell_coords(indices: np.ndarray, width: float) -> dict[str, object]:
    """Return the coordinates of the shells a = ``indices``: centres, indices, edges (infinite for the end shells)."""
    centre = (indices + 0.5) * width
    lower, upper = indices * width, (indices + 1) * width
    lower, upper = lower.astype(float), upper.astype(float)
    lower[0], upper[-1] = -np.inf, np.inf
    text = "log eigenvalue at the shell's centre"
    return {
        "shell": ("shell", centre, {"long_name": text, "units": "log(1/time)"}),
        "shell_from": ("shell_from", centre, {"long_name": text, "units": "log(1/time)"}),
        "shell_index": ("shell", indices, {"long_name": "a, the shell being [a h, (a + 1) h)"}),
        "shell_lower": ("shell", lower, {"long_name": "lower edge", "units": "log(1/time)"}),
        "shell_upper": ("shell", upper, {"long_name": "upper edge", "units": "log(1/time)"}),
    }
