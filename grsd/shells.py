r"""Logarithmic spectral shells and the exact energy budget of gradient flow.

With e' = -M e, M phi_u = lambda_u phi_u, g_u = <e, phi_u> and s = log lambda, shells are cut at multiples of a width h
by smooth cumulative windows W_s(lambda) = Phi((s - log lambda) / delta). Then, exactly (Daleckii and Krein),

.. math:: \frac{d}{dt} \tfrac12 \langle e, w(M) e\rangle = -\langle e, M w(M) e\rangle
          + \tfrac12 \sum_{uv} w^{[1]}(\lambda_u, \lambda_v)\, M'_{uv}\, g_u g_v ,

w^{[1]} the divided differences of the window. Shells and their exchange are the paper's (arXiv 2512.18209, after
2512.10427); the smooth windows, the coupling matrix and this identity are this project's operational form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from grsd.checks import positive
from grsd.provenance import provenance
from grsd.spectrum import Spectrum

NEAR = 1e-8
LEAST_MODES = 1.0
LEAST_LOCAL_MODES = 2.0
LEAST_SHARE = 1e-12
MASK_FLAGS = {"below_floor": 1, "few_modes": 2, "no_energy": 4}


@dataclass(frozen=True)
class LogShells:
    """Shells [a h, (a + 1) h) in s = log lambda, natural logarithm.

    Args:
        width: h > 0.
        smoothing: delta > 0, the standard deviation of the window's edge; ``None`` means h / 5. A structure of period p
            in s is invisible unless delta <= .15 p; shells to be merged want delta <= h / 5 at the finest h.
        span: (low, high) in s to be covered by the shells; ``None`` covers each spectrum from its smallest eigenvalue
            above the precision floor to its largest. The end shells reach to infinity either way.
    """

    width: float = math.log(2)
    smoothing: float | None = None
    span: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        positive("LogShells", "width", self.width)
        smoothing = self.width / 5 if self.smoothing is None else self.smoothing
        object.__setattr__(self, "smoothing", positive("LogShells", "smoothing", smoothing))
        if self.span is not None:
            low, high = self.span
            if not -math.inf < low < high < math.inf:
                raise ValueError(
                    f"LogShells(span=...): expected (low, high) in log lambda, low < high, got {self.span!r}"
                )

    def indices(self, low: float, high: float) -> range:
        """The a of the shells that cover [low, high] (or the span, where one was given)."""
        low, high = self.span or (low, high)
        first = math.floor(low / self.width + 1e-9)
        return range(first, max(first + 1, math.ceil(high / self.width - 1e-9)))

    def cumulative(
        self, eigenvalues: Float[Tensor, " D"], boundaries: Float[Tensor, " B"], floor: float
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
        """W_s(lambda_u) and its derivative dW/ds = -lambda dW/dlambda; W = 1 and dW/ds = 0 at and under the floor."""
        above = eigenvalues > floor
        s = torch.where(above, eigenvalues, torch.ones_like(eigenvalues)).log()
        x = (boundaries[:, None] - s[None, :]) / self.smoothing
        window = torch.where(above, torch.special.ndtr(x), torch.ones_like(x))
        slope = torch.exp(-x.square() / 2) / (self.smoothing * math.sqrt(2 * math.pi))
        return window, torch.where(above, slope, torch.zeros_like(slope))


def energy_budget(
    spectrum: Spectrum,
    error: Tensor,
    shells: LogShells | Sequence[LogShells],
    *,
    parameters: Mapping[str, object] | None = None,
) -> xr.Dataset | tuple[xr.Dataset, ...]:
    r"""The energy budget of the error over shells: dE_a/dt = sum_b T_ab - D_a, exactly.

    Args:
        spectrum: from ``grsd.spectrum(kernel, rate)``; without a rate only energies, dissipation and counts are given.
        error: e = f(X) - Y, shape (N, C), (N,) or (D,), dtype and device of the spectrum.
        shells: one ``LogShells``, or several: they share the decomposition and all D x D work.
        parameters: what to write into the attributes besides versions and settings (seed, depth, time, ...).

    Returns: a dataset (a tuple of them for several shells) with

        * ``energy(shell)`` E_a = 1/2 sum_u w_a g_u^2 and ``dissipation(shell)`` D_a = <e, M w_a e>;
        * ``coupling(shell, shell_from)`` T_ab: energy that ``shell`` gains from ``shell_from`` per time, antisymmetric;
        * ``flux(boundary)`` F: energy that crosses s upward per time, the sum of T_ab over a >= c > b;
        * ``density(boundary)`` eps: energy per unit of s, and ``velocity(boundary)`` u = F / eps, in 1 / time;
        * ``modes(shell)`` the window's sum, ``local_modes(boundary)`` the number of modes within about one smoothing;
        * ``mask``, ``boundary_mask``: zero where the numbers mean something, else the sum of the reasons' flags.

    Cost: two products of (shells, D) with (D, D) and a few D x D elementwise operations.
    Source: theory in README.md, section on the energy budget; Daleckii and Krein 1965 for the derivative.
    Errors: ``ValueError`` for an error of another size, NaN, dtype or device mismatch.
    """
    several = isinstance(shells, Sequence)
    chosen = tuple(shells) if several else (shells,)
    if not chosen or not all(isinstance(item, LogShells) for item in chosen):
        raise TypeError(f"energy_budget(shells=...): expected LogShells or a sequence of them, got {shells!r}")
    error = _check_error(spectrum, error)
    g = spectrum.eigenvectors.T @ error
    exchange = None if spectrum.rate is None else _exchange(spectrum, g)
    budgets = tuple(_budget(spectrum, g, exchange, item, parameters) for item in chosen)
    return budgets if several else budgets[0]


def merge_shells(budget: xr.Dataset, factor: int) -> xr.Dataset:
    """Shells of ``factor`` times the width by sums of energy, dissipation, coupling and modes (block spin).

    ``budget`` is what ``energy_budget`` or ``shell_history`` gave. Fluxes, densities and velocities do not depend on
    the width and are kept at the boundaries that survive. Masks are decided again on the merged shells. Exact: the
    result equals the budget at the coarser width with the same smoothing.
    """
    if isinstance(factor, bool) or not isinstance(factor, int) or factor < 1:
        raise ValueError(f"merge_shells(factor=...): expected a whole number of at least 1, got {factor!r}")
    index = budget.shell_index.values
    coarse = np.floor_divide(index, factor)
    labels = np.unique(coarse)
    width = budget.attrs["shell_width"] * factor
    plain = budget.drop_vars(["shell_index", "shell_lower", "shell_upper"])

    def summed(part: xr.DataArray) -> xr.DataArray:
        for dim in [dim for dim in ("shell", "shell_from") if dim in part.dims]:
            part = part.assign_coords({dim: coarse}).groupby(dim).sum().drop_vars(dim)
        return part

    variables = {
        name: summed(plain[name]).transpose(*plain[name].dims).assign_attrs(plain[name].attrs)
        for name in ("energy", "dissipation", "coupling", "modes")
        if name in plain
    }
    below = summed((plain.mask & MASK_FLAGS["below_floor"]) > 0) > 0
    mask = _mask(below, variables["modes"], LEAST_MODES, variables["energy"], variables["energy"].sum("shell"))
    variables["mask"] = mask.transpose(*plain.mask.dims).assign_attrs(plain.mask.attrs)
    kept = np.isin(index[1:], labels[1:] * factor)
    rest = plain[[name for name in plain.data_vars if name not in variables]].isel(boundary=kept)
    rest = rest.drop_dims(["shell", "shell_from"], errors="ignore")
    return rest.assign(variables).assign_coords(_shell_coords(labels, width)).assign_attrs(shell_width=width)


def velocity_over_runs(budgets: Sequence[xr.Dataset]) -> xr.Dataset:
    r"""u = sum_r F_r / sum_r eps_r over R runs, with its standard error.

    The ratio of sums, never the mean of ratios: sd = sqrt(sum_r (F_r - u eps_r)^2 / (R (R - 1))) / mean(eps). Runs are
    joined where all have the boundary unmasked. Returns ``velocity`` and ``standard_error`` over ``boundary``.
    """
    if len(budgets) < 2:
        raise ValueError(f"velocity_over_runs(budgets): expected at least 2 runs, got {len(budgets)}")
    variables = ["flux", "density", "boundary_mask"]
    runs = xr.concat([budget[variables] for budget in budgets], dim="run", join="inner", combine_attrs="drop")
    runs = runs.isel(boundary=np.flatnonzero((runs.boundary_mask == 0).all("run")))
    count = runs.sizes["run"]
    velocity = runs.flux.sum("run") / runs.density.sum("run")
    spread = np.sqrt(((runs.flux - velocity * runs.density) ** 2).sum("run") / (count * (count - 1)))
    result = xr.Dataset({"velocity": velocity, "standard_error": spread / runs.density.mean("run")})
    for name, text in {"velocity": "velocity u over runs", "standard_error": "standard error of u"}.items():
        result[name].attrs = {"long_name": text, "units": "1/time"}
    return result.assign_attrs(runs=count)


def log_range(spectrum: Spectrum) -> tuple[float, float]:
    """(low, high): log of the smallest eigenvalue, or of the precision floor if that is higher, and of the largest."""
    values = spectrum.eigenvalues
    return math.log(max(float(values[0]), spectrum.floor)), math.log(float(values[-1]))


def _check_error(spectrum: Spectrum, error: Tensor) -> Tensor:
    if not isinstance(error, Tensor):
        raise TypeError(f"energy_budget(error=...): expected a torch.Tensor, got {type(error).__name__}")
    if error.ndim not in {1, 2} or error.numel() != spectrum.dimension:
        raise ValueError(
            f"energy_budget(error=...): expected shape (N, C) or (D,) with D = {spectrum.dimension}, as the spectrum, "
            f"got {tuple(error.shape)}"
        )
    same = spectrum.eigenvalues
    if error.dtype != same.dtype or error.device != same.device:
        raise ValueError(
            f"energy_budget(error=...): expected {same.dtype} on {same.device}, as the spectrum, got {error.dtype} on "
            f"{error.device}; use error.to(spectrum.eigenvalues)"
        )
    if not bool(torch.isfinite(error).all()):
        raise ValueError("energy_budget(error=...): found NaN or infinity")
    return error.detach().reshape(-1)


def _exchange(spectrum: Spectrum, g: Tensor) -> tuple[Tensor, Tensor]:
    """A_uv = M'_uv g_u g_v / (lambda_u - lambda_v) off near pairs, X_uv = 1/2 M'_uv g_u g_v on near pairs, else 0."""
    values = spectrum.eigenvalues
    gap = values[:, None] - values[None, :]
    eps = torch.finfo(values.dtype).eps
    reach = torch.clamp(NEAR * (values[:, None] + values[None, :]), min=10 * eps * float(values[-1]))
    near = gap.abs() <= reach
    energy_rate = spectrum.rate * (g[:, None] * g[None, :])
    zero = torch.zeros((), dtype=values.dtype, device=values.device)
    apart = torch.where(near, zero, energy_rate / torch.where(near, torch.ones_like(gap), gap))
    return apart, torch.where(near, energy_rate / 2, zero)


def _coupling(w: Tensor, w_slope: Tensor, exchange: tuple[Tensor, Tensor]) -> Tensor:
    """T = w A w^T + w' X w^T - w X w'^T, w' = dw/dlambda."""
    apart, near = exchange
    crossing = w_slope @ near @ w.T
    return w @ apart @ w.T + crossing - crossing.T


