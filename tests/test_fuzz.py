"""Careless arguments to every public call: a finite answer, or a refusal in one line that names the call."""

import copy
import math
import re
import warnings
from dataclasses import fields
from fractions import Fraction

import jaxtyping
import numpy as np
import pytest
import torch
import xarray as xr
from calls import PUBLIC
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from material import SHELLS, matrices
from torch import nn

import grsd

HUGE = (10**400, 2**63, 10**9, 1e308, -1e308, 1e154, 1e300)
WRONG = (
    None, True, False, "nonsense", "", b"bytes", "cuda", "mps", "cpu", math.nan, math.inf, -math.inf, 0, -1, 1, 0.5,
    0.0, -0.5, 1e-308, 1e-200, 1e-15, 5e-324, 1j, Fraction(1, 3), np.float32(0.5), np.int64(2), np.bool_(True), [], {},
    (), set(), object(), [None], [math.nan], ["a"], (1.0, 0.0), (math.nan, 1.0), (-math.inf, math.inf), {"a": 1},
    {1: None}, range(3), lambda *_: None, nn.Linear, torch.float16, torch.bfloat16, torch.int64, torch.float32,
    torch.device("meta"), np.array(0.5), np.array([]), np.array(["a"]), np.zeros((2, 2)), np.full(3, np.nan),
    np.arange(3), torch.tensor(0.5), torch.zeros(0), torch.full((2, 2), torch.nan), torch.eye(3), torch.arange(4),
    xr.Dataset(), xr.DataArray([1.0]), SHELLS, [SHELLS],
)  # fmt: skip


def of_tensor(value: torch.Tensor) -> dict[str, object]:
    flat = value.detach().clone(memory_format=torch.contiguous_format)
    spoilt = {}
    for name, number in {"nan": torch.nan, "inf": torch.inf}.items():
        spoilt[name] = flat.clone()
        spoilt[name].view(-1)[0] = number
    scaled = {str(factor): flat * factor for factor in (1e308, 1e200, 1e154, 1e-154, 1e-200, 1e-308, -1.0, 0.0)}
    return spoilt | scaled | {
        "array": flat.numpy(),
        "list": flat.tolist(),
        **{str(kind): flat.to(kind) for kind in (torch.half, torch.bfloat16, torch.float32, torch.int64, torch.bool)},
        "complex": flat.to(torch.complex128),
        "sparse": flat.to_sparse(),
        "meta": flat.to("meta"),
        "parameter": flat.clone().requires_grad_(True),
        "strided": torch.stack([flat, flat], -1)[..., 0],
        "flat": flat.reshape(-1),
        "deeper": flat[None],
        "shorter": flat[:-1],
        "empty": flat[:0],
        "repeated": flat[:1].expand_as(flat),
        "reversed": flat.flip(0),
        "transposed": flat.T if flat.ndim == 2 else flat,
    }  # fmt: skip


