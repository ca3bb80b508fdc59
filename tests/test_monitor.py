"""Records of a training: what they say, that they disturb nothing, and that no kill loses one."""

import contextlib
import errno
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import types
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import untouched
import xarray as xr
from torch import nn

import grsd
from grsd import cli
from grsd.bench import monitor as bench
from grsd.training import Monitor, checkpoint_history, huggingface, kept, lightning

ROOT = Path(__file__).resolve().parents[1]
SHELLS = grsd.LogShells(1.0, 0.2, (-8.0, 4.0))


def task(seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(40, 5, generator=generator)
    return inputs, (inputs[:, 0] * inputs[:, 1] > 0).long()


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3))


class Training:
    """A loop that can be left and entered again; ``states`` are kept at recorded steps."""

    def __init__(self, monitor_of=None):
        self.inputs, self.labels = task()
        self.model, self.step, self.states = network(), 0, []
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-2)
        self.monitor = None if monitor_of is None else monitor_of(self.model)
        torch.manual_seed(4)

    def to(self, end, always=False):
        while self.step < end:
            if self.monitor is not None:
                before = len(self.monitor.steps)
                self.monitor.record(self.step, now=always)
                if len(self.monitor.steps) > before:
                    values = {name: value.clone() for name, value in self.model.state_dict().items()}
                    self.states.append((self.model, values))
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(self.inputs), self.labels).backward()
            self.optimizer.step()
            self.step += 1
        return self


def monitored(folder=None, **options):
    inputs, labels = task()
    return lambda model: Monitor(model, (inputs[:12], labels[:12]), "cross-entropy", folder=folder, **options)


def test_records_are_the_budgets_between_log_spaced_steps():
    training = Training(monitored(dtype=torch.float64)).to(40)
    monitor = training.monitor
    assert monitor.steps == [0, 1, 2, 3, 5, 7, 10, 15, 22, 32]
    assert repr(monitor) == "Monitor(Sequential, 12 samples, 10 records, the last at step 32)"
    history = monitor.history()
    assert history.step.values.tolist() == monitor.steps[1:]
    assert history.step_before.values.tolist() == monitor.steps[:-1]
    training.model.eval()
    low = float(history.boundary[0]) - history.attrs["shell_width"]
    shells = grsd.LogShells(1.0, 0.2, (low, low + history.sizes["shell"]))
    inputs, labels = task()
    expected = checkpoint_history(training.states, inputs[:12], labels[:12], shells, loss="cross-entropy")
    assert set(history.data_vars) == set(expected.data_vars)
    for name in expected.data_vars:
        xr.testing.assert_allclose(history[name].drop_vars(["step", "step_before"]), expected[name].drop_vars("step"))
    gained = history.relaxation + history.transport.sum("shell_from")
    residue = np.abs(history.energy_after - history.energy_before - gained).max()
    assert float(residue) < 1e-12 * float(history.energy_before.sum("shell").max())


