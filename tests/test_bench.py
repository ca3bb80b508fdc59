import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from reference import evaluate, fresh

from grsd.bench import bench, bench_zoo, measure, neural_tangents, worker
from grsd.bench.families import FAMILIES
from grsd.bench.figure import panels
from grsd.bench.floor import floor, floor_with_rate
from grsd.bench.gpt2 import GPT2, Row, Shape, bench_gpt2
from grsd.bench.jacobians import WAYS, by_jacobian, by_rows
from grsd.bench.methods import METHODS
from grsd.bench.peers import PEERS
from grsd.bench.problems import PROBLEMS
from grsd.bench.process import in_a_process
from grsd.bench.stages import STAGES
from grsd.bench.worker import AGREE, FLOOR, OURS, RATE, Case
from grsd.bench.zoo import LIMIT, is_known, measured, verdict
from grsd.cli import main

SMALL = ("mlp", "cnn", "transformer")


@pytest.mark.parametrize("problem", SMALL)
def test_all_methods_give_the_same_kernel(problem):
    model, inputs, targets = PROBLEMS[problem].make(3, torch.float64, "cpu")
    kernels = {name: method(model, inputs, targets, None) for name, method in METHODS.items()}
    for kernel in kernels.values():
        assert float((kernel - kernels[OURS]).norm() / kernel.norm()) < 1e-12


@pytest.mark.parametrize("problem", SMALL)
def test_peers_give_the_same_kernel_or_stand_as_missing(problem):
    for method in PEERS:
        row = worker.alone(Case(problem, 3, "float64", (method,)), method, "cpu", 1)
        if importlib.util.find_spec(method) is None:
            assert row == {"note": "not installed"}
        else:
            assert row.get("cpu_s", 0) > 0 or (problem == "transformer" and row["note"].startswith("refuses: "))


def test_a_peer_that_differs_is_no_result_and_one_that_fails_says_why(monkeypatch):
    case = Case("mlp", 4, "float32", ())

    def refusing(model, inputs, targets, limit):
        raise NotImplementedError("no such layer\nand more")

    wrong = {"wrong": lambda model, inputs, targets, limit: torch.eye(10 * len(inputs)), "refusing": refusing}
    monkeypatch.setattr(worker, "PEERS", wrong)
    monkeypatch.setattr(worker, "KERNELS", METHODS | wrong)
    with pytest.raises(RuntimeError, match="wrong gives another kernel than grsd"):
        worker.alone(case, "wrong", "cpu", 1)
    assert worker.alone(case, "refusing", "cpu", 1) == {"note": "refuses: no such layer"}
    with pytest.raises(RuntimeError, match="grsd bench: mlp, none such: KeyError"):
        in_a_process("mlp, none such", worker.alone, case, "none such", "cpu", 1)


@pytest.mark.parametrize("size", [0.5, 2])
def test_agreement_is_to_its_tolerance(size):
    ours = torch.ones(4, 4)
    other = ours * (1 + size * AGREE["float32"])
    if size < 1:
        worker.check_same("other", other, ours, "float32")
    else:
        with pytest.raises(RuntimeError, match="another kernel"):
            worker.check_same("other", other, ours, "float32")


def products(function):
    """The multiplications of all matrix products."""
    names = ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm")
    with torch.profiler.profile(with_flops=True) as profile:
        function()
    return sum(event.flops for event in profile.key_averages() if event.key in names)


@pytest.mark.parametrize(("problem", "rate"), [
    ("cnn", False), ("transformer", True),
    pytest.param("cnn", True, marks=pytest.mark.long), pytest.param("transformer", False, marks=pytest.mark.long),
])  # fmt: skip
def test_the_floor_counts_the_products_of_the_routes(problem, rate):
    """Its matrix products are those of ours but for one half, with the rate too, and nothing else is counted."""
    model, inputs, targets = PROBLEMS[problem].make(3, torch.float32, "cpu")
    run = (floor_with_rate if rate else floor)(model, inputs, targets, None)
    assert run() is None
    ours = products(lambda: METHODS[RATE if rate else OURS](model, inputs, targets, None))
    assert 0 < products(run) < 1.5 * ours


