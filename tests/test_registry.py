"""Registries: found in the source, one registration reaches specs and commands, refused in one line."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import grsd
from grsd.datasets import dataset
from grsd.datasets.remote import SETS
from grsd.networks import architecture
from grsd.runs import choices
from grsd.runs.fingerprint import fingerprint
from grsd.runs.spec import sources_of
from grsd.support.registry import Registry


def test_all_are_found_without_torch():
    program = "import sys; from grsd.runs import choices; print(choices()); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in (*architecture.names(), *dataset.names()):
        assert repr(name) in done.stdout
    assert set(architecture.names(compared=True)) >= {"residual", "plain"}


OFFLINE = [name for name in dataset.names() if name not in SETS]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        pytest.param(name, "digits", marks=[pytest.mark.long] if name.endswith("-no-skips") else [])
        for name in architecture.names()
    ]
    + [("residual", data) for data in OFFLINE],
)
def test_each_registered_name_makes_a_run(name, data, tmp_path):
    task = dataset[data].facts["tasks"][0]
    spec = grsd.Spec(architecture=name, data=data, task=task, width=4, depth=2, samples=6, times=(0.1, 1.0, 2))
    run = grsd.run(spec, folder=tmp_path, progress=False)
    assert float(run.loss[-1]) < float(run.start_loss)


def twice(features, outputs, *, width, seed, **settings):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(features, width), nn.Tanh(), nn.Linear(width, outputs)).double()


def test_one_registration_of_ones_own_reaches_spec_and_run(tmp_path, monkeypatch):
    monkeypatch.setattr(architecture, "_entries", dict(architecture.entries))
    architecture("twice")(twice)
    assert "twice" in choices()["architecture"]
    spec = grsd.Spec(architecture="twice", width=4, samples=6, times=(0.1, 1.0, 2))
    assert sources_of(spec)[1] is sources_of({**spec.to_dict(), "until": 1.0})[1] is twice
    assert grsd.run(spec, folder=tmp_path, progress=False).sizes["time"] == 2
    assert fingerprint(twice) != fingerprint(*sources_of(spec))


def test_refusals():
    with pytest.raises(ValueError, match=r"^architecture\(.plain.\): it is the name of grsd\.networks\.percept"):
        architecture("plain")(twice)
    with pytest.raises(ValueError, match=r"^architecture\(colour=...\): known are compared, branches"):
        architecture("other", colour="red")
    with pytest.raises(
        ValueError,
        match=r"^dataset: expected one of .*cifar10, .*mnist, .*prose.*, got .cifar.",
    ):
        dataset["cifar"]


def no_words(features, outputs):
    return nn.Linear(features, outputs)


def no_data(samples, *, task, seed):
    return torch.zeros(samples, 3), torch.zeros(samples, 1)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("register", "line"),
    [
        (lambda: architecture(twice), "architecture(name): expected a name of letters, digits and any of _.+-, got <f"),
        (
            lambda: architecture("")(twice),
            "architecture(name): expected a name of letters, digits and any of _.+-, got",
        ),
        (lambda: architecture("a, b")(twice), "architecture(name): expected a name of letters, digits and any of"),
        (
            lambda: architecture("a", compared=1)(twice),
            "architecture('a', compared=...): expected True or False, got 1",
        ),
        (lambda: architecture("a")(3), "architecture('a'): expected a function at the top level of a file, got 3"),
        (lambda: architecture("a")(lambda *_, **__: 0), "architecture('a'): expected a function at the top level of a"),
        (
            lambda: architecture("a")(no_words),
            "architecture('a'): expected no_words to take (features, outputs, *, width, depth, activation, "
            "weight_scale, branch_scale, seed): got an unexpected keyword argument 'width'",
        ),
        (lambda: dataset("a")(no_data), "dataset('a', tasks=...): expected a tuple of texts, got ()"),
        (
            lambda: dataset("a", tasks="x", most=9)(no_data),
            "dataset('a', tasks=...): expected a tuple of texts, got 'x",
        ),
        (
            lambda: dataset("a", tasks=(3,), most=9)(no_data),
            "dataset('a', tasks=...): expected a tuple of texts, got (",
        ),
        (lambda: dataset("a", tasks=("x",))(no_data), "dataset('a', most=...): expected a whole number of at least 1,"),
        (
            lambda: dataset("a", tasks=("x",), most="9")(no_data),
            "dataset('a', most=...): expected a whole number of at",
        ),
        (
            lambda: dataset("a", tasks=("x",), most=9)(twice),
            "dataset('a'): expected twice to take (samples, *, task, se",
        ),
    ],
)
def test_what_no_spec_could_use_is_refused(register, line, monkeypatch):
    for registry in (architecture, dataset):
        monkeypatch.setattr(registry, "_entries", dict(registry.entries))
    with pytest.raises(TypeError, match=f"^{re.escape(line)}") as caught:
        register()
    assert "\n" not in str(caught.value)
    assert "a" not in {*architecture.names(), *dataset.names()}


@pytest.mark.usefixtures("as_users_run_it")
def test_data_of_another_type_are_refused(monkeypatch):
    monkeypatch.setattr(dataset, "_entries", dict(dataset.entries))
    dataset("none", tasks=("x",), most=9)(no_data)
    with pytest.raises(
        TypeError, match=r"^Spec\(data=...\): expected 'none' to return a grsd.datasets.Data, got \(tensor"
    ):
        grsd.Spec(data="none", task="x", samples=3).batch()


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("def broken(", "shapes: odd.py: cannot be read as Python: '(' was never closed"),
        (
            "@shape(name='x')\ndef f(): ...",
            "shapes: odd.py, line 1: expected @shape(name, fact=...) with literals or co",
        ),
        ("\n@shape(unknown)\ndef f(): ...", "shapes: odd.py, line 2: expected @shape(name, fact=...) with literals or"),
        ("@shape('x')\ndef f(): ...\n@shape('x')\ndef g(): ...", "shape('x'): in shapes.odd and in shapes.odd"),
    ],
)
def test_a_new_file_with_a_mistake_is_one_line(source, line, tmp_path, monkeypatch):
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "__init__.py").touch()
    (tmp_path / "shapes" / "odd.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    for _ in range(2):
        with pytest.raises(ValueError, match=f"^{re.escape(line)}") as caught:
            Registry("shapes", "shape", (), ()).names()
        assert "\n" not in str(caught.value)


def test_constants_of_a_file_may_be_facts():
    assert dataset["digits"].facts == {"tasks": ("one-hot", "parity"), "most": 1797}
    assert isinstance(architecture, Registry)
    assert architecture["residual"].facts == {"compared": True, "branches": True}


def test_the_example_for_contributors_runs(tmp_path, monkeypatch):
    """CONTRIBUTING.md's architecture: one file, which registers itself wherever it is imported from."""
    text = (Path(__file__).resolve().parents[1] / "CONTRIBUTING.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "gated_example.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(architecture, "_entries", dict(architecture.entries))
    importlib.import_module("gated_example")
    assert architecture.names(compared=True)[-1] == "gated"
    spec = grsd.Spec(architecture="gated", width=4, samples=6, times=(0.1, 1.0, 2))
    assert grsd.run(spec, folder=tmp_path, progress=False).sizes["time"] == 2