def test_the_training_is_the_same_with_and_without(tmp_path):
    with_one = Training(monitored(tmp_path / "records")).to(12, always=True)
    without = Training().to(12)
    assert len(with_one.monitor.steps) == 12
    for one, other in zip(with_one.model.state_dict().values(), without.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def drawn_so_far():
    kind, keys, place, *more = np.random.get_state()
    return random.getstate(), kind, keys.tolist(), place, more, torch.get_rng_state().tolist()


@pytest.mark.parametrize("broken", [False, True])
def test_nothing_is_disturbed(broken):
    training = Training()
    model, seen = training.model, []
    model[0].bias.requires_grad_(False)
    training.monitor = monitored(strict=True)(model)
    training.to(3)
    model[1].eval()

    def draws(*_):
        seen.append((random.random(), np.random.rand(), torch.rand(1)))  # noqa: S311

    model.register_forward_hook(draws)
    model[4].weight.grad = torch.ones_like(model[4].weight)
    if broken:
        with torch.no_grad():
            model[4].weight.mul_(np.nan)
    numbers = drawn_so_far()
    before = untouched.state(model, *task())
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        if broken:
            with pytest.raises(ValueError, match=r"^Monitor\.record\(model=\.\.\.\): the model's output contains NaN"):
                training.monitor.record(3)
        else:
            assert training.monitor.record(3) is not None
        assert torch.is_autocast_enabled("cpu")
    assert seen
    assert untouched.state(model, *task()) == before
    assert drawn_so_far() == numbers
    assert bool((model[4].weight.grad == 1).all())
    assert [part.training for part in model] == [True, False, True, True, True]


def test_due_steps_follow_the_calls():
    monitor = Training(monitored(per_decade=2)).monitor
    recorded = []
    for step in range(0, 200, 7):
        assert monitor.due(step) == (not recorded or step >= min(s for s in GRID if s > recorded[-1]))
        if monitor.due(step):
            recorded.append(step)
        monitor.record(step)
    assert monitor.steps == recorded == [0, 7, 14, 35, 105]
    assert monitor.record(105, now=True) is None
    assert monitor.record(106) is None
    assert int(monitor.record(106, now=True).step_before) == 105
    with pytest.warns(UserWarning, match="step 106 is recorded already"):
        assert monitor.record(50, now=True) is None
    assert monitor.steps[-1] == 106


GRID = [0, 1, 3, 10, 32, 100, 316]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_new_process_goes_on_where_the_records_end(tmp_path, dtype):
    whole = Training(monitored(dtype=dtype)).to(40).monitor.history()
    training = Training(monitored(tmp_path, dtype=dtype)).to(12)
    training.monitor = monitored(tmp_path, dtype=dtype)(training.model)
    assert training.monitor.steps == [0, 1, 2, 3, 5, 7, 10]
    xr.testing.assert_identical(training.monitor.history(), whole.isel(step=slice(6)))
    assert training.monitor.record(9, now=True) is None
    xr.testing.assert_identical(training.to(40).monitor.history(), whole)
    assert len(list(tmp_path.glob("state-*.npz"))) == 1
    assert len(list(tmp_path.glob("record-*.npz"))) == 9


@pytest.mark.parametrize("written", range(5))
def test_every_moment_of_a_kill(tmp_path, monkeypatch, written):
    """The writer dies before its n-th file: of the states and records of steps 0, 1, 2 the last whole pair stays."""
    left = [written]
    write = kept.write_atomically

    def dying(path, payload):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return write(path, payload)

    monkeypatch.setattr(kept, "write_atomically", dying)
    with contextlib.suppress(KeyboardInterrupt):
        Training(monitored(tmp_path)).to(3)
    monkeypatch.setattr(kept, "write_atomically", write)
    training = Training(monitored(tmp_path))
    assert training.monitor.steps == [[], [0], [0], [0, 1], [0, 1]][written]
    history = training.to(4).monitor.history()
    assert history.step.values.tolist() == [1, 2, 3]
    assert history.step_before.values.tolist() == [0, 1, 2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork or kill -9 on this system")
def test_no_kill_loses_a_record(tmp_path):
    """Killed at random moments and resumed; what ``record`` had returned is there, and the budgets are one chain."""
    generator, said, folder = random.Random(0), 0, tmp_path / "records"  # noqa: S311
    for _ in range(6):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                training = Training(monitored(folder))
                training.step = (training.monitor.steps or [-1])[-1] + 1
                while True:
                    training.to(training.step + 1, always=True)
                    os.write(writing, b"%d\n" % (training.step - 1))
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as lines:
            for _ in range(generator.randrange(2, 6)):
                said = int(lines.readline())
            time.sleep(generator.uniform(0, 0.1))
            os.kill(child, signal.SIGKILL)
            said = max([said, *map(int, re.findall(r"(\d+)\n", lines.read()))])
        os.waitpid(child, 0)
        monitor = monitored(folder)(network())
        assert monitor.steps == list(range(len(monitor.steps)))
        assert monitor.steps[-1] >= said
        assert monitor.history().step_before.values.tolist() == monitor.steps[:-1]
    assert said >= 6
    assert [path.name for path in folder.iterdir() if path.suffix == ".part"] == []


def test_a_full_disk_and_damage(tmp_path, monkeypatch, capsys):
    training = Training(monitored(tmp_path)).to(3)
    write = kept.write_atomically

    def full(path, payload):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(kept, "write_atomically", full)
    training.to(4)
    line = f"grsd: {tmp_path}: step 3 is not on the disk yet (No space left on device); it is written with the next"
    assert capsys.readouterr().err == f"{line} record\n"
    monkeypatch.setattr(kept, "write_atomically", write)
    whole = training.to(8).monitor.history()
    xr.testing.assert_identical(monitored(tmp_path)(network()).history(), whole)

    damaged = tmp_path / "record-000000000002.npz"
    payload = bytearray(damaged.read_bytes())
    payload[len(payload) // 2] ^= 1
    damaged.write_bytes(payload)
    monitor = monitored(tmp_path)(network())
    assert monitor.history().step.values.tolist() == [1, 3, 5, 7]
    assert re.fullmatch(
        rf"grsd: {re.escape(str(damaged))}: it cannot be read \(.*\); it is not used\n", capsys.readouterr().err
    )
    (state,) = tmp_path.glob("state-*.npz")
    state.write_bytes(b"")
    monitor = monitored(tmp_path)(training.model)
    assert "the state of step 7 is not there; the next record begins a new sequence\n" in capsys.readouterr().err
    assert monitor.record(20) is None
    assert monitor.steps[-1] == 20
    assert int(monitor.record(25).step_before) == 20


def test_other_records_are_refused(tmp_path):
    Training(monitored(tmp_path)).to(3)
    inputs, labels = task()
    line = rf"^Monitor\(folder=\.\.\.\): {re.escape(str(tmp_path))} holds records of another probe, loss, network or"
    others = [
        (network(), inputs[1:13], "cross-entropy", {}),
        (network(), inputs[:12], lambda f, y: f.square().sum(1), {}),
        (network(), inputs[:12], "cross-entropy", {"dtype": torch.float64}),
        (network(), inputs[:12], "cross-entropy", {"shells": SHELLS}),
        (nn.Linear(5, 3), inputs[:12], "cross-entropy", {}),
    ]
    for model, probe, loss, options in others:
        with pytest.raises(ValueError, match=line):
            Monitor(model, (probe, labels[:12]), loss, folder=tmp_path, **options)
    assert monitored(tmp_path)(network()).steps == [0, 1, 2]


class Smoothed(nn.CrossEntropyLoss):
    """A loss per sample, whose settings its printed form does not hold."""

    def __init__(self, **options):
        super().__init__(reduction="none", **options)


def power(f, y, p):
    return (f - 0.1).abs().pow(p).sum(1)


@pytest.mark.parametrize(
    ("one", "same", "others"),
    [
        (Smoothed(), Smoothed(), [Smoothed(label_smoothing=0.5), Smoothed(weight=torch.tensor([1.0, 2.0, 3.0]))]),
        (partial(power, p=2), lambda f, y: power(f, y, 2), [partial(power, p=3), lambda f, y: power(f, y, 4)]),
    ],
)
def test_a_folder_tells_losses_by_what_they_give(tmp_path, one, same, others):
    inputs, labels = task()
    probe = inputs[:12], labels[:12]
    for step in (0, 1):
        Monitor(network(), probe, one, folder=tmp_path).record(step)
    for loss in others:
        with pytest.raises(ValueError, match=r"^Monitor\(folder=\.\.\.\): .* holds records of another probe, loss"):
            Monitor(network(), probe, loss, folder=tmp_path)
    assert Monitor(network(), probe, same, folder=tmp_path).steps == [0, 1]


def test_a_folder_knows_the_network_but_not_its_wrappers(tmp_path):
    Training(monitored(tmp_path)).to(3)
    frozen, other = network(), network()
    frozen[4].weight.requires_grad_(False)
    other[2] = nn.ReLU()
    for model in (frozen, other):
        with pytest.raises(ValueError, match=r"^Monitor\(folder=\.\.\.\): .* holds records of another .*, network"):
            monitored(tmp_path)(model)
    wrapped = (nn.DataParallel(network()), torch.compile(network()), nn.DataParallel(torch.compile(network())))
    for number, model in enumerate(wrapped):
        own = shutil.copytree(tmp_path, tmp_path.with_name(f"copy-{number}"))
        assert int(monitored(own)(model).record(5).step_before) == 2


@pytest.mark.parametrize("strict", [False, True])
def test_another_training_in_the_folder_is_noticed(tmp_path, capsys, strict):
    """The same training waits; another one, told by its weights at a recorded step, gets no row from the first."""
    first = Training(monitored(tmp_path, strict=strict)).to(12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Training(monitored(tmp_path, strict=strict)).to(12).monitor.steps == first.monitor.steps
        assert capsys.readouterr().err == ""
        between = monitored(tmp_path, strict=strict)(first.model)
        for step in (8, 9):
            between.record(step)
        line = "Monitor.record(step=8): steps up to 10 are of an earlier process; waiting until a step past it"
        assert capsys.readouterr().err == f"grsd: {line}\n"
    other = Training(monitored(tmp_path, strict=strict))
    other.optimizer = torch.optim.Adam(other.model.parameters(), 3e-2)
    line = r"^Monitor\.record\(step=1\): expected the weights that .* holds of this step, got others: it is another .*"
    if strict:
        with pytest.raises(ValueError, match=line + "training$"):
            other.to(24)
        return
    with pytest.warns(UserWarning, match=line) as said:
        other.to(24)
    assert len(said) == 1
    history = other.monitor.history()
    assert (int(history.step[-1]), int(history.step_before[-1])) == (22, 15)
    assert 15 not in history.step


def test_freezing_is_no_motion_of_the_kernel():
    training = Training(monitored()).to(3)
    training.model[4].weight.requires_grad_(False)
    line = (
        r"^step 3 is not recorded: Monitor\.record\(model=\.\.\.\): expected the parameters of model, all trained or "
        r"frozen as there, got '4.weight' with requires_grad=False instead of True; a budget"
    )
    with pytest.warns(UserWarning, match=line):
        assert training.monitor.record(3) is None
    training.model[4].weight.requires_grad_(True)
    assert int(training.monitor.record(3, now=True).step_before) == 2, "asked for again after the repair"


def test_a_step_that_goes_back_is_said_once():
    monitor = Training(monitored()).monitor
    monitor.record(10**9)
    with pytest.warns(UserWarning, match=r"^Monitor\.record\(step=1\): step 1000000000 is recorded already;"):
        monitor.record(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert monitor.record(2) is None


def test_a_hook_on_a_gradient_stays_and_is_no_part_of_a_record():
    def clipped(gradient):
        return gradient.clamp(-1e-3, 1e-3)

    plain, training = Training(monitored()), Training()
    hook = training.model[4].weight.register_hook(clipped)
    training.monitor = monitored()(training.model)
    for monitor in (plain.monitor, training.monitor):
        monitor.record(0)
        monitor.record(1)
    xr.testing.assert_equal(training.monitor.history(), plain.monitor.history())
    training.monitor = None
    training.to(1)
    assert float(training.model[4].weight.grad.abs().max()) == pytest.approx(1e-3)
    hook.remove()
    assert not training.model[4].weight._backward_hooks


def test_a_record_that_fails_is_left_out_and_the_training_goes_on():
    training = Training(monitored()).to(3)
    good = training.model[4].weight.detach().clone()
    with torch.no_grad():
        training.model[4].weight.fill_(np.nan)
    with pytest.warns(UserWarning, match=r"^step 3 is not recorded: Monitor\.record\(model=\.\.\.\): .* NaN"):
        assert training.monitor.record(3) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert training.monitor.record(4) is None, "not due: a broken model costs no more than a good one"
        with torch.no_grad():
            training.model[4].weight.copy_(good)
        assert int(training.monitor.record(5).step_before) == 2
    broken = Training(monitored())
    with torch.no_grad():
        broken.model[4].weight.fill_(np.nan)
    with pytest.raises(ValueError, match="NaN"):
        broken.monitor.record(0)
    assert broken.monitor.due(0)
    assert broken.monitor.steps == []


@pytest.mark.long
def test_by_products_alone(tmp_path, capsys):
    training = Training(monitored(tmp_path, method="krylov", dtype=torch.float64)).to(4)
    dense = Training(monitored(dtype=torch.float64, shells=SHELLS)).to(4).monitor.history()
    krylov = Training(monitored(method="krylov", dtype=torch.float64, shells=SHELLS)).to(4).monitor.history()
    for name in ("energy_after", "flux"):
        assert float(np.abs(krylov[name] - dense[name]).max()) < 1e-7 * float(dense.energy_before.max())
    again = monitored(tmp_path, method="krylov", dtype=torch.float64)(training.model)
    assert again.history().step.values.tolist() == [1, 2, 3]
    assert "begins a new sequence" in capsys.readouterr().err
    assert again.record(5) is None
    assert int(again.record(7).step_before) == 5


def test_refusals(as_users_run_it, tmp_path):
    inputs, labels = task()
    model = network()

    def refused(kind, line, model=model, probe=(inputs, labels), loss="cross-entropy", **options):
        with pytest.raises(kind, match=f"^{line}") as found:
            Monitor(model, probe, loss, **options)
        assert "\n" not in str(found.value)

    refused(TypeError, r"Monitor\(model=\.\.\.\): expected a torch.nn.Module", model="net")
    for probe in (inputs, (inputs,), (inputs, labels, labels), ("a", "b"), None):
        refused(TypeError, r"Monitor\(probe=\.\.\.\): expected \(inputs, targets\), two tensors, got", probe=probe)
    meta = torch.empty(3, device="meta")
    refused(TypeError, r"Monitor\(probe=\.\.\.\): expected dense tensors with values", probe=(inputs, meta))
    refused(ValueError, r"Monitor\(\.\.\., inputs\): found NaN", probe=(inputs * np.nan, labels))
    refused(
        TypeError, r"Monitor\(\.\.\., targets\): expected class labels, .* of shape \(40,\)", probe=(inputs, labels[:9])
    )
    one_hot = nn.functional.one_hot(labels, 3)
    refused(TypeError, r"Monitor\(\.\.\., targets\): expected class labels, whole numbers", probe=(inputs, one_hot))
    short = inputs, torch.zeros(9, 3)
    refused(
        ValueError, r"Monitor\(\.\.\., targets\): expected floating point of 40 samples for", probe=short, loss="mse"
    )
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    refused(ValueError, r"Monitor\(model, \.\.\.\): 1.weight has no shape yet; call the model once first", model=lazy)
    refused(ValueError, r"Monitor\(loss=\.\.\.\): expected one of", loss="hinge")
    refused(ValueError, r"Monitor\(per_decade=\.\.\.\): expected a", per_decade=0)
    refused(TypeError, r"Monitor\(dtype=\.\.\.\): expected torch.float32 or", dtype=torch.float16)
    refused(ValueError, r"Monitor\(method=\.\.\.\): expected one of", method="exact")
    refused(TypeError, r"Monitor\(shells=\.\.\.\): expected LogShells", shells=3)
    refused(TypeError, r"Monitor\(strict=\.\.\.\): expected True or False", strict=1)
    refused(TypeError, r"Monitor\(parameters=\.\.\.\): expected a mapping", parameters=[1])
    refused(TypeError, r"Monitor\(folder=\.\.\.\): expected the path of a folder, got 3", folder=3)
    line = r"Monitor\(model, \.\.\.\): the model is on the device 'meta'; load it on 'cpu' or 'cuda' first$"
    refused(ValueError, line, model=nn.Linear(5, 3, device="meta"))
    file = tmp_path / "file"
    file.touch()
    refused(ValueError, r"Monitor\(folder=\.\.\.\): cannot write to .* is not a folder", folder=file)
    monitor = Monitor(model, (inputs, labels), "cross-entropy")
    for step in (-1, 1.5, None, True):
        with pytest.raises(ValueError, match=r"^Monitor\.record\(step=\.\.\.\): expected a whole number of at least 0"):
            monitor.record(step)
    with pytest.raises(ValueError, match=r"^Monitor\.history\(\): expected at least two records, got 0; call record"):
        monitor.history()
    with pytest.raises(TypeError, match=r"^Monitor\.record\(now=\.\.\.\): expected True or False"):
        monitor.record(0, now=1)
    half = Monitor(network().to(torch.bfloat16), (inputs, labels), "cross-entropy")
    half.record(0)
    assert half.record(1).energy_after.dtype == np.float32


def stub(monkeypatch, name, **names):
    """A framework that is not installed here: only what the adapter imports from it."""
    parent, _, child = name.partition(".")
    module = types.SimpleNamespace(**names)
    monkeypatch.setitem(sys.modules, name, module)
    if child:
        monkeypatch.setitem(sys.modules, parent, types.SimpleNamespace(**{child: module}))


def test_the_lightning_callback_records(monkeypatch):
    stub(monkeypatch, "lightning.pytorch", Callback=type("Callback", (), {}))
    training = Training(monitored())
    found = lightning.callback(training.monitor)
    trainer = types.SimpleNamespace(is_global_zero=True, global_step=0)
    found.on_train_start(trainer, training.model)
    for step in range(1, 10):
        trainer.global_step = step // 2
        found.on_train_batch_end(trainer, training.model, None, None, step)
    trainer.global_step = 9
    found.on_train_end(trainer, training.model)
    assert training.monitor.steps == [0, 1, 2, 3, 9]
    trainer.is_global_zero, trainer.global_step = False, 20
    found.on_train_end(trainer, training.model)
    assert training.monitor.steps[-1] == 9


def test_the_hugging_face_callback_records(monkeypatch):
    stub(monkeypatch, "transformers", TrainerCallback=type("TrainerCallback", (), {}))
    training = Training(monitored())
    found = huggingface.callback(training.monitor)
    state = types.SimpleNamespace(is_world_process_zero=True, global_step=0)
    found.on_train_begin(None, state, None, model=training.model)
    for state.global_step in range(1, 9):
        assert found.on_step_end(None, state, None, model=training.model) is None
    found.on_train_end(None, state, None)
    assert training.monitor.steps == [0, 1, 2, 3, 5, 7, 8]
    state.is_world_process_zero, state.global_step = False, 20
    found.on_train_end(None, state, None)
    assert training.monitor.steps[-1] == 8


@pytest.mark.parametrize("adapter", [lightning, huggingface])
def test_adapters_take_a_monitor(as_users_run_it, adapter):
    with pytest.raises(TypeError, match=r"^callback\(monitor=\.\.\.\): expected a grsd.Monitor, got Linear"):
        adapter.callback(nn.Linear(2, 2))


def test_frameworks_are_imported_only_when_asked_for():
    code = "import sys, grsd, grsd.training.lightning, grsd.training.huggingface; grsd.Monitor\n"
    code += "assert not {'lightning', 'transformers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_lightning_trainer(tmp_path):
    framework = pytest.importorskip("lightning.pytorch")

    class Module(framework.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = network()

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 1e-2)

    module = Module()
    monitor = monitored(tmp_path / "records")(module.network)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*task()), batch_size=10)
    trainer = framework.Trainer(
        max_epochs=5, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, callbacks=[lightning.callback(monitor)],
    )  # fmt: skip
    trainer.fit(module, loader)
    assert monitor.steps == [0, 1, 2, 3, 5, 7, 10, 15, 20]
    assert np.isfinite(monitor.history().loss_after).all()


@pytest.mark.long
def test_a_lightning_trainer_that_was_stopped_and_resumed(tmp_path):
    """Records as of a run that was not stopped, each once; its checkpoints are read from their files."""
    framework = pytest.importorskip("lightning.pytorch")

    class Module(framework.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = network().eval()

        def training_step(self, batch, index):
            if self.global_step == self.stop:
                raise KeyError("stopped")
            return nn.functional.cross_entropy(self.network.eval()(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 1e-2)

    def fitted(folder, stop=None, resume=None):
        module = Module()
        module.stop = stop
        monitor = monitored(folder / "records")(module.network)
        saved = framework.callbacks.ModelCheckpoint(
            folder, "{step}", save_top_k=-1, every_n_train_steps=6, save_last=True
        )
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*task()), batch_size=10)
        trainer = framework.Trainer(
            max_epochs=6, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=folder, callbacks=[lightning.callback(monitor), saved],
        )  # fmt: skip
        trainer.fit(module, loader, ckpt_path=resume, weights_only=resume is not None or None)
        return monitor

    whole = fitted(tmp_path / "whole")
    with pytest.raises(KeyError):
        fitted(tmp_path / "stopped", stop=17)
    again = fitted(tmp_path / "stopped", resume=tmp_path / "stopped" / "last.ckpt")
    assert again.steps == whole.steps == [0, 1, 2, 3, 5, 7, 10, 15, 22, 24]
    for name, value in whole.history().data_vars.items():
        np.testing.assert_allclose(again.history()[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    files = [tmp_path / "whole" / f"step={step}.ckpt" for step in (6, 12, 24)] + [tmp_path / "stopped" / "last.ckpt"]
    inputs, labels = task()
    found = grsd.checkpoints(
        network().eval(), files, inputs, labels, SHELLS, key="state_dict", loss="cross-entropy", progress=False
    )
    assert float(found.loss_after[-1]) == pytest.approx(float(found.loss_after[-2]), rel=1e-5)
    with pytest.raises(ValueError, match=r"got a mapping with the keys .*; pass key='state_dict'$"):
        grsd.checkpoints(network().eval(), files, inputs, labels, SHELLS, loss="cross-entropy", progress=False)


def test_a_hugging_face_trainer(tmp_path):
    framework = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    torch.manual_seed(0)
    config = framework.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20, num_labels=2
    )
    model = framework.BertForSequenceClassification(config)
    tokens = torch.randint(1, 30, (24, 6))
    masks = torch.ones_like(tokens)
    masks[:, 5] = 0
    labels = (tokens[:, 0] > 15).long()
    rows = [
        {"input_ids": x, "attention_mask": mask, "labels": y} for x, mask, y in zip(tokens, masks, labels, strict=True)
    ]
    wrapped = huggingface.Logits(model)
    assert {id(p) for p in wrapped.parameters()} == {id(p) for p in model.parameters()}
    probe = torch.stack([tokens, masks], 1)[:8]
    monitor = Monitor(wrapped, (probe, labels[:8]), "cross-entropy", folder=tmp_path / "records")
    arguments = framework.TrainingArguments(
        str(tmp_path / "out"),
        max_steps=12,
        per_device_train_batch_size=6,
        report_to=[],
        use_cpu=True,
        save_steps=6,
    )
    trainer = framework.Trainer(model, arguments, train_dataset=rows, callbacks=[huggingface.callback(monitor)])
    trainer.train()
    assert monitor.steps == [0, 1, 2, 3, 5, 7, 10, 12]
    history = monitor.history()
    model.eval()
    with torch.no_grad():
        loss = float(nn.functional.cross_entropy(model(tokens[:8], attention_mask=masks[:8]).logits, labels[:8]))
    assert float(history.loss_after[-1]) == pytest.approx(loss, rel=1e-5)
    assert wrapped(tokens[:2]).shape == (2, 2)
    files = [tmp_path / "out" / f"checkpoint-{step}" / "model.safetensors" for step in (6, 12)]
    found = grsd.checkpoints(
        wrapped, files, probe, labels[:8], SHELLS, loss="cross-entropy", labels=[6, 12], progress=False
    )
    assert float(found.loss_after[0]) == pytest.approx(loss, rel=1e-5)
    with pytest.raises(
        IsADirectoryError, match=r"is a folder; name the file of weights .* such as 'model.safetensors'"
    ):
        grsd.checkpoints(wrapped, [file.parent for file in files], probe, labels[:8], SHELLS, loss="cross-entropy")


def test_the_benchmark_times_the_records(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "PROBES", (3, 4))
    monkeypatch.setattr(bench, "in_a_process", lambda what, run, *arguments: run(*arguments))
    path = bench.bench_monitor(folder=tmp_path, steps=3, repeats=1)
    table = pd.read_csv(path, comment="#").set_index(["method", "probe", "dtype"])
    assert set(table.index.get_level_values("method")) == {bench.TRAINING, bench.MONITOR, bench.POSITION}
    assert (table.cpu_s > 0).all()
    assert (table.records.dropna() == 4).all()
    assert (table.loc[bench.MONITOR].error < 1e-4).all()
    assert (table.loc[bench.POSITION].error > 0).all()


def test_the_benchmark_judges_the_median_share():
    rows = [{key: {"cpu_s": value} for key, value in run.items()} for run in RUNS]
    training, single, double = bench.summary(rows, bench.STEPS)
    assert (single["share"], single["least"], single["most"]) == (0.05, 0.04, 0.2)
    assert (single["limit"], single["verdict"], double["verdict"]) == (0.1, "within", "above")
    assert "share" not in training


KEYS = ((bench.TRAINING, 0, "float32"), (bench.MONITOR, 32, "float32"), (bench.MONITOR, 32, "float64"))
RUNS = [dict(zip(KEYS, values, strict=True)) for values in ((10, 0.5, 3), (10, 0.4, 4), (20, 4.0, 5))]


def test_the_spectral_position_tends_to_the_exact_one():
    model = network().eval()
    inputs, labels = task()
    exact = grsd.checkpoint_budget(model, model, inputs, labels, SHELLS, loss="cross-entropy").spectral_position_after
    assert bench.spectral_position(model, inputs, labels, 1000) == pytest.approx(float(exact), rel=0.1)
    assert all(p.grad is None for p in model.parameters())


def test_the_command_asks_for_one_thing(capsys):
    assert cli.main(["bench", "--monitor", "--zoo"]) == 2
    assert "--monitor: not with --zoo" in capsys.readouterr().err
    assert cli.main(["bench", "--monitor", "--device", "cuda"]) == 2
    assert "--device cuda: not with --monitor, which runs on the CPU" in capsys.readouterr().err


def test_the_lines_of_the_readme_run(tmp_path, capsys, monkeypatch):
    readme = (ROOT / "README.md").read_text()
    after = readme[readme.index("`grsd.Monitor`") :]
    block = textwrap.dedent(re.search(r"(?:^    .*\n)+", after, re.MULTILINE)[0])
    assert len(block.splitlines()) <= 10
    start = """
import grsd, torch
data = grsd.digits(200)
inputs, labels = data.inputs.float(), data.targets.argmax(1)
model = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.Tanh(), torch.nn.Linear(8, 10))
optimizer, loss = torch.optim.Adam(model.parameters()), torch.nn.CrossEntropyLoss()
batches = [(inputs[:100], labels[:100]), (inputs[100:], labels[100:])] * 15
"""
    (tmp_path / "lines.py").write_text(start + block)
    monkeypatch.chdir(tmp_path)
    runpy.run_path("lines.py")
    assert "loss_after" in capsys.readouterr().out
    assert list(tmp_path.glob("*/record-*.npz"))