def test_the_floor_of_a_wide_layer_counts_its_weighted_products(monkeypatch):
    for name in ("PER_CALL", "FEW_CALLS", "HELD_ROWS", "NARROW"):
        monkeypatch.setattr(f"grsd.jacobian.size.{name}", 0)
    model = torch.nn.Sequential(torch.nn.Conv2d(16, 16, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(64, 2))
    found = products(floor(model.eval(), torch.randn(6, 16, 2, 2), torch.zeros(6, 2), None))
    samples, classes, positions, p, q = 6, 2, 4, 145, 16
    pairs = samples * (samples + 1) / 2
    features = 2 * (samples * positions) ** 2 * p
    weighted = 2 * pairs * positions * (positions * classes * q + classes**2 * q)
    readout = 2 * samples**2 * 65 + 2 * (samples * classes) ** 2 * 2
    backward = 2 * classes * samples * 2 * 64
    assert features + weighted < found <= features + weighted + readout + 3 * backward


def test_stages_run():
    problem = PROBLEMS["mlp, narrow"].make(12, torch.float64, "cpu")
    for make in STAGES.values():
        assert make(*problem, None)() is not None


def test_large_models_have_their_sizes():
    with torch.device("meta"):
        models = PROBLEMS["resnet18"].build(), GPT2(Shape(), last=False)
    assert [sum(p.numel() for p in model.parameters()) for model in models] == [11_173_962, 124_439_808]


def test_a_language_model_is_measured_and_compared_with_a_gradient(monkeypatch, tmp_path, capsys):
    """A tiny one in the place of GPT-2: all positions with M alone, and the last ones with the rate."""
    monkeypatch.setattr("grsd.bench.gpt2.in_a_process", lambda what, function, *arguments: function(*arguments))
    rows = (Row(False, False, 6, 3, 4), Row(True, True, 40, 3, 4))
    path = bench_gpt2(folder=tmp_path, rows=rows, shape=Shape(7, 8, 8, 2, 2))
    head, *_ = path.read_text().splitlines()
    assert head.startswith("# python 3")
    table = pd.read_csv(path, skiprows=1)
    assert list(table.dimension) == [3 * 4 * 7, 3 * 7]
    assert table.steps[0] == 6
    assert table.steps[1] <= 21
    assert table.declared[1] > 0.9
    assert (table.off < 1e-5).all()
    assert (table[["cpu_s", "process_gib"]] > 0).all(axis=None)
    assert "declared" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"^bench_gpt2\(folder=...\): cannot write to "):
        bench_gpt2(folder=Path(__file__), rows=rows)


def test_a_language_model_sees_no_later_token():
    model = GPT2(Shape(7, 8, 8, 2, 2), last=False).eval()
    tokens = torch.tensor([[1, 2, 3, 4], [1, 2, 5, 6]])
    first, second = model(tokens).view(2, 4, 7)
    torch.testing.assert_close(first[:2], second[:2])
    assert not torch.allclose(first[2:], second[2:])
    last = GPT2(Shape(7, 8, 8, 2, 2), last=True).eval()
    last.load_state_dict(model.state_dict())
    torch.testing.assert_close(last(tokens)[0], first[-1])


def test_a_table_and_a_figure(monkeypatch, tmp_path, capsys):
    methods = (OURS, "torch.func jacrev", FLOOR)
    monkeypatch.setattr(measure, "SMALL", (Case("mlp", 4, "float32", methods, 3),))
    path = bench(folder=tmp_path)
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# python 3")
    assert "threads 1" in lines[0]
    table = pd.read_csv(path, skiprows=1)
    assert tuple(table.method) == methods
    assert list(table.columns) == measure.COLUMNS
    assert table.cpu_ratio[0] == 1
    assert (table.repeats == 3).all()
    assert (table[["wall_s", "cpu_s"]] > 0).all(axis=None)
    assert "cpu_ratio" in capsys.readouterr().out
    assert path.with_suffix(".svg").read_text().count("<svg") == 1
    labels = [label.get_text() for label in panels(table).axes[0].get_yticklabels()]
    assert tuple(labels) == methods


def fails_in(monkeypatch, fails):
    """The benchmark of one small case whose process fails where ``fails(function, method)`` says so."""

    def measured(what, function, case, method, *_):
        if fails(function, method):
            raise RuntimeError(f"grsd bench: {what}: it failed")
        times = {"wall_s": 1.0, "cpu_s": 2.0, "repeats": 1, "peak_gib": 1.0}
        return times if function is measure.alone else dict.fromkeys(method, times | {"cpu_s": 3.0})

    methods = (OURS, "grsd, with rate", "torch.func jacrev")
    monkeypatch.setattr(measure, "SMALL", (Case("mlp", 4, "float32", methods, 3),))
    monkeypatch.setattr(measure, "in_a_process", measured)


