"""Specs: plain values, one key, refused in one line."""

import json
import re
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import torch

from grsd import Spec, ensemble, run
from grsd.runs import clean
from grsd.runs.plain import key, plain, text

SMALL = Spec(width=8, depth=2, samples=8, task="parity", times=(0.1, 5, 3), shell_widths=(1.0, 2.0))
OTHER = {
    "architecture": "plain", "width": 9, "depth": 3, "activation": "erf", "weight_scale": 1.5, "branch_scale": 0.3,
    "task": "one-hot", "samples": 9, "data_seed": 1, "times": (0.1, 5.0, 4), "tolerance": 1e-3,
    "shell_widths": (1.0,), "smoothing": 0.1, "seed": 1, "device": "cuda", "dtype": "float32",
}  # fmt: skip


@pytest.mark.usefixtures("as_users_run_it")
def test_key_is_the_same_everywhere():
    """Pinned: it must not depend on process, machine or version. It changes when a field is added, and only then."""
    assert Spec().key == "d0948831adcaaecf344a0b1a48472aa0715a35f38ea76c3faab1cbf166cd39fe"
    assert Spec(times=[0.1, 100, 10], weight_scale=1, shell_widths=[0.5]) == Spec()
    assert Spec(times=[0.1, 100, 10], weight_scale=1, shell_widths=[0.5]).key == Spec().key
    assert Spec(weight_scale=np.nextafter(1.0, 2.0).item()).key != Spec().key


def test_every_field_is_in_the_key():
    assert {field.name for field in fields(Spec)} - OTHER.keys() == {"data"}
    keys = {replace(SMALL, **{name: value}).key for name, value in OTHER.items()}
    keys.add(replace(SMALL, data="patches", task="pixel").key)
    assert len(keys | {SMALL.key}) == len(OTHER) + 2


