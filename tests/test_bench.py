import pandas as pd
import pytest
import torch

from grsd.bench import measure
from grsd.bench.measure import Case, bench
from grsd.bench.methods import METHODS
from grsd.bench.problems import PROBLEMS


@pytest.mark.parametrize("problem", ["mlp", "cnn"])
def test_all_methods_give_the_same_kernel(problem):
    model, inputs, targets = PROBLEMS[problem].make(3, torch.float64, "cpu")
    kernels = {name: method(model, inputs, targets, None) for name, method in METHODS.items()}
    for kernel in kernels.values():
        assert float((kernel - kernels["grsd"]).norm() / kernel.norm()) < 1e-12


def test_resnet18_has_its_size():
    with torch.device("meta"):
        model = PROBLEMS["resnet18"].build()
    assert sum(p.numel() for p in model.parameters()) == 11_173_962


def test_a_table(monkeypatch, tmp_path, capsys):
    methods = ("grsd", "torch.func jacrev")
    monkeypatch.setattr(measure, "SMALL", (Case("mlp", 4, "float32", methods, 3),))
    path = bench(folder=tmp_path)
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# python 3")
    assert "threads 1" in lines[0]
    table = pd.read_csv(path, skiprows=1)
    assert tuple(table.method) == methods
    assert table.cpu_ratio[0] == 1
    assert (table[["wall_s", "cpu_s", "process_gib"]] > 0).all(axis=None)
    assert "cpu_ratio" in capsys.readouterr().out


def test_methods_that_differ_are_no_result(monkeypatch):
    monkeypatch.setitem(METHODS, "wrong", lambda model, inputs, targets, limit: torch.eye(40, dtype=inputs.dtype))
    case = {"problem": "mlp", "samples": 4, "dtype": "float64", "methods": ["grsd", "wrong"], "repeats": 1}
    with pytest.raises(RuntimeError, match="wrong gives another kernel than grsd"):
        measure._work({"case": case, "device": "cpu", "threads": 1, "what": "time", "method": ""})
    with pytest.raises(RuntimeError, match="grsd bench: mlp failed: KeyError: 'none such'"):
        measure._in_a_process(Case("mlp", 4, "float64", ("none such",), 1), "cpu", 1, "time")
