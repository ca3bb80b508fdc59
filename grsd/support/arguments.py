"""Check arguments that are arrays or datasets before a call computes anything; refuse bad ones in one line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from grsd.support.values import real, said

LARGEST, SMALLEST = 1e100, 1e-100
WORDS = {1: "one", 2: "two", 3: "three", 4: "four"}
SHELLS = {
    "energy": ("shell",),
    "dissipation": ("shell",),
    "modes": ("shell",),
    "drift": ("shell",),
    "mask": ("shell",),
    "local_modes": ("boundary",),
    "effective_modes": ("boundary",),
    "coupling": ("shell", "shell_from"),
    "scale_coupling": ("shell", "shell_from"),
    "flux": ("boundary",),
    "flux_crossing": ("boundary",),
    "flux_rotation": ("boundary",),
    "density": ("boundary",),
    "velocity": ("boundary",),
    "boundary_mask": ("boundary",),
}
MASKS = {("shell",): "mask", ("boundary",): "boundary_mask"}


def listed(call: str, name: str, value: object, wanted: str, least: int = 1) -> list:
    """Return a sequence of at least ``least`` entries as a list; raise ``TypeError`` or ``ValueError`` otherwise.

    ``wanted`` names the entries in the error message, for example "runs".
    """
    if isinstance(value, str | bytes | Mapping | xr.Dataset | xr.DataArray) or not isinstance(
        value, Sequence | np.ndarray | Tensor | range
    ):
        raise TypeError(f"{call}({name}): expected a sequence of {wanted}, got {said(value)}")
    if getattr(value, "ndim", 1) < 1 or len(value) < least:
        got = len(value) if getattr(value, "ndim", 1) else "a scalar"
        raise ValueError(f"{call}({name}): expected at least {least} {wanted}, got {got}")
    return list(value)


def vector(
    call: str,
    name: str,
    value: object,
    least: int = 1,
    low: float = -LARGEST,
    high: float = LARGEST,
    wanted: str = "finite numbers (n,)",
) -> Float[np.ndarray, " n"]:
    """Return finite numbers from ``low`` to ``high`` as float64 of shape (n,), n >= ``least``; a scalar has n = 1.

    ``wanted`` names the numbers in the error message.
    """
    try:
        array = np.atleast_1d(np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{call}({name}): expected {wanted}, got {said(value)}")
    array = array.astype(float)
    if array.ndim != 1 or len(array) < least or not np.isfinite(array).all():
        raise ValueError(f"{call}({name}): expected {wanted}, n >= {least}, got {said(value)}")
    if (array < low).any() or (array > high).any():
        limits = f"of at least {low:g}" if high == LARGEST and low > -LARGEST else f"from {low:g} to {high:g}"
        raise ValueError(f"{call}({name}): expected {wanted} {limits}, got {said(value)}")
    return array


def times_of(call: str, name: str, value: object, least: int = 1) -> Float[np.ndarray, " T"]:
    """Return increasing positive times as float64 of shape (T,), T >= ``least``; raise ``ValueError`` otherwise."""
    array = vector(call, f"{name}=...", value)
    if len(array) < least or (array <= 0).any() or (np.diff(array) <= 0).any():
        raise ValueError(
            f"{call}({name}=...): expected {WORDS[least]} or more increasing times after 0, got {said(value)}"
        )
    return array


def span_of(call: str, name: str, value: object, of: str = "log lambda") -> tuple[float, float]:
    """Return (low, high) with low < high; the ends may be infinite. Raise ``ValueError`` otherwise."""
    pair = tuple(value) if isinstance(value, Sequence | np.ndarray) and getattr(value, "ndim", 1) == 1 else ()
    low, high = map(real, pair) if len(pair) == 2 else (math.nan, math.nan)
    if not low < high:
        raise ValueError(f"{call}({name}=...): expected (low, high) in {of}, low < high, got {said(value)}")
    return low, high


def required_window(call: str, value: object) -> tuple[float, float]:
    """Return ``span_of`` the window; ``None`` is refused, because the result depends on the window."""
    if value is None:
        raise ValueError(
            f"{call}(window=...): expected (low, high) in log lambda, got None; what is judged depends on it: "
            "conditions.matched.frontier_window(ensemble) reaches up to the frontier, (-math.inf, math.inf) is all"
        )
    return span_of(call, "window", value)


def optional_window(call: str, value: object) -> tuple[float, float]:
    """Return ``span_of`` the window, or (-inf, inf) for ``None``."""
    return (-math.inf, math.inf) if value is None else span_of(call, "window", value)


def described(call: str, parameters: object) -> None:
    """Refuse parameters that are neither ``None`` nor a mapping from names to values."""
    if parameters is not None and not (isinstance(parameters, Mapping) and all(isinstance(n, str) for n in parameters)):
        raise TypeError(f"{call}(parameters=...): expected a mapping from names to values, got {said(parameters)}")


def dataset(call: str, name: str, value: object, needed: Mapping[str, tuple[str, ...] | None], made: str) -> None:
    """Refuse ``value`` unless it is a dataset that has the ``needed`` variables or coordinates as real numbers.

    ``needed`` maps each name to its dimensions; ``None`` allows any dimensions. ``made`` ends the error message: it
    says what to make and how, for example "the history with grsd.shell_history".
    """
    if not isinstance(value, xr.Dataset):
        raise TypeError(f"{call}({name}): expected a dataset, got {said(value)}; make {made}")
    for variable, dims in needed.items():
        if variable not in value.variables:
            raise ValueError(f"{call}({name}): {variable!r} is missing; make {made}")
        found = value.variables[variable]
        if found.dtype.kind not in "biuf":
            raise TypeError(f"{call}({name}): expected real numbers in {variable!r}, got {found.dtype}")
        if dims is not None and found.dims != dims:
            more = set(found.dims) - set(dims)
            hint = f"; choose a time with .isel({more.pop()}=...)" if more else ""
            raise ValueError(
                f"{call}({name}): expected one snapshot per run, {variable!r} over {dims}, got {found.dims}{hint}"
            )


def attribute(call: str, name: str, value: xr.Dataset, which: str) -> float:
    """Return the attribute ``which`` if it is a finite number of at least 0; raise ``ValueError`` otherwise."""
    known = value.attrs.get(which)
    if isinstance(known, bool) or not isinstance(known, Real) or not 0 <= known < math.inf:
        raise ValueError(f"{call}({name}): expected a number in the attribute {which!r}, got {said(known)}")
    return float(known)


def finite(call: str, name: str, value: xr.Dataset, variable: str, kept: np.ndarray | bool = True) -> None:
    """Refuse NaN, infinity and numbers whose squares leave the range of float64. Only entries with ``kept`` count."""
    size = np.where(kept, np.abs(value.variables[variable].values.astype(float)), 0.0)
    if not np.isfinite(size).all():
        raise ValueError(f"{call}({name}): found NaN or infinity in {variable!r} where nothing is masked")
    largest = size.max(initial=0.0)
    if largest > LARGEST or 0 < largest < SMALLEST:
        raise ValueError(
            f"{call}({name}): expected {variable!r} between {SMALLEST:g} and {LARGEST:g}, got {largest:.3g}: its "
            "square leaves the range of float64; choose other units"
        )


def _kept(value: xr.Dataset, variable: str) -> np.ndarray | bool:
    """Return True at the entries of a budget's variable whose mask is zero; for a pair of shells, both masks."""
    dims = SHELLS[variable]
    mask = value.variables.get(MASKS[dims[:1]])
    if mask is None:
        return True
    of, kept = value.variables[variable].dims, mask.values == 0
    one = _along(kept, mask.dims, of)
    if len(dims) == 1:
        return one
    return one & _along(kept, tuple("shell_from" if dim == "shell" else dim for dim in mask.dims), of)