def table_in(folder):
    (table,) = (pd.read_csv(path, skiprows=1) for path in folder.glob("*.csv"))
    return table


def test_a_method_that_fails_loses_no_other_row(monkeypatch, tmp_path):
    fails_in(monkeypatch, lambda _, method: method == "grsd, with rate")
    with pytest.raises(RuntimeError, match=r"with rate: it failed; the other rows are in .*\.csv$"):
        bench(folder=tmp_path)
    table = table_in(tmp_path)
    assert table.cpu_s.isna().tolist() == [False, True, False]
    assert table.note[1] == "failed"


def test_repeated_rounds_that_fail_lose_no_first_round(monkeypatch, tmp_path):
    fails_in(monkeypatch, lambda function, _: function is measure.together)
    with pytest.raises(RuntimeError, match=r"^grsd bench: mlp, .*: it failed; the other rows are in .*\.csv$"):
        bench(folder=tmp_path)
    assert table_in(tmp_path).cpu_s.tolist() == [2.0] * 3


def test_a_peer_with_another_kernel_loses_no_row(monkeypatch, tmp_path):
    def differs(*_):
        raise RuntimeError("neural-tangents gives another kernel than grsd")

    fails_in(monkeypatch, lambda *_: False)
    monkeypatch.setattr(measure, "neural_tangents_row", differs)
    with pytest.raises(RuntimeError, match=r"mlp: neural-tangents gives another kernel than grsd; the other rows are"):
        bench(folder=tmp_path, neural_tangents="")
    assert table_in(tmp_path).cpu_s.tolist() == [3.0] * 3


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"threads": 0}, r"bench\(threads=...\): expected a whole number of at least 1, got 0"),
        ({"threads": 2000}, r"bench\(threads=...\): expected at most 1024 \(more than any"),
        ({"folder": Path(__file__)}, r"bench\(folder=...\): cannot write to .*test_bench.py is not a folder"),
        ({"neural_tangents": "no-such-python"}, r"bench\(neural_tangents=...\): .*no-such-python': No such file"),
        ({"neural_tangents": "a\0b"}, r"bench\(neural_tangents=...\): .*: ValueError"),
        ({"neural_tangents": "false"}, r"bench\(neural_tangents=...\): .*'false' does not; give no PYTHON"),
    ],
)
def test_refused_before_anything_is_timed(request_, message, monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "_rows", None)
    with pytest.raises(ValueError, match=message) as caught:
        bench(**{"folder": tmp_path} | request_)
    assert "\n" not in str(caught.value)


def test_neural_tangents_without_its_environment_says_so():
    case = Case("mlp", 3, "float32", ())
    assert neural_tangents.row(Case("transformer", 3, "float32", ()), "no-such-python") == {}
    (row,) = neural_tangents.row(case, "no-such-python").values()
    assert row["note"].startswith("not installed: ")


@pytest.mark.parametrize("problem", ["mlp", "cnn"])
def test_what_neural_tangents_is_given_is_the_network(problem, tmp_path, monkeypatch):
    """Its functions, with numpy in the place of jax, on the weights handed over."""
    neural_tangents._hand_over(Case(problem, 3, "float64", ()), tmp_path)
    state, inputs = dict(np.load(tmp_path / "state.npz")), np.load(tmp_path / "inputs.npy")
    model = PROBLEMS[problem].make(3, torch.float64, "cpu")[0]
    assert json.loads((tmp_path / "plan.json").read_text())["trained"] == [n for n, _ in model.named_parameters()]

    class Lax:
        @staticmethod
        def conv_general_dilated(x, w, strides, padding):
            return torch.nn.functional.conv2d(torch.as_tensor(x), torch.as_tensor(w), padding=1).numpy()

    class Jax:
        numpy, lax = np, Lax
        nn = type("nn", (), {"relu": staticmethod(lambda x: np.maximum(x, 0))})

    monkeypatch.setitem(__import__("sys").modules, "jax", Jax)
    monkeypatch.setitem(__import__("sys").modules, "jax.numpy", np)
    outputs = neural_tangents.MODELS[problem](state, inputs)
    np.testing.assert_allclose(outputs, model(torch.as_tensor(inputs)).detach().numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["flat output, buffer", "frozen layer", "logit scale", "resnet", "gpt"])