def test_spec_is_plain_data():
    spec = replace(SMALL, weight_scale=0.1 + 0.2, smoothing=1 / 3)
    assert Spec.from_json(spec.to_json()) == spec
    assert Spec.from_dict(json.loads(json.dumps(spec.to_dict()))).key == spec.key
    assert [member.seed for member in spec.with_seeds(range(3))] == [0, 1, 2]
    assert [shells.smoothing for shells in SMALL.shells] == [0.2, 0.2]
    assert str(Spec(depth=3, seed=2)) == "Spec(depth=3, seed=2)"
    assert Spec(device="auto").device in {"cpu", "cuda"}
    with pytest.raises(ValueError, match=r"^Spec: no field 'dpeth'; there are architecture, width, depth"):
        Spec.from_dict({"dpeth": 3})
    with pytest.raises(ValueError, match="expected a JSON object"):
        Spec.from_json("[1]")


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"architecture": "conv"},
            r"Spec\(architecture=...\): expected one of .*residual, plain.*, got 'conv'",
        ),
        ({"width": 0}, r"Spec\(width=...\): expected a whole number of at least 1, got 0"),
        ({"width": 8.0}, r"Spec\(width=...\): expected a whole number"),
        ({"depth": True}, r"Spec\(depth=...\): expected a whole number"),
        ({"seed": -1}, r"Spec\(seed=...\): expected a whole number of at least 0"),
        ({"seed": 2**64}, r"Spec\(seed=...\): expected at most 9223372036854775807 \(random generators take 63 bits\)"),
        ({"samples": 1798}, r"Spec\(samples=...\): expected at most 1797 \(digits has 1797 samples\), got 1798"),
        ({"depth": 10**5}, r"Spec\(depth=...\): expected at most 10000 \(each layer is a module of its own\)"),
        ({"width": 10**5}, r"Spec\(width=...\): expected width\^2 x depth of at most 1000000000 \(weights, 8 GB"),
        ({"times": (0.1, 1.0, 10**9)}, r"Spec\(times=...\): expected at most 10000 \(each is a kernel"),
        ({"shell_widths": (1e-9,)}, r"Spec\(shell_widths=...\): expected at most 1000 shells \(pairs have"),
        ({"smoothing": 1e300}, r"Spec\(shell_widths=...\): expected at most 1000 shells"),
        ({"weight_scale": None}, r"Spec\(weight_scale=...\): expected a positive finite number"),
        ({"tolerance": float("nan")}, r"Spec\(tolerance=...\): expected a positive finite number"),
        ({"smoothing": "wide"}, r"Spec\(smoothing=...\): expected a positive finite number"),
        (
            {"architecture": "plain", "branch_scale": 0.5},
            r"Spec\(branch_scale=...\): only these have branches",
        ),
        ({"times": (1.0, 2.0)}, r"Spec\(times=...\): expected \(first, last, count\)"),
        ({"times": (2.0, 1.0, 3)}, r"Spec\(times=...\): expected first < last"),
        ({"times": (1.0, 2.0, 1)}, r"Spec\(times=...\): expected a whole number of at least 2"),
        ({"shell_widths": ()}, r"Spec\(shell_widths=...\): expected one width or more"),
        ({"shell_widths": 0.5}, r"Spec\(shell_widths=...\): expected one width or more"),
        ({"shell_widths": (1, 1.0)}, r"Spec\(shell_widths=...\): a width stands twice"),
        ({"device": "mps"}, r"Spec\(device=...\): expected one of auto, cpu, cuda"),
        ({"dtype": torch.float64}, r"Spec\(dtype=...\): expected one of float64, float32"),
        ({"task": ["parity"]}, r"Spec\(task=...\): expected a task of digits: one-hot, parity"),
        ({"data": "patches"}, r"Spec\(task=...\): expected a task of patches: photograph, pixel, got 'one-hot'$"),
    ],
)
def test_spec_refused(values, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        Spec(**values)
    assert "\n" not in str(caught.value)


@dataclass(frozen=True)
class Planted:
    """Any dataclass of plain values is a spec."""

    exponent: float
    seed: int = 0


def test_mappings_and_dataclasses_are_specs():
    """By content: the order of names, tuples or lists and numpy's own numbers make no difference, types do."""
    assert plain(Planted(0.5)) == {"exponent": 0.5, "seed": 0}
    same = [Planted(0.5), {"seed": 0, "exponent": 0.5}, {"seed": np.int64(0), "exponent": np.float64(0.5)}]
    assert len({key(spec) for spec in same}) == len({text(spec) for spec in same}) == 1
    assert key({"a": (1, 2)}) == key({"a": [1, 2]})
    assert len({key({"a": value}) for value in (1, 1.0, "1", None, True, [1])}) == 6
    for bad, message in (
        ([1], r"expected a grsd.Spec or a mapping of plain values, got list"),
        ({1: 2}, "expected names that are text, got 1"),
        ({"a": torch.ones(2)}, r"a=tensor.* is no plain value"),
        ({"a": {"b": 1}}, r"a=\{'b': 1\} is no plain value"),
    ):
        with pytest.raises(TypeError, match=rf"^run\(spec\): {message}"):
            plain(bad)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: Spec.from_json("{"), "Spec.from_json(text): expected a JSON object of fields, got '{'"),
        (lambda: Spec.from_json(None), "Spec.from_json(text): expected a JSON object of fields, got None"),
        (lambda: Spec.from_dict(3), "Spec.from_dict(values): expected a mapping of fields, got 3"),
        (lambda: Spec().with_seeds(3), "Spec.with_seeds(seeds): expected a sequence of seeds, got 3"),
        (lambda: Spec().with_seeds("12"), "Spec.with_seeds(seeds): expected a sequence of seeds, got '12'"),
        (lambda: ensemble(3), "ensemble(specs): expected a sequence of specs, got 3"),
        (lambda: ensemble(Spec()), "ensemble(specs): expected a sequence of specs, got Spec("),
        (lambda: ensemble({"seed": 0}), "ensemble(specs): expected a sequence of specs, got {'seed': 0}"),
        (lambda: ensemble([], progress="yes"), "ensemble(progress=...): expected True or False, got 'yes'"),
        (lambda: run(Spec(), progress="yes"), "run(progress=...): expected True or False, got 'yes'"),
        (lambda: run(Spec(), folder=3), "run(folder=...): expected a folder's path, got 3"),
        (lambda: clean(3), "clean(folder=...): expected a folder's path, got 3"),
        (lambda: clean(unfinished="no"), "clean(unfinished=...): expected True or False, got 'no'"),
    ],
)
def test_experiments_of_another_type_are_refused_in_one_line(call, line):
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(line)}") as caught:
        call()
    assert "\n" not in str(caught.value)