def _along(array: np.ndarray, own: tuple[str, ...], dims: tuple[str, ...]) -> np.ndarray:
    """Transpose and expand ``array``, which has the dimensions ``own``, so that it broadcasts to ``dims``."""
    ordered = array.transpose([own.index(dim) for dim in dims if dim in own])
    return ordered[tuple(slice(None) if dim in own else None for dim in dims)]


def budget_of(call: str, name: str, value: object, variables: Sequence[str], *, single: bool = True) -> None:
    """Refuse ``value`` unless it is an energy budget with these variables; ``single`` requires one snapshot.

    Unmasked entries must be finite.
    """
    dims = {variable: SHELLS[variable] if single else None for variable in variables}
    dataset(call, name, value, dims | {"shell_index": ("shell",)}, "the budget from grsd.spectrum(kernel, rate)")
    index = value.variables["shell_index"].values
    if index.dtype.kind != "i" or (np.diff(index) != 1).any() or not len(index):
        raise ValueError(f"{call}({name}): expected shells one beside the other in 'shell_index', got {said(index)}")
    if "boundary" in value.sizes and value.sizes["boundary"] != len(index) - 1:
        raise ValueError(f"{call}({name}): expected {len(index) - 1} boundaries, got {value.sizes['boundary']}")
    for which in ("shell_width", "smoothing"):
        attribute(call, name, value, which)
    if value.sizes.get("shell_from", len(index)) != len(index):
        raise ValueError(f"{call}({name}): expected as many 'shell_from' as 'shell', got {dict(value.sizes)}")
    more = set() if single else set(value.variables[variables[0]].dims) - set(SHELLS[variables[0]])
    masks = [mask for mask in MASKS.values() if mask in value.variables]
    for variable in [*variables, *masks]:
        found = value.variables[variable]
        if set(found.dims) != more | set(SHELLS[variable]) or (variable in masks and found.dtype.kind not in "biu"):
            raise ValueError(
                f"{call}({name}): expected {variable!r} over {SHELLS[variable]}, got {found.dtype} over {found.dims}"
            )
    for variable in [variable for variable in variables if variable not in MASKS.values()]:
        finite(call, name, value, variable, _kept(value, variable))


