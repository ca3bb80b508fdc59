"""A full disk, real where the tests may mount one: nothing torn, nothing finished lost, one line."""

import errno
import os
import re
import resource
import shutil
import subprocess
import sys

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
import xarray as xr
from nbformat.v4 import new_code_cell, new_notebook
from test_runs_kept import OPTIONS, SMALL

import grsd
from grsd import cli
from grsd.bench.figure import draw
from grsd.evidence import MARKS, Claim, DecisionRule, Finding, judge, tables, write_findings, write_result
from grsd.plotting import savefig
from grsd.reproduce import reproduce
from grsd.support.files import UNFINISHED

DRAW = {"exponent": 0.5, "draws": 3, "seed": 0}


@pytest.fixture(params=["tmpfs", "refused writes"])
def full(request, tmp_path, monkeypatch):
    """A folder; after ``full.fill()`` nothing more can be written to it, until ``full.empty()``."""
    folder = tmp_path / "disk"
    folder.mkdir()

    class Disk:
        path = folder

        @staticmethod
        def fill():
            if request.param == "tmpfs":
                with (folder / "filler").open("wb", buffering=0) as file:
                    for size in (2**16, 2**12, 1):
                        try:
                            while file.write(b"x" * size):
                                pass
                        except OSError:
                            pass
            else:
                monkeypatch.setattr("grsd.support.files.os.write", refuse)

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if request.param == "tmpfs":
        mounted = shutil.which("mount") and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, check=False
        )
        if not mounted or mounted.returncode:
            pytest.skip("no permission to mount a small disk")
    yield Disk
    if request.param == "tmpfs":
        subprocess.run(["umount", "-l", folder], check=True)


def claim(folder):
    rule = DecisionRule("s", "at most", 1.0, "r")
    found = Claim("c", "a claim", "ours", "00_a", None, rule, "c")
    return found, judge(found, range(1000, 1008), [0.5] * 8, {})


def write_readme(folder):
    found, result = claim(folder)
    text = "a number that was {c.estimate}"
    finding = Finding("Found.", text, "00_a", {"c": result.verdict})
    write_findings(folder / "README.md", {"c": found}, {"c": result}, [finding])


def bench_table():
    row = {"problem": "p", "samples": 1, "dtype": "float32", "method": "grsd", "cpu_s": 1.0, "peak_gib": 1.0}
    return pd.DataFrame([row | {"cpu_ratio": 1.0, "peak_ratio": 1.0, "note": ""}])


WRITERS = {
    "table": ("data/tables/00_a-b.csv", lambda folder: tables.save_table(xr.Dataset({"x": ("a", [1])}), "00_a-b")),
    "prediction": (
        "data/predictions/00_a-b.csv",
        lambda folder: tables.save_table(xr.Dataset({"x": ("a", [1])}), "00_a-b", "predictions"),
    ),
    "verdict": ("c.json", lambda folder: write_result(claim(folder)[1], folder)),
    "readme": ("README.md", write_readme),
    "figure": ("00_a-b.svg", lambda folder: savefig(plt.figure(), "00_a-b")),
    "second figure": ("00_a-b.png", lambda folder: savefig(plt.figure(), "00_a-b")),
    "benchmark": ("bench.svg", lambda folder: draw(bench_table(), folder / "bench.svg")),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_what_was_there(full, name, monkeypatch, capsys):
    mpl.use("Agg")
    monkeypatch.setattr(tables, "project", lambda: full.path)
    monkeypatch.setenv("GRSD_FIGURES", str(full.path))
    there, write = WRITERS[name]
    there = full.path / there
    there.parent.mkdir(parents=True, exist_ok=True)
    old = f"{MARKS[0]}\n{MARKS[1]}\n".encode()
    there.write_bytes(old)
    full.fill()
    with pytest.raises(OSError, match="No space left on device"):
        write(full.path)
    plt.close("all")
    assert ('"verdict": "holds"' in capsys.readouterr().out) == (name == "verdict"), "a measured verdict is printed"
    assert there.read_bytes() == old
    assert not [path for path in full.path.rglob("*") if UNFINISHED.fullmatch(path.name)]


def test_a_full_disk_loses_no_run(full, capsys):
    full.fill()
    result = grsd.run(SMALL, folder=full.path)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"grsd: train-\w+-\w+: the result is returned, but cannot be kept: .*No space left.*", line)
    xr.testing.assert_identical(result, grsd.run(SMALL, folder=full.path.parent / "elsewhere"))
    assert not list(full.path.glob("*.nc"))


@pytest.mark.long
def test_a_full_disk_stops_no_checkpointing_run(full, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules["grsd.runs.training"], "SECONDS_BETWEEN_CHECKPOINTS", 0.05)
    full.fill()
    result = grsd.run(SMALL, folder=full.path)
    assert result.sizes["time"] == 3
    first, second = capsys.readouterr().err.splitlines()
    assert "no checkpoint can be kept" in first
    assert "the result is returned, but cannot be kept" in second


@pytest.mark.long
def test_a_full_disk_of_the_command(full, capsys):
    """The table is printed where it cannot be written; other seeds' runs, kept before, stay."""
    command = ["run", *OPTIONS, "--workers", "1", "--folder", str(full.path / "runs")]
    assert cli.main([*command, "--seeds", "0"]) == 0
    before = sorted(path.name for path in (full.path / "runs").glob("*.nc"))
    full.fill()
    capsys.readouterr()
    assert cli.main([*command, "--seeds", "0-1", "--table", str(full.path / "t.csv")]) == 1
    said = capsys.readouterr()
    assert re.search(r"^seed 1: not kept, \d+\.\d s$", said.out, re.MULTILINE)
    header, *rows = said.out.splitlines()[2:]
    assert header.startswith("architecture,")
    assert len(rows) == 2
    kept_line, table_line = said.err.splitlines()
    assert "cannot be kept: [Errno 28] No space left on device" in kept_line
    assert table_line == f"grsd run: [Errno 28] No space left on device: '{full.path / 't.csv'}'"
    assert sorted(path.name for path in (full.path / "runs").glob("*.nc")) == before


def small_project(root, source="print(1)"):
    (root / "notebooks").mkdir(parents=True)
    (root / "notebooks" / "profiles.yaml").write_text("test: {}\ndefault: {}\nfull: {}\n")
    notebook = new_notebook(cells=[new_code_cell(source)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, root / "notebooks" / "00_first.ipynb")
    return root


def test_a_full_disk_of_an_executed_notebook(full, tmp_path, capsys):
    root = small_project(tmp_path / "project")
    output = full.path / "out"
    output.mkdir()
    (output / "00_first.ipynb").write_text("old")
    full.fill()
    (run,) = reproduce(where=root, output=output)
    assert run.failure.startswith("its executed copy: [Errno 28] No space left on device")
    assert (output / "00_first.ipynb").read_text() == "old"
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.long
@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on the size of files here")
def test_workers_on_a_full_disk(tmp_path):
    """Files limited to 3000 bytes, in processes of their own: no crash, one line per run, every row of the table."""
    table = ["--folder", tmp_path / "f", "--table", tmp_path / "t.csv"]
    done = subprocess.run(
        [sys.executable, "-m", "grsd.cli", "run", *OPTIONS, "--seeds", "0-2", "--workers", "2", *table],
        capture_output=True, text=True, check=False, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 3, done.stderr
    assert all("cannot be kept: [Errno 27] File too large" in line for line in lines)
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 4
