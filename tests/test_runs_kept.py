"""Specs, their files, resuming and running many: on experiments of a second or less."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import grsd
import grsd.runs.compute as compute_module
from grsd import Spec, cli
from grsd.flow import StepUnderflow
from grsd.runs import members, obtain
from grsd.runs.fingerprint import PACKAGE, fingerprint, sources
from grsd.runs.store import load, runs_folder, save

SMALL = Spec(width=8, depth=2, samples=8, task="parity", times=(0.1, 5, 3), shell_widths=(1.0, 2.0))
OPTIONS = ["--width", "8", "--depth", "2", "--samples", "8", "--task", "parity", "--shell-widths", "1,2"]
MARKS = {"spec": "a"}
OTHER = {
    "architecture": "plain", "width": 9, "depth": 3, "activation": "erf", "weight_scale": 1.5, "branch_scale": 0.3,
    "task": "one-hot", "samples": 9, "data_seed": 1, "times": (0.1, 5.0, 4), "tolerance": 1e-3,
    "shell_widths": (1.0,), "smoothing": 0.1, "seed": 1, "device": "cuda", "dtype": "float32",
}  # fmt: skip


@pytest.fixture
def computed(monkeypatch):
    """The specs computed in this process, in order."""
    specs, original = [], compute_module.compute

    def counted(spec, *rest):
        specs.append(spec)
        return original(spec, *rest)

    monkeypatch.setattr(compute_module, "compute", counted)
    return specs


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """(folder, file, dataset) of SMALL, computed without interruption."""
    folder = tmp_path_factory.mktemp("kept")
    path, dataset, seconds = obtain(SMALL, folder)
    assert seconds > 0
    return folder, path, dataset


def names(folder):
    """A name holds the digest of the bytes: equal names are equal files."""
    return sorted(path.name for path in folder.glob("*.nc"))


def plain(attributes):
    return {name: np.asarray(value).tolist() for name, value in attributes.items()}


def copied(kept, folder):
    shutil.copy(kept[1], folder)
    return folder / kept[1].name


@pytest.mark.usefixtures("as_users_run_it")
def test_key_is_the_same_everywhere():
    """Pinned: it must not depend on process, machine or version. It changes when a field is added, and only then."""
    assert Spec().key == "d0948831adcaaecf344a0b1a48472aa0715a35f38ea76c3faab1cbf166cd39fe"
    assert Spec(times=[0.1, 100, 10], weight_scale=1, shell_widths=[0.5]) == Spec()
    assert Spec(times=[0.1, 100, 10], weight_scale=1, shell_widths=[0.5]).key == Spec().key
    assert Spec(weight_scale=np.nextafter(1.0, 2.0).item()).key != Spec().key


def test_every_field_is_in_the_key():
    assert {field.name for field in fields(Spec)} - OTHER.keys() == {"data"}, "the one data set so far"
    keys = {replace(SMALL, **{name: value}).key for name, value in OTHER.items()}
    assert len(keys | {SMALL.key}) == len(OTHER) + 1


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
        ({"architecture": "conv"}, r"Spec\(architecture=...\): expected one of plain, residual, got 'conv'"),
        ({"width": 0}, r"Spec\(width=...\): expected a whole number of at least 1, got 0"),
        ({"width": 8.0}, r"Spec\(width=...\): expected a whole number"),
        ({"depth": True}, r"Spec\(depth=...\): expected a whole number"),
        ({"seed": -1}, r"Spec\(seed=...\): expected a whole number of at least 0"),
        ({"seed": 2**64}, r"Spec\(seed=...\): expected less than 2\^63"),
        ({"samples": 1798}, r"Spec\(samples=...\): digits has 1797 samples, got 1798"),
        ({"weight_scale": None}, r"Spec\(weight_scale=...\): expected a positive finite number"),
        ({"tolerance": float("nan")}, r"Spec\(tolerance=...\): expected a positive finite number"),
        ({"smoothing": "wide"}, r"Spec\(smoothing=...\): expected a positive finite number"),
        ({"architecture": "plain", "branch_scale": 0.5}, r"Spec\(branch_scale=...\): only the residual"),
        ({"times": (1.0, 2.0)}, r"Spec\(times=...\): expected \(first, last, count\)"),
        ({"times": (2.0, 1.0, 3)}, r"Spec\(times=...\): expected first < last"),
        ({"times": (1.0, 2.0, 1)}, r"Spec\(times=...\): expected a whole number of at least 2"),
        ({"shell_widths": ()}, r"Spec\(shell_widths=...\): expected one width or more"),
        ({"shell_widths": 0.5}, r"Spec\(shell_widths=...\): expected one width or more"),
        ({"shell_widths": (1, 1.0)}, r"Spec\(shell_widths=...\): a width stands twice"),
        ({"device": "mps"}, r"Spec\(device=...\): expected one of auto, cpu, cuda"),
        ({"dtype": torch.float64}, r"Spec\(dtype=...\): expected one of float64, float32"),
        ({"task": ["parity"]}, r"Spec\(task=...\): expected one of one-hot, parity"),
    ],
)
def test_spec_refused(values, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        Spec(**values)
    assert "\n" not in str(caught.value)


def test_run_is_the_shell_history(kept):
    """Against the library called by hand; both widths."""
    _, _, result = kept
    data = grsd.digits(8, task="parity")
    network = grsd.Perceptron(64, 1, width=8, depth=2, residual=True)
    top = torch.linalg.eigvalsh(grsd.tangent_kernel(network, data.inputs))[-1].item()
    flow = grsd.gradient_flow(network, data.inputs, data.targets, grsd.log_times(0.1 / top, 5 / top, 3))
    assert float(result.start_largest_eigenvalue) == top
    assert float(result.start_loss) > float(result.loss[0]) > float(result.loss[-1])
    for width in SMALL.shell_widths:
        part, by_hand = grsd.at_width(result, width), grsd.shell_history(flow, grsd.LogShells(width, 0.2))
        assert set(part.variables) == {*by_hand.variables, "start_loss", "start_largest_eigenvalue"}
        for name in by_hand.variables:
            assert np.array_equal(part[name], by_hand[name], equal_nan=True), name
            assert part[name].dims == by_hand[name].dims
            assert plain(part[name].attrs) == plain(by_hand[name].attrs)
        assert part.attrs["shell_width"] == width
    merged, coarse = grsd.merge_shells(grsd.at_width(result, 1.0), 2), grsd.at_width(result, 2.0)
    assert np.allclose(merged.energy.sum("shell"), coarse.energy.sum("shell"))
    assert Spec.from_json(result.attrs["spec"]) == SMALL
    assert "torch 2" in result.attrs["versions"]
    with pytest.raises(ValueError, match=r"at_width\(width=...\): expected one of 1.0, 2.0, got 0.5"):
        grsd.at_width(result, 0.5)


def test_float32_flow(tmp_path):
    result = grsd.run(replace(SMALL, dtype="float32"), folder=tmp_path)
    assert result.energy.dtype == np.float64
    assert np.allclose(result.energy.sum("shell"), result.loss * 8, rtol=1e-5)


def test_computed_once(tmp_path, computed, monkeypatch):
    monkeypatch.setenv("GRSD_RUNS", str(tmp_path))
    assert runs_folder() == tmp_path
    first, second = grsd.run(SMALL), grsd.run(Spec.from_json(SMALL.to_json()))
    assert computed == [SMALL]
    xr.testing.assert_identical(first, second)
    assert len(names(tmp_path)) == 1
    assert not list((tmp_path / ".work").glob("*/*")), "nothing unfinished is left"
    monkeypatch.delenv("GRSD_RUNS")
    assert runs_folder() == grsd.project() / "data" / "runs"


def test_asked_twice_at_once(tmp_path, computed, capsys):
    results = []
    asking = [threading.Thread(target=lambda: results.append(obtain(SMALL, tmp_path))) for _ in range(2)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert computed == [SMALL]
    assert sorted(seconds is None for _, _, seconds in results) == [False, True]
    assert "another process is computing it; waiting" in capsys.readouterr().err


def test_other_code_computes_again(kept, tmp_path, computed, monkeypatch):
    package = tmp_path / "grsd"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    here = sources("runs.compute")
    there = [package / path.relative_to(PACKAGE) for path in here]
    assert {"flow.py", "kernel.py", "tangents.py", "spectrum.py", "shells.py", "networks.py", "datasets.py",
            "compute.py", "history.py", "spec.py", "store.py"} <= {path.name for path in here}  # fmt: skip
    assert sources("runs.compute", package) == there
    assert fingerprint(there, package) == fingerprint(here) == compute_module.CODE
    with (package / "flow.py").open("a") as file:
        file.write("\n")
    other = fingerprint(there, package)
    assert other != compute_module.CODE

    path = copied(kept, tmp_path)
    monkeypatch.setattr(compute_module, "fingerprint", lambda files: other)
    with pytest.raises(RuntimeError, match=r"^run\(spec\): the source of grsd has changed since it was imported"):
        grsd.run(SMALL, folder=tmp_path)
    monkeypatch.setattr(compute_module, "CODE", other)
    result = grsd.run(SMALL, folder=tmp_path)
    assert computed == [SMALL]
    assert result.attrs["code"] == other
    assert path.is_file()
    assert len(names(tmp_path)) == 2


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_damage_is_found_at_every_place(kept, tmp_path, damage, capsys):
    _, original, _ = kept
    payload = original.read_bytes()
    stem = original.stem.rsplit("-", 1)[0]
    marks = {"spec": SMALL.to_json(), "code": compute_module.CODE, "part": "result"}
    path = copied(kept, tmp_path)
    assert load(tmp_path, stem, marks) is not None
    places = np.linspace(0, len(payload) - 1, 50).astype(int).tolist()
    for place in places:
        changed = payload[place] ^ (1 << place % 8)
        bad = payload[:place] + (bytes([changed]) + payload[place + 1 :] if damage == "flip" else b"")
        path.write_bytes(bad)
        assert load(tmp_path, stem, marks) is None, place
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 50
    assert set(said) == {
        f"grsd: {path}: its bytes are not those its name promises (truncated, changed or foreign); it is not used"
    }


def test_damaged_is_computed_again(kept, tmp_path, computed, capsys):
    path = copied(kept, tmp_path)
    payload = bytearray(path.read_bytes())
    payload[len(payload) // 2] ^= 1
    path.write_bytes(payload)
    result = grsd.run(SMALL, folder=tmp_path)
    assert computed == [SMALL]
    assert capsys.readouterr().err.count("truncated, changed or foreign") == 2
    assert names(tmp_path) == [kept[1].name]
    assert path.read_bytes() == kept[1].read_bytes()
    xr.testing.assert_identical(result, kept[2])


def test_foreign_files_are_refused(kept, tmp_path, capsys):
    """Sound files under this run's name: another experiment's, nobody's, not netCDF at all, without a digest."""
    stem = kept[1].stem.rsplit("-", 1)[0]
    marks = {"spec": SMALL.to_json(), "code": compute_module.CODE, "part": "result"}
    foreign = {
        "other": save(tmp_path / "a", stem, kept[2], {**marks, "spec": Spec().to_json()}),
        "nobody": save(tmp_path / "b", stem, xr.Dataset({"x": 1}), {}),
    }
    for name, reason in {"other": "its spec is not the one asked for", "nobody": "its spec is not"}.items():
        assert load(foreign[name].parent, stem, marks) is None
        assert reason in capsys.readouterr().err
    text = tmp_path / f"{stem}-{'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'}.nc"
    text.write_bytes(b"")
    assert load(tmp_path, stem, marks) is None
    assert "it cannot be read as netCDF" in capsys.readouterr().err
    text.rename(tmp_path / f"{stem}-.nc")
    shutil.copy(kept[1], tmp_path / f"{stem}-.nc")
    assert load(tmp_path, stem, marks) is None
    assert "its bytes are not those its name promises" in capsys.readouterr().err


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    first = save(tmp_path, "stem", xr.Dataset({"x": 1}), MARKS)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("grsd.runs.store.os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, "stem", xr.Dataset({"x": 2}), MARKS)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [first]
    assert load(tmp_path, "stem", MARKS)[1].x == 1
    second = save(tmp_path, "stem", xr.Dataset({"x": 2}), MARKS)
    assert list(tmp_path.iterdir()) == [second]
    assert save(tmp_path / "again", "stem", xr.Dataset({"x": 2}), MARKS).name == second.name


@pytest.mark.parametrize("saves", [1, 12, 30])
def test_interrupted_anywhere_ends_with_the_same_bytes(kept, tmp_path, monkeypatch, saves):
    """A checkpoint at every step, stopped after so many of its files: at the first step and between snapshots."""
    original, descent = compute_module.save, compute_module.Descent
    counted, states = [], []

    def interrupting(folder, stem, dataset, marks):
        path = original(folder, stem, dataset, marks)
        counted.append(stem)
        if len(counted) == saves:
            raise KeyboardInterrupt
        return path

    def watched(*arguments, state=None, **options):
        states.append(state)
        return descent(*arguments, state=state, **options)

    monkeypatch.setattr(compute_module, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(compute_module, "save", interrupting)
    monkeypatch.setattr(compute_module, "Descent", watched)
    with pytest.raises(KeyboardInterrupt):
        grsd.run(SMALL, folder=tmp_path)
    assert names(tmp_path) == []
    monkeypatch.setattr(compute_module, "SECONDS_BETWEEN_CHECKPOINTS", np.inf)
    grsd.run(SMALL, folder=tmp_path)
    assert states[0] is None
    assert 0 < states[1]["accepted"] <= saves
    assert len(states[1]["row_loss"]) == len({stem for stem in counted if stem.startswith("budget-")}) // 2
    assert names(tmp_path) == [kept[1].name]


def test_damaged_checkpoint_starts_over(kept, tmp_path, monkeypatch, capsys):
    budgets = compute_module.snapshot_budgets
    calls = []

    def interrupting(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return budgets(*arguments)

    monkeypatch.setattr(compute_module, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(compute_module, "snapshot_budgets", interrupting)
    with pytest.raises(KeyboardInterrupt):
        grsd.run(SMALL, folder=tmp_path)
    monkeypatch.setattr(compute_module, "SECONDS_BETWEEN_CHECKPOINTS", np.inf)
    (part,) = (tmp_path / ".work").glob("*/budget-0-0-*.nc")
    part.write_bytes(part.read_bytes()[:-1])
    grsd.run(SMALL, folder=tmp_path)
    assert len(calls) == 2 + 3
    assert f"{part}: its bytes are not" in capsys.readouterr().err
    assert names(tmp_path) == [kept[1].name]


def test_a_failing_member_is_reported_and_the_others_kept(tmp_path, monkeypatch, capsys):
    snapshot = compute_module.Descent.snapshot

    def failing(descent, *arguments):
        if descent._attributes["seed"] == 1:
            raise StepUnderflow("the step fell under 1e-14 of the time reached, t = 1")
        return snapshot(descent, *arguments)

    monkeypatch.setattr(compute_module.Descent, "snapshot", failing)
    with pytest.raises(
        grsd.EnsembleError, match=r"1 of 2 runs failed, the others are kept: Spec\(.*seed=1\)"
    ) as caught:
        grsd.ensemble(SMALL.with_seeds([0, 1]), workers=1, threads=1, folder=tmp_path)
    assert "the step fell under" in str(caught.value)
    assert caught.value.results[1] is None
    assert caught.value.results[0].attrs["seed"] == 0
    assert [member.spec.seed for member in caught.value.failures] == [1]
    assert (
        cli.main(
            [
                "run",
                *OPTIONS,
                "--times",
                "0.1,5,3",
                "--seeds",
                "0,1",
                "--workers",
                "1",
                "--threads",
                "1",
                "--folder",
                str(tmp_path),
            ]
        )
        == 1
    )
    said = capsys.readouterr()
    assert re.fullmatch(r"seed 0: \S+\.nc, already there\n", said.out)
    assert re.fullmatch(r"grsd run: Spec\(.*seed=1\): RuntimeError: run\(.*\): the step fell under .*\n", said.err)


def test_refused_calls(tmp_path, as_users_run_it):
    with pytest.raises(TypeError, match=r"run\(spec\): expected a grsd.Spec, got dict"):
        grsd.run({})
    with pytest.raises(TypeError, match=r"ensemble\(specs, ...\): expected a sequence of grsd.Spec"):
        grsd.ensemble([{}])
    for name in ("workers", "threads"):
        with pytest.raises(ValueError, match=rf"ensemble\({name}=...\): expected a whole number of at least 1"):
            grsd.ensemble([SMALL], folder=tmp_path, **{name: 0})
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"run\(device='cuda'\): no CUDA device here"):
            grsd.run(replace(SMALL, device="cuda"), folder=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--width", "x"], "grsd run: argument --width: expected a whole number, got 'x' (see"),
        (["--width", "0"], "grsd run: --width: expected a whole number of at least 1, got 0"),
        (["--times", "1,2"], "grsd run: argument --times: expected 3 numbers separated by commas, got '1,2'"),
        (["--shell-widths", "1,1"], "grsd run: --shell-widths: a width stands twice"),
        (["--branch-scale", "none", "--smoothing", "-1"], "grsd run: --smoothing: expected a positive finite number"),
        (["--architecture", "conv"], "grsd run: --architecture: expected one of plain, residual, got 'conv'"),
        (["--seeds", "3-1"], "grsd run: argument --seeds: expected up to 100000 seeds such as 0-7"),
        (["--seeds", "0-99999999999"], "grsd run: argument --seeds: expected up to 100000 seeds"),
        (["--seeds", "1,0-2"], "grsd run: argument --seeds: a seed stands twice"),
        (["--seed", "1", "--seeds", "2"], "grsd run: --seed or --seeds, not both"),
        (["--workers", "0"], "grsd run: --workers: expected a whole number of at least 1"),
        (["--table", "nowhere/t.csv"], "grsd run: --table: there is no folder"),
        (["--dpeth", "3"], "grsd: unrecognized arguments: --dpeth 3"),
    ],
)
def test_command_refuses_in_one_line(tmp_path, arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = cli.main(["run", "--folder", "out", *arguments])
    except SystemExit as stopped:
        code = stopped.code
    said = capsys.readouterr()
    assert code == 2
    assert said.out == ""
    assert said.err.startswith(message)
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on this system")
def test_killed_in_the_middle_and_run_again(tmp_path, capsys):
    """The command killed with work done and work under way. Then the rest in other processes, one spec asked of both of
    them; the same command; and all of it in this process without interruption, elsewhere: the same bytes."""
    lost, whole = tmp_path / "lost", tmp_path / "whole"
    arguments = ["run", *OPTIONS, "--times", "0.1,5,3", "--seeds", "0-3", "--workers", "2", "--threads", "1"]
    command = [*arguments, "--folder", str(lost), "--table", str(lost) + ".csv"]
    process = subprocess.Popen(
        [sys.executable, "-m", "grsd.cli", *command],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(grsd.__file__).parents[1])},
    )
    deadline = time.monotonic() + 120
    while not names(lost) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (tmp_path / "lost.csv").exists()
    finished = names(lost)
    assert 0 < len(finished) < 4, "killed in the middle"

    specs = SMALL.with_seeds([3, 3, 0, 1, 2])
    found = dict(members(specs, 2, 1, lost))
    assert [member.failure for member in found.values()] == [None] * 5
    assert sorted(found[index].seconds is not None for index in (0, 1)) == [False, True]
    again = {member.path.name for member in found.values() if member.seconds is not None}
    assert again == set(names(lost)) - set(finished), "what was lost is computed, and only that"
    assert cli.main(command) == 0
    assert re.fullmatch(r"(seed \d: \S+\.nc, already there\n){4}", capsys.readouterr().out)

    assert cli.main([*arguments, "--workers", "1", "--folder", str(whole), "--table", str(whole) + ".csv"]) == 0
    assert names(lost) == names(whole)
    assert (tmp_path / "lost.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert {name[:16] for name in names(lost)} == {spec.key[:16] for spec in specs}


def test_ensemble_is_run_for_each(kept, tmp_path, capsys):
    copied(kept, tmp_path)
    specs = SMALL.with_seeds([1, 0])
    threads = torch.get_num_threads()
    results = grsd.ensemble(specs, 1, True, threads=1, folder=tmp_path)
    assert torch.get_num_threads() == threads
    assert [result.attrs["seed"] for result in results] == [1, 0]
    for spec, result in zip(specs, results, strict=True):
        xr.testing.assert_identical(result, grsd.run(spec, folder=tmp_path))
    assert "ensemble" in capsys.readouterr().err
