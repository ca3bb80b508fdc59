"""The audit: known answers, refusals of one true line, the same bytes, and a report that asks for nothing."""

import json
import re
from dataclasses import replace

import jsonschema
import numpy as np
import pytest
import torch
from torch import nn

import grsd
from grsd import cli
from grsd.auditing import asked, gallery, schema
from grsd.auditing.question import factory
from grsd.auditing.shares import shares_of
from grsd.auditing.verdicts import CLOCK, LAZY, decide, more_runs, number
from grsd.solvable.chain import LinearChain

QUICK = {"conditions": False, "progress": False, "fall": 0.5}


def data(samples=12, features=5, outputs=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, features, generator=generator, dtype=torch.float64)
    return x, torch.tanh(x @ torch.randn(features, outputs, generator=generator, dtype=torch.float64))


def small():
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))


def checked(found):
    """A document that its schema takes, one screen of 80 columns, and a page without any address."""
    jsonschema.Draft202012Validator(schema()).validate(json.loads(found.to_json()))
    lines = str(found).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 40
    page = found.html()
    assert not re.search(r"<script|<link|<img|\bsrc=|url\(\s*['\"]?https?:|@import", page)
    assert found.verdict in page
    return found


def test_a_linear_model_is_lazy():
    found = checked(grsd.audit(lambda: nn.Linear(5, 1), *data(), seeds=3, **QUICK))
    assert found.verdict == "lazy"
    assert found.document["numbers"]["moved"]["value"] < 1e-9
    assert found.document["numbers"]["frozen"]["value"] == pytest.approx(1)


@pytest.mark.long
def test_a_diagonal_net_is_transport():
    found = checked(gallery.diagonal(seeds=3))
    assert found.verdict == "transport"
    assert found.document["numbers"]["growth_share"]["high"] < CLOCK.threshold


@pytest.mark.long
def test_two_linear_layers_are_a_running_clock():
    """With the exponent of the solved model in the interval: (1 - beta) / (1 + beta)."""
    found = checked(gallery.two_layers(seeds=4))
    assert found.verdict == "running clock"
    clock = found.document["numbers"]["clock"]
    assert clock["low"] <= LinearChain(beta=0.4).clock_exponent <= clock["high"]


def test_shares_of_a_planted_budget():
    """A flux that is growth's own has the share one; one that is orthogonal to it has none."""
    audited = grsd.audit(small, *data(), seeds=2, **QUICK)
    assert audited.dataset.sizes["run"] == 2
    found = audited.runs[0]
    grown = found.assign(transport=found.growth, laziness=found.laziness)
    assert shares_of(grown).growth == pytest.approx(1)
    still = found.assign(transport=0 * found.growth)
    assert shares_of(still).moved == 0
    assert np.isnan(shares_of(still).growth)
    assert sum(shares_of(found).parts.values()) == pytest.approx(1)


def test_open_intervals_say_how_many_more():
    assert more_runs(0.0, (-0.2, 0.2), 0.1, 8) == 25
    assert more_runs(0.0, (-0.1, 0.1), 0.2, 8) == 0
    assert more_runs(0.0, (-0.1, 0.1), 0.2, 3, least=8) == 5
    assert more_runs(0.1, (0.0, 0.2), 0.1, 8) is None
    judged = number("x", [0.0, 0.2, 0.1, 0.15], LAZY)
    assert judged.more > 0
    assert 0 < judged.power < 1
    one = grsd.audit(small, *data(), seeds=2, **QUICK)
    assert one.verdict == "inconclusive"
    assert one.document["verdict"]["more"] == 1
    rising = [shares_of(run.isel(step=slice(None, None, -1)).rename(loss_before="loss_after", loss_after="loss_before"))
              for run in one.runs]  # fmt: skip
    assert decide(rising, "runs", True).why.startswith("the loss rose (it rose by 0.")
    assert ", or was a learning rate past the edge of stability?" in decide(rising, "runs", True).why
    level = [replace(one, fallen=-0.05) for one in rising]
    line = "the loss hardly changed (it rose by 0.05 e-folds), so nothing was learned that could be judged; train for "
    assert decide(level, "runs", True).why.startswith(line)


