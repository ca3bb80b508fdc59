"""Cases for conditions 1 and 2: built to hold, built to break, and the perceptrons compared over depth and seeds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import xarray as xr

from grsd.conditions import incoherence, propagation
from grsd.datasets import digits
from grsd.decomposition import Spectrum
from grsd.networks import Perceptron
from grsd.shells import LogShells
from grsd.support.values import choice, fits_memory, real, said, seed_of, whole

PERCEPTRONS = {
    "residual": {"residual": True},
    "residual, whole branches": {"residual": True, "branch_scale": 1.0},
    "critical": {},
    "super-critical": {"weight_scale": 1.5},
    "sub-critical": {"weight_scale": 0.7},
    "Gaussian linear": {"activation": "identity"},
    "orthogonal linear": {"activation": "identity"},
    "aligned linear": {"activation": "identity"},
}
DEPTHS = (4, 8, 16, 32)
SHELLS = LogShells(1.0, 0.2)


def perceptron(
    kind: str, depth: int, seed: int, *, width: int = 64, features: int = 64, outputs: int = 10
) -> Perceptron:
    """One of ``PERCEPTRONS``: tanh units and 1/sqrt(depth) branches unless its name says otherwise.

    Between the hidden layers "orthogonal linear" has random orthogonal matrices, so that every gain is exactly one
    (dynamical isometry: Saxe, McClelland and Ganguli, arXiv 1312.6120), and "aligned linear" identities, so that the
    singular directions of all layers agree. Parameters are float64. Errors: ``ValueError`` for another name.
    """
    choice("perceptron", "kind", kind, list(PERCEPTRONS))
    network = Perceptron(features, outputs, width=width, depth=depth, seed=seed, **PERCEPTRONS[kind])
    network = network.double()
    with torch.no_grad():
        for layer in network.hidden[1:]:
            if kind == "orthogonal linear":
                layer.weight.copy_(torch.linalg.qr(layer.weight)[0])
            if kind == "aligned linear":
                layer.weight.copy_(torch.eye(width, dtype=torch.float64, device="cpu"))
    return network


def propagation_over_depth(
    kind: str,
    seed: int,
    *,
    depths: Sequence[int] = DEPTHS,
    width: int = 64,
    samples: int = 8,
    device: str | None = None,
) -> list[xr.Dataset]:
    """``propagation.measure`` of one perceptron a depth, on digits drawn with the same seed; without norms."""
    inputs = digits(samples, seed=seed).inputs
    return [
        propagation.measure(
            perceptron(kind, depth, seed, width=width),
            inputs,
            norms=False,
            device=device,
            parameters={"kind": kind, "seed": seed, "depth": depth, "width": width},
        )
        for depth in depths
    ]


def incoherence_at(
    kind: str,
    depth: int,
    seed: int,
    *,
    task: str = "one-hot",
    samples: int = 30,
    width: int = 64,
    flips: int = incoherence.FLIPS,
    recomputed: int = 0,
    device: str | None = None,
) -> xr.Dataset:
    """``incoherence.measure`` of one perceptron on digits drawn with the same seed, on ``SHELLS``."""
    data = digits(samples, task=task, seed=seed)
    network = perceptron(kind, depth, seed, width=width, outputs=data.targets.shape[1])
    settings = {"kind": kind, "depth": depth, "width": width, "seed": seed, "data": data.name}
    return incoherence.measure(
        network,
        data.inputs,
        data.targets,
        shells=SHELLS,
        flips=flips,
        recomputed=recomputed,
        seed=seed,
        device=device,
        parameters=settings,
    )


def propagation_table(runs: Sequence[Sequence[xr.Dataset]]) -> xr.Dataset:
    """``worst`` and ``lyapunov_depth`` = |Lyapunov rate x depth| over (kind, depth, seed), nats."""
    return _table([item for run in runs for item in run], ("kind", "depth", "seed"), ("worst", "lyapunov_depth"))


def incoherence_table(runs: Sequence[xr.Dataset]) -> xr.Dataset:
    """``excess``, ``p_max`` and ``decay`` over (kind, data, depth, seed)."""
    return _table(runs, ("kind", "task", "depth", "seed"), ("excess", "p_max", "decay"))


def _table(runs: Sequence[xr.Dataset], dims: tuple[str, ...], names: tuple[str, ...]) -> xr.Dataset:
    rows = []
    for item in runs:
        labels = item.attrs | {"task": str(item.attrs.get("data", "")).split(", ")[-3:][0]}
        found = item
        if "lyapunov" in item:
            along = abs(item.lyapunov) * labels["depth"]
            found = item.assign(lyapunov_depth=along.assign_attrs(long_name="|Lyapunov rate x depth|", units="nats"))
        row = found[list(names)].drop_vars(list(found[list(names)].coords))
        rows.append(row.expand_dims({name: [labels[name]] for name in dims}))
    return xr.combine_by_coords(rows, combine_attrs="drop_conflicts")


def planted_signs(modes: int = 200, *, aligned: float = 0.0, seed: int = 0) -> tuple[Spectrum, torch.Tensor]:
    """A spectrum with its rate, and the error: M' of independent signs, or with a share of pairs made to agree.

    Eigenvalues are log-uniform on [1e-4, 1], g_u is normal and M'_uv = sqrt(lambda_u lambda_v) times a symmetric
    matrix of normal numbers, of which a share ``aligned`` (0 to 1) takes the sign of g_u g_v: all those pairs send
    energy up. Then z_c is N(0, 1) for 0, and the largest that it can be, sum |x| / sqrt(sum x^2), for 1.
    """
    fits_memory("planted_signs", "modes", 4 * whole("planted_signs", "modes", modes, 1) ** 2)
    seed = seed_of("planted_signs", "seed", seed)
    share = real(aligned)
    if not 0 <= share <= 1:
        raise ValueError(f"planted_signs(aligned=...): expected a share between 0 and 1, got {said(aligned)}")
    generator = torch.Generator("cpu").manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64, "device": "cpu"}
    values = torch.exp(-torch.rand(modes, **draw).sort(descending=True).values * 9.2)
    g = torch.randn(modes, **draw)
    free = torch.randn(modes, modes, **draw).triu()
    chosen = torch.rand(modes, modes, **draw) < share
    free = torch.where(chosen, free.abs() * torch.sign(g[:, None] * g), free).triu(1)
    rate = (free + free.T) * (values[:, None] * values).sqrt()
    floor = modes * torch.finfo(torch.float64).eps * float(values[-1])
    return Spectrum(values, torch.eye(modes, dtype=values.dtype, device=values.device), rate, floor), g