def test_every_way_to_a_jacobian_gives_the_naive_kernel(name):
    family = FAMILIES[name]
    inputs = family.make()[1]
    expected = evaluate(lambda: fresh(family), inputs).kernel
    for way, kernel in WAYS.items():
        differs = (kernel(family.make()[0], inputs) - expected).abs().max()
        assert float(differs) <= 1e-12 * float(expected.max()), way


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("plain", "vmap(jacrev)"),
        ("looks at values", "jacrev"),
        ("checkpoint, reentrant", "rows"),
        ("hamiltonian", "rows"),
        ("radial basis by cdist", "rows"),
    ],
)
def test_the_first_way_that_works_is_taken(name, way):
    family = FAMILIES[name]
    inputs = family.make()[1]
    expected = evaluate(lambda: fresh(family), inputs).kernel

    def right(kernel):
        return float((kernel - expected).abs().max()) <= 1e-12 * float(expected.max())

    assert by_jacobian(lambda: family.make()[0], inputs, right) == way
    assert by_jacobian(lambda: family.make()[0], inputs, lambda kernel: False) == ""


def test_the_zoo_is_judged_by_its_limit(monkeypatch, tmp_path, capsys):
    """In this process. A kernel that differs is no timing, nor is one that fails: both say so and the others stand."""
    seen = []

    def here(what, function, name):
        seen.append(name)
        if name == "residual":
            raise RuntimeError(f"grsd bench: {name}: IndexError: no such layer")
        return function(name)

    monkeypatch.setattr("grsd.bench.zoo.in_a_process", here)
    monkeypatch.setattr("grsd.bench.zoo.in_a_fresh_interpreter", lambda program, arguments, threads: {"cpu_s": 0.7})
    names = ["plain", "residual", "one layer, no bias", "raw parameters"]
    path = bench_zoo(folder=tmp_path, names=names, starts=["plain", "raw parameters"])
    head, *_ = path.read_text().splitlines()
    assert head.endswith("; threads 1; limit = 1.1 * jacrev + 5 ms")
    table = pd.read_csv(path, skiprows=1).set_index("family")
    assert list(table.index) == names == seen
    assert table.verdict["residual"] == "IndexError: no such layer"
    timed = table.drop("residual")
    assert (timed.outputs >= 80).all()
    assert (timed.outputs == timed.samples * 3).all()
    np.testing.assert_allclose(timed.limit_s, 1.1 * timed.jacrev_s + 0.005, atol=2e-4)
    assert ((timed.verdict == "ok") == (timed.grsd_s <= timed.limit_s + 1e-4)).all()
    assert (table.first_verdict["plain"], table.first_rate_verdict["plain"]) == ("over", "ok")
    assert (table.first_limit_s["raw parameters"], table.first_verdict["raw parameters"]) == (0.7, "ok")
    assert LIMIT in capsys.readouterr().out


def test_a_wrong_kernel_is_not_timed(monkeypatch):
    monkeypatch.setattr("grsd.bench.zoo.tangent_kernel", lambda model, inputs: 1.001 * by_rows(model, inputs))
    with pytest.raises(RuntimeError, match="no Jacobian of torch gives the kernel of grsd"):
        measured("plain")


def test_the_verdict_at_the_limit():
    assert verdict(1.0, 1.0) == {"limit_s": 1.0, "verdict": "ok"}
    assert verdict(1.01, 1.0, "first_") == {"first_limit_s": 1.0, "first_verdict": "over"}


def test_known_layers():
    known = ("plain", "resnet", "transformer encoder", "frozen layer", "embedding")
    other = ("raw parameters", "weight norm", "lstm", "prelu", "weight standardized")
    assert all(is_known(FAMILIES[name].build()) for name in known)
    assert not any(is_known(FAMILIES[name].build()) for name in other)


def test_what_the_zoo_refuses(capsys):
    with pytest.raises(ValueError, match="no family with an exact kernel is called 'less the mean'"):
        bench_zoo(names=["less the mean"])
    for kind in ("--zoo", "--gpt2"):
        for options in (["--large"], ["--threads", "2"], ["--neural-tangents"], ["--device", "cuda"], ["--monitor"]):
            assert main(["bench", kind, *options]) == 2
            assert f"grsd bench: {' '.join(options[:1])}" in capsys.readouterr().err


@pytest.mark.long
def test_the_zoo_in_processes_of_its_own(tmp_path):
    table = pd.read_csv(bench_zoo(folder=tmp_path, names=["plain"]), skiprows=1)
    assert (table[["grsd_s", "jacrev_s", "first_s", "first_rate_s"]] > 0).all(axis=None)
    assert table.first_limit_s[0] == 0.6
    assert table.first_rate_limit_s[0] == 0.9