def of_dataset(value: xr.Dataset) -> dict[str, object]:
    found: dict[str, object] = {"no attributes": value.drop_attrs(deep=False)}
    for name in value.variables:
        found[f"without {name}"] = value.drop_vars(name)
    for name in value.data_vars:
        if "mask" in str(name):
            continue
        for number in (math.nan, math.inf):
            spoilt = value.copy(deep=True)
            if spoilt[name].dtype.kind == "f" and spoilt[name].size:
                spoilt[name].values.reshape(-1)[spoilt[name].size // 2] = number
                found[f"{number} in {name}"] = spoilt
        found[f"{name} of text"] = value.assign({name: value[name].astype(str)})
        found[f"{name} integer"] = value.assign({name: xr.zeros_like(value[name], dtype=int)})
        found[f"{name} zero"] = value.assign({name: value[name] * 0})
        found[f"{name} huge"] = value.assign({name: value[name] * 1e300})
        found[f"{name} tiny"] = value.assign({name: value[name] * 1e-300})
        found[f"{name} transposed"] = value.assign({name: value[name].transpose()})
        found[f"{name} negative"] = value.assign({name: -value[name].astype(float)})
    for dim in value.dims:
        found |= {
            f"no {dim}": value.isel({dim: slice(0, 0)}),
            f"one {dim}": value.isel({dim: slice(0, 1)}),
            f"{dim} twice": value.isel({dim: [0, *range(value.sizes[dim])]}),
            f"{dim} reversed": value.isel({dim: slice(None, None, -1)}),
            f"{dim} scalar": value.isel({dim: 0}),
            f"{dim} renamed": value.rename({dim: "other"}),
        }
    found["more dimensions"] = value.expand_dims("more")
    return found


def of_module(value: nn.Module) -> dict[str, object]:
    found = {name: copy.deepcopy(value) for name in ("frozen", "nan", "huge", "half", "complex", "dropout", "tiny")}
    found["frozen"].requires_grad_(False)
    with torch.no_grad():
        next(found["nan"].parameters()).fill_(torch.nan)
        for parameter in found["huge"].parameters():
            parameter.mul_(1e200)
        for parameter in found["tiny"].parameters():
            parameter.mul_(1e-200)
    found["half"].half()
    found["complex"].to(torch.complex128)
    found["dropout"] = nn.Sequential(value, nn.Dropout(0.5))
    return found | {"class": type(value), "meta": copy.deepcopy(value).to("meta"), "forward": value.forward}


def of_sequence(value: list | tuple) -> dict[str, object]:
    kind = type(value)
    found = {"empty": kind(), "one": value[:1], "doubled": value * 2, "reversed": value[::-1], "nested": kind([value])}
    found |= {"with None": kind([*value[:-1], None]), "set": {1.0, 2.0}, "text": str(value)[:20]}
    if isinstance(value[0], int | float):
        found |= {str(n): kind([*value[:-1], n]) for n in (math.nan, math.inf, -1, 0, 1e308, 10**400, "a", True)}
        found["array"] = np.array(value)
    else:
        for name, other in carelessly(value[0]).items():
            found[f"first: {name}"] = kind([other, *value[1:]])
    return found


def of_array(value: np.ndarray) -> dict[str, object]:
    found = {str(factor): value * factor for factor in (1e308, 1e154, 1e-200, 0.0, -1.0)}
    found |= {"nan": np.where(np.arange(len(value)) == 1, np.nan, value), "flat": value[:, None], "empty": value[:0]}
    found |= {"text": value.astype(str), "complex": value.astype(complex), "objects": value.astype(object)}
    return found | {"reversed": value[::-1], "tensor": torch.from_numpy(value.copy()), "short": value[:-1]}


def of_dataclass(value: object) -> dict[str, object]:
    """The same value with one of its fields spoilt, past its own checks where there are any."""
    found = {}
    for field in fields(value):
        for name, other in {"None": None, "nan": math.nan, "text": "a"}.items():
            try:
                found[f"{field.name}: {name}"] = type(value)(
                    **{f.name: getattr(value, f.name) for f in fields(value)} | {field.name: other}
                )
            except (TypeError, ValueError):
                continue
    return found


def carelessly(value: object) -> dict[str, object]:
    """What a careless caller might give in the place of ``value``, by name."""
    if isinstance(value, torch.Tensor):
        return of_tensor(value)
    if isinstance(value, xr.Dataset):
        return of_dataset(value)
    if isinstance(value, nn.Module):
        return of_module(value)
    if isinstance(value, np.ndarray):
        return of_array(value)
    if isinstance(value, list | tuple) and value:
        return of_sequence(value)
    if isinstance(value, grsd.LogShells | grsd.Spectrum):
        return of_dataclass(value)
    return {}


def one_line(error: BaseException) -> bool:
    return len(str(error).splitlines()) == 1 and str(error).strip() != ""


def refused(error: BaseException, names: tuple[str, ...]) -> bool:
    """Whether it is a refusal of the call: of a known kind, one line, and beginning with a name that the user wrote."""
    if not isinstance(error, TypeError | ValueError | MemoryError | RuntimeError | KeyError | FileNotFoundError):
        return False
    text = str(error)
    return one_line(error) and any(re.match(rf"{re.escape(name)}(?!\w)", text) for name in names)


def not_finite(answer: object) -> str | None:
    """Where an answer holds NaN or infinity that no mask excuses."""
    if isinstance(answer, float):
        return None if math.isfinite(answer) else "the number"
    if isinstance(answer, torch.Tensor):
        return None if bool(torch.isfinite(answer).all()) else "the tensor"
    if isinstance(answer, tuple | list):
        return next((found for found in map(not_finite, answer) if found), None)
    if isinstance(answer, xr.Dataset):
        for dim, mask in {"shell": "mask", "boundary": "boundary_mask"}.items():
            for name in answer.data_vars if mask in answer else ():
                part = answer[name]
                pair = "shell_from" in part.dims
                if dim in part.dims and part.dtype.kind == "f" and name not in MAY_LACK:
                    kept = (answer[mask] == 0).broadcast_like(part) if not pair else None
                    if kept is not None and not bool(np.isfinite(part.where(kept, 0.0)).all()):
                        return str(name)
    return None


HISTORIES = ("invariance", "closure", "locality", "profile_flow", "covariance")
# What was given comes back, and the window without a reach is open.
GIVEN_BACK = {"at_width", "frontier_window"} | {f"{name}.measure" for name in HISTORIES}
MAY_LACK = {"operator", "operator_normalized", "z", "coherence", "rho", "omega", "z_recomputed"}


def answers(name: str, changed: dict[str, object]) -> None:
    """Call ``name`` with some arguments changed; fails with what went wrong."""
    public = PUBLIC[name]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = public.function(**public.arguments() | changed)
    except Exception as error:
        if not refused(error, public.names):
            raise AssertionError(f"{name}: {type(error).__name__}: {str(error)[:500]}") from error
        return
    if name in GIVEN_BACK:
        return
    assert not_finite(answer) is None, f"{name}: NaN or infinity in {not_finite(answer)}"


@st.composite
def careless_calls(draw: st.DrawFn) -> tuple[str, dict[str, object]]:
    """A public call and one or two arguments that are wrong, or two that are swapped."""
    name = draw(st.sampled_from(list(PUBLIC)))
    public = PUBLIC[name]
    arguments = public.arguments()
    changed: dict[str, object] = {}
    if len(arguments) > 1 and draw(st.integers(0, 9)) == 0:
        one, other = draw(st.permutations(sorted(arguments)))[:2]
        note(f"{name}: {one} and {other} swapped")
        return name, {one: arguments[other], other: arguments[one]}
    for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
        place = draw(st.sampled_from(sorted(arguments)))
        costly = place in public.costly
        own = (
            {}
            if costly and not isinstance(arguments[place], torch.Tensor | nn.Module)
            else carelessly(arguments[place])
        )
        if own and draw(st.integers(0, 3)) > 0:
            how = draw(st.sampled_from(sorted(own)))
            changed[place] = own[how]
        else:
            pool = WRONG if costly else WRONG + HUGE
            number = draw(st.integers(0, len(pool) - 1))
            how, changed[place] = f"{pool[number]!r:.40}", pool[number]
        note(f"{name}: {place} = {how}")
    return name, changed


@pytest.fixture(scope="module", autouse=True)
def _unchecked():
    """Without the annotations enforced, as users run it."""
    matrices()
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


FUZZING = settings(
    derandomize=True, database=None, deadline=None, print_blob=False, suppress_health_check=list(HealthCheck)
)


@settings(FUZZING, max_examples=150)
@given(careless_calls())
def test_careless_calls(call):
    answers(*call)


@pytest.mark.long
@settings(FUZZING, max_examples=3000)
@given(careless_calls())
def test_many_careless_calls(call):
    answers(*call)


@pytest.mark.parametrize("name", PUBLIC)
def test_right_arguments_are_answered(name):
    public = PUBLIC[name]
    assert not_finite(public.function(**public.arguments())) is None


def test_every_public_name_is_called():
    """Results that are only given back, and what needs a folder or a training, are called elsewhere."""
    elsewhere = {"Audit", "EnsembleError", "Flow", "FlowError", "KrylovSpectrum", "Monitor", "Snapshot"}
    elsewhere |= {"claims", "ensemble", "run"}
    assert set(grsd.__all__) - elsewhere <= set(PUBLIC)