def test_the_same_question_has_the_same_bytes_and_goes_on(tmp_path, monkeypatch):
    first = grsd.audit(small, *data(), seeds=2, folder=tmp_path, **QUICK).to_json()
    assert grsd.audit(small, *data(), seeds=2, **QUICK).to_json() == first
    followed = []
    monkeypatch.setattr("grsd.auditing.followed._follow", lambda *args: followed.append(args))
    assert grsd.audit(small, *data(), seeds=2, folder=tmp_path, **QUICK).to_json() == first
    assert not followed


def states(folder, rate=0.1, steps=12, broken=False):
    torch.manual_seed(0)
    (x, y), model, files = data(32), small().double(), []
    optimizer = torch.optim.SGD(model.parameters(), rate)
    for step in range(steps + 1):
        if step % 4 == 0:
            files.append(folder / f"s{step}.pt")
            torch.save(model.state_dict(), files[-1])
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    if broken:
        torch.save({name: value * torch.nan for name, value in model.state_dict().items()}, files[-1])
    return files


def test_checkpoints_of_one_training_and_of_several(tmp_path):
    files = states(tmp_path)
    found = checked(grsd.audit(small, *data(32), checkpoints=files, progress=False))
    assert found.document["question"]["unit"] == "groups"
    assert len(found.runs) == 8
    assert found.document["course"]["labels"] == ["s0", "s4", "s8", "s12"]
    several = grsd.audit(small, *data(32), checkpoints=[files, files[1:], files[:3]], progress=False)
    assert several.document["question"]["unit"] == "runs"
    assert several.document["forecast"] is None


class Noisy(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.parts = nn.Sequential(nn.Linear(5, 8), part, nn.Linear(8, 1))

    def forward(self, x):
        return self.parts(x)


def classes():
    return nn.Linear(5, 3)


def broken():
    model = small()
    nn.init.constant_(model[0].weight, torch.nan)
    return model


def blind():
    """Its hidden units are dead, and only the last bias learns."""
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))
    nn.init.constant_(model[0].bias, -100.0)
    return model


LABELS = torch.arange(12) % 3
CROSS = {"loss": "cross-entropy", "model": classes}
WHOLE = torch.arange(60).reshape(12, 5) % 7