def whole_budget(call: str, name: str, value: object, needed: Sequence[str]) -> None:
    """Apply ``budget_of`` to the ``needed`` variables and to every budget variable that ``value`` has."""
    known = [variable for variable in SHELLS if variable in needed or variable in getattr(value, "data_vars", ())]
    budget_of(call, name, value, known, single=False)
    wanted = dict.fromkeys(("shell", "shell_index", "shell_lower", "shell_upper"), ("shell",))
    dataset(call, name, value, wanted, "the budget from grsd.spectrum(kernel, rate)")


def between(call: str, name: str, value: xr.Dataset, more: tuple[str, ...] = ()) -> None:
    """Refuse a budget unless it has one boundary between each two neighbouring shells.

    ``more``: further dimensions that must be as long as the shell dimension.
    """
    sizes = dict(value.sizes)
    wrong = [dim for dim in ("shell", *more) if sizes.get(dim) != sizes.get("shell", 0)]
    if wrong or sizes.get("boundary") != sizes["shell"] - 1:
        raise ValueError(f"{call}({name}): expected one boundary between neighbouring shells, got sizes {sizes}")


def budgets_of(call: str, name: str, value: object, variables: Sequence[str], least: int = 1) -> list[xr.Dataset]:
    """Return the budgets of at least ``least`` runs as a list, each checked by ``budget_of``."""
    runs = listed(call, name, value, "runs", least)
    for run in runs:
        budget_of(call, name, run, variables)
    return runs


def tensor(call: str, name: str, value: object) -> Tensor:
    """Return ``value`` if it is a dense real float32 or float64 tensor of finite numbers."""
    if not isinstance(value, Tensor):
        hint = f"; use torch.as_tensor({name})" if hasattr(value, "__array__") else ""
        raise TypeError(f"{call}({name}=...): expected a torch.Tensor, got {type(value).__name__}{hint}")
    if value.dtype not in (torch.float32, torch.float64) or value.layout != torch.strided:
        what = value.dtype if value.layout == torch.strided else value.layout
        raise TypeError(f"{call}({name}=...): expected float32 or float64, in a dense tensor, got {what}")
    if value.device.type == "meta":
        raise ValueError(f"{call}({name}=...): it is on the meta device and has no values")
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{call}({name}=...): found NaN or infinity")
    return value


def integers(call: str, name: str, value: object, least: int = 1, low: int = 0) -> list[int]:
    """Return at least ``least`` whole numbers, each of at least ``low``, as a list; raise ``ValueError`` otherwise."""
    found = listed(call, name, value, "whole numbers", least)
    if not all(isinstance(item, Integral) and not isinstance(item, bool) and item >= low for item in found):
        raise ValueError(f"{call}({name}=...): expected whole numbers of at least {low}, got {said(value)}")
    return [int(item) for item in found]
