"""The labelled dataset of budgets between states: names, meanings and units of its variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from grsd.krylov.spectrum import FLAGS
from grsd.losses import check_loss
from grsd.shells.windows import LEAST_MODES, LEAST_SHARE, MASK_FLAGS, shell_coords
from grsd.support.provenance import provenance
from grsd.training.dense import LEGS
from grsd.training.reading import Reading

SHELL, PAIR, SCALAR = ("shell",), ("shell", "shell_from"), ()
PARTS = ("frozen", "growth", "rest")
VARIABLES = {
    "energy_before": (SHELL, "energy E_a of the first state", "energy"),
    "energy_after": (SHELL, "energy E_a of the second state", "energy"),
    "relaxation": (SHELL, "change of energy by the change of the force, R_a", "energy"),
    "transport": (PAIR, "energy gained from shell_from by the change of the kernel, T_ab", "energy"),
    "flux": (("boundary",), "energy carried upward through the boundary, sum of T_ab over a >= c > b", "energy"),
    **{leg: (PAIR, f"transport by {text}, mean of two orders", "energy") for leg, text in LEGS.items()},
    **{
        f"{leg}_order": (PAIR, f"transport by {text}, growth first minus growth last", "energy")
        for leg, text in LEGS.items()
    },
    "growth_rayleigh": (PAIR, "transport by a growth of the whole kernel as the force sees it", "energy"),
    "growth_rayleigh_order": (PAIR, "growth_rayleigh of the first kernel minus that of the second", "energy"),
    "loss_before": (SCALAR, "mean loss of the first state", "loss"),
    "loss_after": (SCALAR, "mean loss of the second state", "loss"),
    "loss_dissipation_before": (SHELL, "-dL/dt under gradient flow, <e, w_a M e> / N, first state", "loss/time"),
    "loss_dissipation_after": (SHELL, "-dL/dt under gradient flow, <e, w_a M e> / N, second state", "loss/time"),
    "spectral_position_before": (SCALAR, "<e, M e> / (<e, e> tr M), first state", "1"),
    "spectral_position_after": (SCALAR, "<e, M e> / (<e, e> tr M), second state", "1"),
    "log_growth": (SCALAR, "mean change of log eigenvalues in order, over modes above both floors, rho", "1"),
    "log_growth_rayleigh": (SCALAR, "change of the log of <e, M e>, mean of both forces e", "1"),
    "grown_modes": (SCALAR, "number of modes whose eigenvalues are above both floors", "1"),
    "laziness": (("part",), "signed share of the change of the shells' energies, <part, change> / |change|^2", "1"),
    "laziness_rayleigh": (("part",), "laziness with growth_rayleigh as the growth", "1"),
    "modes_before": (SHELL, "effective number of modes of the first state", "1"),
    "modes_after": (SHELL, "effective number of modes of the second state", "1"),
}
MAY_LACK = {  # NaN if e = 0, or if nothing changes
    "spectral_position_before",
    "spectral_position_after",
    "log_growth_rayleigh",
    "laziness",
    "laziness_rayleigh",
}


def labelled(
    reading: Reading, steps: Sequence[Mapping], indices: np.ndarray, parameters: Mapping[str, object] | None
) -> xr.Dataset:
    """Return the budgets ``steps`` along ``step``, on the shells of these ``indices``."""
    data: dict[str, object] = {}
    for name, (dims, text, units) in VARIABLES.items():
        if name not in steps[0]:
            continue
        values = np.stack([step[name] for step in steps])
        if name not in MAY_LACK and not np.isfinite(values).all():
            raise ValueError(
                f"{reading.call}(inputs, targets): the {text} leaves the range of {values.dtype}; choose other units"
            )
        data[name] = (("step", *dims), values, {"long_name": text, "units": units})
        if f"{name}_error" in steps[0]:
            stated = np.stack([step[f"{name}_error"] for step in steps])
            data[f"{name}_error"] = (("step", *dims), stated, {"long_name": f"stated error of {name}", "units": units})
    data["mask"] = _mask(reading, steps)
    width = reading.shells.width
    boundary = {"long_name": "log eigenvalue at the boundary", "units": "log(1/time)"}
    coords = shell_coords(indices, width) | {
        "boundary": ("boundary", indices[1:] * width, boundary),
        "part": ("part", list(PARTS)),
        "step": ("step", np.arange(len(steps)), {"long_name": "step, from state k to state k + 1"}),
    }
    settings = {
        "shell_width": width,
        "smoothing": reading.shells.smoothing,
        "loss": check_loss(reading.call, reading.loss),
        "method": reading.route,
        "samples": len(reading.inputs),
        "dimension": reading.dimension,
    }
    if reading.route == "krylov":
        settings |= {"steps": reading.steps, "tolerance": reading.tolerance}
    return xr.Dataset(data, coords, provenance(parameters) | settings)


def _mask(reading: Reading, steps: Sequence[Mapping]) -> xr.DataArray:
    text = "0: kept; below_floor: reaches under a precision floor; "
    if reading.route == "dense":
        flags, text = MASK_FLAGS, text + f"few_modes: fewer than {LEAST_MODES:g} in both states; "
    else:
        flags, text = FLAGS, text + f"not_converged: stated error above {reading.tolerance:g} of the larger energy; "
    return xr.concat([step["mask"] for step in steps], "step").assign_attrs(
        long_name=text + f"no_energy: energy at most {LEAST_SHARE:g} of all in both states",
        flag_masks=np.array(list(flags.values()), dtype=np.int8),
        flag_meanings=" ".join(flags),
    )