class Dead(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(5, 1)

    def forward(self, x):
        return torch.relu(self.one(x) * 0 - 1)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"model": lambda: 3}, r"audit\(model=\.\.\.\): expected a function that returns a torch.nn.Module, it gave 3"),
        ({"model": lambda a, b: 3}, r"audit\(model=\.\.\.\): expected a function of the seed alone, it needs a, b"),
        ({"model": lambda: 1 / 0}, r"audit\(model=\.\.\.\): the function fails for seed 0 \(ZeroDivisionError"),
        ({"model": lambda: nn.Linear(4, 1)}, r"audit\(inputs=\.\.\.\): the model fails on \(4, 5\)"),
        ({"model": nn.Linear(5, 1)}, r"audit\(model=\.\.\.\): the seeds 0 and 1 give equal weights"),
        ({"targets": torch.ones(12, 1)}, r"audit\(targets=\.\.\.\): all 12 targets are the same"),
        ({"targets": torch.full((12, 1), torch.nan)}, r"audit\(targets=\.\.\.\): found NaN or infinity"),
        ({"inputs": torch.full((12, 5), torch.inf)}, r"audit\(inputs=\.\.\.\): found NaN or infinity"),
        ({"model": lambda: Noisy(nn.Dropout())}, r"audit\(model=\.\.\.\): seed 0: the model gives another output"),
        (
            {"model": lambda: Noisy(nn.BatchNorm1d(8))},
            r"audit\(model=\.\.\.\): seed 0: the model changes .*; return model.eval\(\) from the",
        ),
        (
            {"model": Dead},
            r"audit\(model=\.\.\.\): seed 0: the gradients of all outputs are zero at the start, so that",
        ),
        (
            {"model": Dead, "method": "krylov"},
            r"seed 0: the gradients of all outputs are zero at the start, so that no",
        ),
        ({"loss": "hinge"}, r"audit\(loss=\.\.\.\): expected one of"),
        ({"loss": "cross-entropy"}, r"audit\(loss='cross-entropy'\): expected outputs of shape \(N, C\)"),
        (CROSS | {"targets": LABELS[:, None]}, r"audit\(targets=\.\.\.\): .*; use targets.squeeze\(1\)$"),
        (
            CROSS | {"targets": LABELS.float()},
            r"audit\(targets=\.\.\.\): expected whole numbers .*; use targets.long\(\)$",
        ),
        (CROSS | {"targets": torch.eye(3)[LABELS]}, r"; use targets.argmax\(1\), if they are one-hot$"),
        (
            CROSS | {"targets": LABELS + (torch.arange(12) == 11)},
            r"expected class labels from 0 to 2, got labels from 0",
        ),
        (
            {"targets": data()[1][:, 0]},
            r"expected the shape of the outputs, \(12, 1\) for .*; use targets.reshape\(\(12, 1\)\)$",
        ),
        ({"inputs": WHOLE}, r"inputs of torch.int64 are given as they are: inputs.float\(\), unless they are tokens$"),
        (
            {"model": lambda: nn.Sequential(nn.Embedding(7, 1), nn.Flatten(), small())},
            r"if inputs are tokens: inputs.long",
        ),
        (
            {"model": blind},
            r"audit\(model=\.\.\.\): seed 0: every sample has the same gradients at the start, so that no",
        ),
        ({"model": blind, "method": "krylov"}, r"seed 0: every sample has the same gradients at the start, so that no"),
        (
            {"inputs": torch.ones(12, 5)},
            r"audit\(inputs=\.\.\.\): all 12 inputs are the same, so that no network can tell",
        ),
        (
            {"model": lambda: small().requires_grad_(False)},
            r"audit\(model=\.\.\.\): the model has no parameter with requires_grad=True; nothing can learn$",
        ),
        (
            {"loss": lambda outputs, targets: -(outputs * targets).square().sum(1)},
            r"audit\(loss=\.\.\.\): seed 0: the loss is -0\.\d+ at the start, and its fall, counted in e-folds, takes",
        ),
        ({"model": broken}, r"audit\(model=\.\.\.\): '0.weight' contains NaN or infinity at the start$"),
        ({"seeds": 1}, r"audit\(seeds=\.\.\.\): expected a whole number of at least 2"),
        ({"samples": 99}, r"audit\(samples=\.\.\.\): expected at most the 12 samples given"),
        ({"checkpoints": ["none.pt", "no.pt"]}, r"audit\(checkpoints=\.\.\.\): none.pt: there is no such file"),
    ],
)
def test_one_true_line(change, line):
    given = {"model": small, "seeds": 3} | dict(zip(("inputs", "targets"), data(), strict=True)) | QUICK | change
    with pytest.raises((TypeError, ValueError, RuntimeError, FileNotFoundError), match=line) as caught:
        grsd.audit(**given)
    assert "\n" not in str(caught.value)


def test_what_makes_no_network():
    with pytest.raises(
        TypeError, match=r"^audit\(model=\.\.\.\): expected a function from a seed to a torch.nn.Module"
    ):
        factory(3)
    seeded = factory(lambda seed: nn.Linear(2, 1 + seed))
    assert seeded(2).out_features == 3
    one, other = factory(small)(0), factory(small)(0)
    assert torch.equal(one[0].weight, other[0].weight)


