"""What ``make cuda`` measures, without the device: its one line, its parts, its tables at small sizes on the CPU."""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from grsd.bench import cuda

ROOT = Path(__file__).resolve().parents[1]
NOTHING = "grsd.bench.cuda: there is no CUDA device here; nothing is measured and no table is changed\n"
NOT_NEEDED = ("matplotlib", "ipykernel", "jupyterlab", "papermill", "nbformat", "traitlets", "ipywidgets")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_one_line_and_nothing_else():
    """In a Python that lacks what only notebooks and figures need."""
    lacking = f"import sys; sys.modules |= dict.fromkeys({NOT_NEEDED}); import grsd.bench.cuda as c; sys.exit(c.main())"
    done = subprocess.run([sys.executable, "-c", lacking], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", NOTHING)


def test_its_figures_need_matplotlib_alone():
    lacking = f"import sys; sys.modules |= dict.fromkeys({NOT_NEEDED[1:]}); import grsd.bench.figure"
    subprocess.run([sys.executable, "-c", lacking], cwd=ROOT, check=True)


def test_make_runs_it():
    made = ["make", "-n", "--no-print-directory", "cuda", "PYTHON=some-python"]
    done = subprocess.run(made, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "some-python -m grsd.bench.cuda"


def test_a_part_that_fails_leaves_the_others(monkeypatch, capfd):
    done = {name: [sys.executable, "-c", f"print({name!r}); raise SystemExit({name == 'b'})"] for name in "abc"}
    monkeypatch.setattr(cuda, "commands", lambda: done)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cuda.main() == 1
    said = capfd.readouterr()
    assert [line for line in said.out.splitlines() if len(line) == 1] == ["a", "b", "c"]
    assert said.err == "grsd.bench.cuda: failed, see above: b\n"


def test_the_parts_exist():
    for name, (python, flag, module, *rest) in cuda.commands().items():
        assert (python, flag) == (sys.executable, "-m")
        assert importlib.util.find_spec(module) is not None
        if module == cuda.CALL:
            assert rest == [name]
            assert name in cuda.TABLES
    assert (ROOT / cuda.commands()["checks"][-1]).is_file()


def test_the_tables(tmp_path, monkeypatch):
    (row,) = cuda.krylov("cpu", [60], steps=8, batches=[3]).to_dict("records")
    assert (row["dimension"], row["steps"]) == (60, 8)
    assert row["norm_difference"] < 1e-12
    small = replace(cuda.LATE, width=4, depth=2, samples=10, times=(0.5, 2.0, 2))
    table = cuda.ensemble([("cpu", 1), ("cpu", 2)], small)
    assert list(table.loss_difference) == [0, 0]
    assert (table.wall_s_a_run > 0).all()
    monkeypatch.setattr(cuda, "device_name", lambda device: "a-device")
    path = cuda.write(table, "ensemble", tmp_path)
    assert path.name == "ensemble-a-device.csv"
    assert path.read_text().startswith("# python ")


def test_a_row_that_fails_leaves_the_others(monkeypatch):
    measured = cuda.krylov_spectrum

    def too_large(*given, batch, **named):
        if batch == 6:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB")
        return measured(*given, batch=batch, **named)

    monkeypatch.setattr(cuda, "krylov_spectrum", too_large)
    table = cuda.krylov("cpu", [60], steps=8, batches=[3, 6, 2])
    assert table.batch.tolist() == [3, 6, 2]
    assert (table.wall_s > 0).tolist() == [True, False, True]
    assert table.note[1] == r"OutOfMemoryError: CUDA out of memory.\nTried to allocate 9 GiB"
