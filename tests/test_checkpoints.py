"""Budgets along checkpoints in files: safetensors and torch, weights only, each kernel once, resumed where it was."""

import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from test_training import SHELLS, batch, net, squared_log_cosh, train

import grsd
from grsd.kernel.computation import KernelComputation
from grsd.shells import LogShells
from grsd.training import checkpoint_history, checkpoints

FIXED = LogShells(1.0, 0.2, span=(-8.0, 3.0))


@pytest.fixture(scope="module")
def states():
    inputs, targets = batch("mse")
    models = [net("tanh")]
    for steps in (3, 20, 40):
        models.append(train(models[-1], "mse", "adam", steps, inputs, targets))
    return models, inputs, targets


@pytest.fixture
def computed(monkeypatch):
    """A list that grows by one with each kernel."""
    found = []
    total = KernelComputation.total
    monkeypatch.setattr(KernelComputation, "total", lambda self: found.append(1) or total(self))
    return found


def saved(models, folder):
    files = [folder / f"at-{10 * k}.pt" for k in range(len(models))]
    for file, model in zip(files, models, strict=True):
        torch.save(model.state_dict(), file)
    return files


def same(one, other):
    for name in other.data_vars:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_files_give_the_history_of_their_states(states, computed, tmp_path):
    models, inputs, targets = states
    files = saved(models, tmp_path)
    expected = checkpoint_history(models, inputs, targets, FIXED)
    computed.clear()
    found = checkpoints(models[0], files, inputs, targets, FIXED, parameters={"seed": 3})
    assert len(computed) == len(models)
    same(found, expected)
    assert list(found.label_before.values) == ["at-0", "at-10", "at-20"]
    assert list(found.label_after.values) == ["at-10", "at-20", "at-30"]
    assert found.attrs == expected.attrs | {"seed": 3}
    made = checkpoints(
        lambda: net("tanh", 9), [str(file) for file in files], inputs, targets, FIXED, labels=[0, 1, 2.5, 4]
    )
    same(made, expected)
    assert list(made.label_after.values) == [1, 2.5, 4]
    dicts = [{"state_dict": model.state_dict(), "epoch": 3} for model in models]
    inside = checkpoints(models[0], dicts, inputs, targets, FIXED, key="state_dict")
    same(inside, expected)
    assert list(inside.label_before.values) == [0, 1, 2]


def test_without_a_span_the_first_and_the_last_state_give_it(states, computed):
    models, inputs, targets = states
    dicts = [model.state_dict() for model in models]
    found = checkpoints(models[0], dicts, inputs, targets, SHELLS)
    assert len(computed) == len(models)
    ends = [grsd.spectrum(grsd.tangent_kernel(model, inputs)) for model in (models[0], models[-1])]
    low = min(math.log(float(one.eigenvalues[0])) for one in ends)
    high = max(math.log(float(one.eigenvalues[-1])) for one in ends)
    assert list(found.shell_index.values) == list(LogShells(1.0, 0.2).indices(low, high))