NET = "import torch\n\n\ndef make():\n    return torch.nn.Linear(5, 1)\n"


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "audited_net.py").write_text(NET)
    x, y = data()
    np.savez("d.npz", x=x.numpy(), y=y.numpy())
    torch.save({"s": nn.Linear(5, 1).state_dict()}, "s.pt")
    line = ["audit", "audited_net:make", "--data", "d.npz", "--seeds", "0-2", "--no-conditions", "--out=r"]
    assert cli.main(line) == 0
    out = capsys.readouterr().out
    assert "VERDICT LAZY" in out
    assert max(map(len, out.splitlines())) <= 80
    jsonschema.validate(json.loads((tmp_path / "r" / "audit.json").read_text()), schema())
    assert (tmp_path / "r" / "audit.html").read_text().startswith("<!doctype html>")
    for change, said in (
        ({1: "audited_net:nothing"}, "audited_net:nothing: audited_net has no function nothing; it has make"),
        ({1: "nowhere_at_all:make"}, "nowhere_at_all:make: there is no module nowhere_at_all in"),
        ({1: "os.system('x')"}, "expected module:factory such as net:make"),
        ({3: "gone.npz"}, "gone.npz: there is no such file"),
        ({3: "other"}, "expected a file .npz or .safetensors, or one of"),
        ({8: "--samples=99"}, "grsd audit: --samples: expected at most the 12 samples given, got 99"),
        ({8: "--loss=cross-entropy"}, "grsd audit: --loss: expected outputs of shape (N, C)"),
        (
            {8: "--checkpoints=gone.pt"},
            "grsd audit: --checkpoints: expected two or more states of each training, got 1",
        ),
        ({8: ["--checkpoints", "gone.pt", "d.npz"]}, "grsd audit: --checkpoints: gone.pt: there is no such file"),
        (
            {8: ["--checkpoints", "s.pt", "s.pt", "--key=x"]},
            "grsd audit: --key: s.pt has no such key; its keys are 's'",
        ),
        ({8: ["--checkpoints", "s.pt", "s.pt"]}, "got a mapping with the keys 's'; pass --key s"),
    ):
        words = [change.get(k, word) for k, word in enumerate([*line, ""])]
        assert cli.main([word for given in words if given for word in ([given] if type(given) is str else given)]) > 0
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1
    np.savez("e.npz", a=x.numpy(), b=np.array([object()]))
    assert cli.main([*line[:3], "e.npz", *line[4:]]) == 2
    assert "cannot be read as arrays of numbers" in capsys.readouterr().err
    np.savez("f.npz", a=x.numpy(), y=y.numpy())
    assert cli.main([*line[:3], "f.npz", *line[4:]]) == 2
    assert "expected an array named inputs or x; it holds a (12, 5), y (12, 1)" in capsys.readouterr().err


def test_committed_audits_follow_the_schema():
    found = gallery.audits()
    assert [*found] == [*gallery.GALLERY]
    for name, document in found.items():
        jsonschema.validate(document, schema())
        assert document["question"]["model"] == name
    verdicts = {name: document["verdict"]["verdict"] for name, document in found.items()}
    assert verdicts["scaled-perceptron"] == "lazy"
    assert verdicts["two-linear-layers"] == "running clock"
    assert verdicts["diagonal-net"] == "transport"


def test_conditions_are_asked():
    found = checked(grsd.audit(small, *data(16), seeds=3, progress=False))
    named = [answer["condition"] for answer in found.document["conditions"]]
    assert named == [
        "propagation", "incoherence", "evolution", "invariance", "beyond growth", "interventions", "power law",
    ]  # fmt: skip
    assert found.document["forecast"] is None
    line = "the loss does not follow the power law of the last e-fold of time in the seen part: "
    assert found.document["forecast_missing"].startswith(line), "too few modes for a velocity, too short for a law"
    assert all(answer["why"] for answer in found.document["conditions"])


@pytest.mark.long
def test_large_kernels_go_by_products():
    found = checked(grsd.audit(small, *data(), seeds=3, method="krylov", progress=False))
    assert "Krylov" in str(found)
    assert found.verdict in ("lazy", "running clock", "transport", "inconclusive")
    assert asked.Audit is type(found)
