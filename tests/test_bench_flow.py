"""A run beside its floor: the counts are the run's own, the parts are what the run does."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from grsd.bench import flow
from grsd.runs import train

SMALL = replace(flow.CELLS["late cell"], width=6, depth=3, samples=16, times=(0.5, 4.0, 3), tolerance=1e-3)
COUNTED = ["gradients", "snapshots", "run_s", "gradients_s", "kernels_s", "decompositions_s", "ratio"]


def test_the_floor_does_what_the_run_did(monkeypatch):
    """As many gradients, and one kernel and decomposition per snapshot beside the one at the start."""
    history = train(SMALL, progress=False)
    called = {"eigh": 0, "eigvalsh": 0}

    def counting(name, plain):
        def counted(*args, **options):
            called[name] += 1
            return plain(*args, **options)

        return counted

    for name in called:
        monkeypatch.setattr(torch.linalg, name, counting(name, getattr(torch.linalg, name)))
    row = flow.beside_floor(SMALL, repeats=1)
    assert list(row) == COUNTED
    assert (row["gradients"], row["snapshots"]) == (int(history.gradient_evaluations[-1]), 3)
    assert called["eigh"] == 4 * 3  # of two runs and two floors
    assert called["eigvalsh"] == 4
    parts = [row[f"{name}_s"] for name in ("gradients", "kernels", "decompositions")]
    assert row["ratio"] == pytest.approx(row["run_s"] / sum(parts))


def test_the_table(tmp_path, capsys, monkeypatch):
    large = replace(SMALL, samples=1000, width=40)
    monkeypatch.setattr(flow, "beside_floor", lambda spec: dict.fromkeys(COUNTED, 1.0))
    path = flow.main(tmp_path, {"small": SMALL, "large": large}, seeds=2)
    table = pd.read_csv(path, comment="#")
    at_once = ["alone_s", "together_s", "gain", "alone_kept_s", "together_kept_s", "gain_kept"]
    assert list(table.columns) == ["cell", *COUNTED, "seeds", *at_once]
    assert list(table.cell) == ["small", "large"]
    for kind in ("", "_kept"):
        ratio = table[f"alone{kind}_s"][0] / table[f"together{kind}_s"][0]
        assert table[f"gain{kind}"][0] == pytest.approx(ratio, rel=2e-3)
    assert table.seeds[0] == 2
    assert np.isnan(table.gain[1]), "a network that is not small is computed alone"
    assert "small" in capsys.readouterr().out