def _mask(below: xr.DataArray, modes: xr.DataArray, least: float, energy: xr.DataArray, total: object) -> xr.DataArray:
    flags = below * MASK_FLAGS["below_floor"] + (modes < least) * MASK_FLAGS["few_modes"]
    return (flags + (energy <= LEAST_SHARE * total) * MASK_FLAGS["no_energy"]).astype(np.int8)


def _shell_coords(indices: np.ndarray, width: float) -> dict[str, object]:
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


def _budget(
    spectrum: Spectrum,
    g: Tensor,
    exchange: tuple[Tensor, Tensor] | None,
    shells: LogShells,
    parameters: Mapping[str, object] | None,
) -> xr.Dataset:
    values = spectrum.eigenvalues
    indices = np.array(shells.indices(*log_range(spectrum)))
    boundaries = indices[1:] * shells.width
    at = torch.as_tensor(boundaries, dtype=values.dtype, device=values.device)
    below, density = shells.cumulative(values, at, spectrum.floor)

    def between(lowest: float, highest: float, cumulative: Tensor) -> Tensor:
        row = torch.ones_like(values)[None]
        return torch.cat([lowest * row, cumulative, highest * row]).diff(dim=0)

    w = between(0.0, 1.0, below)
    energies = g.square() / 2
    floor = math.log(spectrum.floor)
    result = {
        "energy": ("shell", w @ energies, "error energy E_a", "energy"),
        "dissipation": ("shell", 2 * (w @ (values * energies)), "dissipation D_a", "energy/time"),
        "modes": ("shell", w.sum(1), "effective number of modes", "1"),
        "density": ("boundary", density @ energies, "energy per unit of log eigenvalue", "energy"),
        "local_modes": (
            "boundary",
            density.sum(1) * (shells.smoothing * math.sqrt(2 * math.pi)),
            "modes within about one smoothing of the boundary",
            "1",
        ),
    }
    if exchange is not None:
        inverse = torch.where(values > spectrum.floor, 1 / values, torch.zeros_like(values))
        coupling = _coupling(w, between(0.0, 0.0, -density * inverse), exchange)
        flux = torch.stack([coupling[c:, :c].sum() for c in range(1, len(indices))]) if len(indices) > 1 else at
        result["coupling"] = (
            ("shell", "shell_from"),
            coupling,
            "energy gained from shell_from, T_ab",
            "energy/time",
        )
        result["flux"] = ("boundary", flux, "energy flux upward through the boundary, F", "energy/time")
        result["velocity"] = ("boundary", flux / result["density"][1], "velocity u = F / density", "1/time")

    data = xr.Dataset(
        {
            name: (dims, tensor.cpu().numpy(), {"long_name": text, "units": units})
            for name, (dims, tensor, text, units) in result.items()
        }
    )
    masks = {
        "mask": ("shell", indices * shells.width, "modes", LEAST_MODES, "energy"),
        "boundary_mask": ("boundary", boundaries - shells.smoothing, "local_modes", LEAST_LOCAL_MODES, "density"),
    }
    for name, (dim, lowest, count, least, energy) in masks.items():
        below = xr.DataArray(lowest < floor, dims=dim)
        data[name] = _mask(below, data[count], least, data[energy], float(energies.sum()))
        text = f"0: kept; below_floor: reaches under the precision floor; few_modes: {count} < {least:g}; "
        data[name].attrs = {
            "long_name": text + f"no_energy: {energy} at most {LEAST_SHARE:g} of all",
            "flag_masks": np.array(list(MASK_FLAGS.values()), dtype=np.int8),
            "flag_meanings": " ".join(MASK_FLAGS),
        }
    boundary = {"long_name": "log eigenvalue at the boundary", "units": "log(1/time)"}
    coords = _shell_coords(indices, shells.width) | {"boundary": ("boundary", boundaries, boundary)}
    settings = {"shell_width": shells.width, "smoothing": shells.smoothing, "log_floor": floor}
    return data.assign_coords(coords).assign_attrs(
        provenance(parameters) | settings | {"dimension": spectrum.dimension}
    )