def test_safetensors(states, tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    models, inputs, targets = states
    files = [tmp_path / f"{k}.safetensors" for k in range(len(models))]
    for file, model in zip(files, models, strict=True):
        save_file(model.state_dict(), file)
    found = checkpoints(models[0], files, inputs, targets, FIXED)
    same(found, checkpoint_history(models, inputs, targets, FIXED))
    files[1].write_bytes(files[1].read_bytes()[:50])
    with pytest.raises(
        ValueError, match=r"^checkpoints\(files=...\): .*1.safetensors: it cannot be read as weights alone \(.*$"
    ):
        checkpoints(models[0], files, inputs, targets, FIXED)


class Around(torch.nn.Module):
    """A network inside a trainer's module, with something beside it."""

    def __init__(self, network, **beside):
        super().__init__()
        self.network = network
        for name, part in beside.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.network(x)


def test_names_under_a_prefix_are_found(states):
    """The network inside a trainer's module, and a module around what was saved; two copies are not guessed at."""
    models, inputs, targets = states
    expected = checkpoint_history(models, inputs, targets, FIXED)
    inside = [Around(model, metric=torch.nn.Linear(2, 2)).state_dict() for model in models]
    same(checkpoints(models[0], inside, inputs, targets, FIXED), expected)
    compiled = [{f"module._orig_mod.{name}": value for name, value in model.state_dict().items()} for model in models]
    same(checkpoints(models[0], compiled, inputs, targets, FIXED), expected)
    same(checkpoints(Around(models[0]), [model.state_dict() for model in models], inputs, targets, FIXED), expected)
    twice = [Around(model, average=model).state_dict() for model in models]
    line = (
        r"^checkpoints\(files\[0\]=...\): the module's names stand there under 'network.' and 'average.'; pass the .*$"
    )
    with pytest.raises(ValueError, match=line):
        checkpoints(models[0], twice, inputs, targets, FIXED)
    more = [model.state_dict() | {"0.more": torch.ones(1)} for model in models]
    with pytest.raises(
        ValueError, match=r"^checkpoints\(files\[0\]=...\): the state does not fit its module \(.*0.more"
    ):
        checkpoints(models[0], more, inputs, targets, FIXED)


def test_a_tied_tensor_may_stand_under_one_name(states):
    """Files of safetensors hold such a tensor once."""
    _, inputs, targets = states
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        first, second = torch.nn.Linear(5, 5), torch.nn.Linear(5, 5)
        second.weight = first.weight
        models.append(torch.nn.Sequential(first, torch.nn.Tanh(), second, torch.nn.Linear(5, targets.shape[1])))
    few = inputs[:, :5]
    once = [{n: v for n, v in model.state_dict().items() if n != "2.weight"} for model in models]
    same(checkpoints(models[0], once, few, targets, FIXED), checkpoint_history(models, few, targets, FIXED))


@pytest.mark.parametrize("shells", [pytest.param(SHELLS, marks=pytest.mark.long), FIXED])
def test_what_was_finished_is_kept_and_found_again(states, computed, shells, tmp_path, monkeypatch):
    """Interrupted before its last kernel; other samples, settings or states are other steps."""
    models, inputs, targets = states
    dicts = [model.state_dict() for model in models]
    expected = checkpoints(models[0], dicts, inputs, targets, shells)
    counted = KernelComputation.total

    def interrupted(self):
        if len(computed) == 3:
            raise KeyboardInterrupt
        return counted(self)

    computed.clear()
    given = {"loss": "mse", "folder": tmp_path / "kept"}
    monkeypatch.setattr(KernelComputation, "total", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoints(models[0], dicts, inputs, targets, shells, **given)
    monkeypatch.setattr(KernelComputation, "total", counted)
    kept = len(list((tmp_path / "kept").glob("*.nc")))
    assert kept == 2
    computed.clear()
    found = checkpoints(models[0], dicts, inputs, targets, shells, **given)
    assert len(computed) == (2 if shells is FIXED else 3)
    same(found, expected)
    assert found.attrs == expected.attrs
    computed.clear()
    xr.testing.assert_identical(checkpoints(models[0], dicts, inputs, targets, shells, **given), found)
    assert not computed
    more = checkpoints(models[0], [*dicts, dicts[0]], inputs, targets, FIXED, **given)
    assert len(computed) == (2 if shells is FIXED else 5)
    assert more.sizes["step"] == 4
    for changed in (
        {"targets": targets + 1e-9},
        {"shells": LogShells(1.0, 0.3, span=(-8.0, 3.0))},
        {"loss": squared_log_cosh},
        {"dtype": torch.float32},
    ):
        computed.clear()
        arguments = {"targets": targets, "shells": FIXED} | given | changed
        checkpoints(models[0], dicts[:2], inputs, **arguments)
        assert len(computed) == 2, changed


def test_other_settings_are_kept_beside(states, computed, tmp_path, capsys):
    """Neither replaces the other's steps, and none is called a foreign file."""
    models, inputs, targets = states
    dicts = [model.state_dict() for model in models[:2]]
    frozen = net("tanh")
    frozen[0].bias.requires_grad_(False)
    for model in (models[0], frozen):
        checkpoints(model, dicts, inputs, targets, FIXED, folder=tmp_path, progress=False)
    assert len(computed) == 4
    for model in (models[0], frozen):
        checkpoints(model, dicts, inputs, targets, FIXED, folder=tmp_path, progress=False)
    assert len(computed) == 4
    assert capsys.readouterr().err == ""


def test_a_damaged_step_is_computed_again(states, computed, tmp_path, capsys):
    models, inputs, targets = states
    dicts = [model.state_dict() for model in models]
    found = checkpoints(models[0], dicts, inputs, targets, FIXED, folder=tmp_path)
    file = sorted(tmp_path.glob("*.nc"))[0]
    file.write_bytes(file.read_bytes()[:-1])
    computed.clear()
    same(checkpoints(models[0], dicts, inputs, targets, FIXED, folder=tmp_path), found)
    assert len(computed) == 2
    assert "its bytes are not those its name promises" in capsys.readouterr().err


class Evil:
    def __reduce__(self):
        return os.system, ("touch was-here",)


@pytest.mark.usefixtures("as_users_run_it")
def test_files_that_hold_no_weights_are_refused_in_one_line_before_any_kernel(states, computed, tmp_path, monkeypatch):
    models, inputs, targets = states
    monkeypatch.chdir(tmp_path)
    good, *rest = saved(models, tmp_path)
    bad = {
        "evil.pt": Evil(),
        "whole.pt": models[0],
        "nested.pt": {"epoch": 3, "loops": {"done": 2}, "model": models[0].state_dict()},
        "list.pt": [1, 2],
        "other.pt": net("bottleneck").state_dict(),
    }
    for name, held in bad.items():
        torch.save(held, tmp_path / name)
    Path("text.pt").write_text("no weights")
    Path("checkpoint-5").mkdir()
    Path("checkpoint-5/model.safetensors").write_bytes(b"")
    Path("pickled.pt").write_bytes(pickle.dumps(Evil()))
    unread = r"it cannot be read as weights alone \(.*\); save the model's state_dict\(\)"
    lines = {
        "evil.pt": unread,
        "pickled.pt": unread,
        "text.pt": unread,
        "whole.pt": unread,
        "nested.pt": r"expected a state dict in nested.pt, got a mapping with the keys .*; pass key='model'",
        "list.pt": r"expected a state dict in list.pt, got .*",
        "other.pt": r"the state does not fit its module \(.*\)",
        "absent.pt": r"absent.pt: there is no such file",
        "checkpoint-5": r"checkpoint-5 is a folder; name the file of weights inside it, such as 'model.safetensors'",
    }
    for name, line in lines.items():
        with pytest.raises((ValueError, OSError), match=rf"^checkpoints\(files=...\): (\S+: )?{line}$") as caught:
            checkpoints(models[0], [good, rest[0], name], inputs, targets, FIXED)
        assert name in str(caught.value)
    assert not Path("was-here").exists()
    assert not computed


def nowhere(outputs, targets):
    return (outputs - targets).square().sum(1)


def failing():
    raise ValueError("no weights\nand a second line")


nowhere.__module__ = "typed by hand"
MODEL = net("tanh")
STATES = [MODEL.state_dict(), net("tanh", 1).state_dict()]
REFUSED = {
    r"\(files\): expected at least 2 files or state dicts.*, got 1": {"files": STATES[:1]},
    r"\(files\[1\]=...\): expected the path of a file of safetensors or of torch, or a state dict, got 3": {
        "files": [STATES[0], 3]
    },
    r"\(files\[0\]=..., key='model'\): the mapping has no such key; its keys are '0.weight', .*, ...": {"key": "model"},
    r"\(labels=...\): expected 2 finite numbers or texts, one for each file, got \[1, 'two'\]": {"labels": [1, "two"]},
    r"\(labels=...\): expected 2 finite numbers or texts, one for each file, got \[0, nan\]": {"labels": [0, math.nan]},
    r"\(model=...\): the function that makes the module failed \(ValueError: no weights\)": {"model": failing},
    r"\(model=...\): the function that makes the module failed \(TypeError: .*\)": {"model": torch.nn.Linear},
    r": expected the path of a folder, got 3": {"folder": 3},
    r"\(model=...\): expected a torch.nn.Module or a function that makes one, got 3": {"model": 3},
    r"\(folder=..., loss=...\): steps are kept only for a loss that stands in a file": {"loss": nowhere, "folder": "a"},
    r"\(steps=...\): expected .* at least 6, got 2": {"steps": 2},
}  # fmt: skip


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("text", REFUSED)
def test_refusals(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inputs, targets = batch("mse")
    given = {"model": MODEL, "files": STATES, "inputs": inputs, "targets": targets, "shells": FIXED} | REFUSED[text]
    with pytest.raises((TypeError, ValueError, RuntimeError), match=f"^checkpoints{text}$"):
        checkpoints(**given)
