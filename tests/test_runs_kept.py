"""Their files, resuming and running many: on experiments of a fraction of a second."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import planted
import pytest
import torch
import xarray as xr
from test_specs import SMALL

import grsd
from grsd import Spec, cli
from grsd.flow import Descent, StepUnderflow
from grsd.runs import compute as compute_module
from grsd.runs import fingerprint as fingerprint_module
from grsd.runs import members, obtain, summary, train
from grsd.runs.compute import identity
from grsd.runs.fingerprint import PACKAGE, fingerprint, sources
from grsd.runs.netcdf import to_bytes
from grsd.runs.store import Scratch, load, runs_folder, save

train_module = sys.modules["grsd.runs.training"]
OPTIONS = ["--width", "8", "--depth", "2", "--samples", "8", "--task", "parity", "--shell-widths", "1,2"]
OPTIONS += ["--times", "0.1,5,3", "--threads", "1"]
MARKS = {"spec": "a"}
DRAWS = [{"exponent": 0.5, "draws": 3, "seed": seed} for seed in range(3)]


@pytest.fixture
def computed(monkeypatch):
    """The specs computed in this process, in order."""
    specs, original = [], compute_module._computed

    def counted(spec, *rest):
        specs.append(spec)
        return original(spec, *rest)

    monkeypatch.setattr(compute_module, "_computed", counted)
    return specs


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """(folder, file, dataset) of SMALL, computed without interruption."""
    folder = tmp_path_factory.mktemp("kept")
    path, dataset, seconds = obtain(SMALL, folder=folder)
    assert seconds > 0
    return folder, path, dataset


def names(folder):
    """A name holds the digest of the bytes: equal names are equal files."""
    return sorted(path.name for path in folder.glob("*.nc"))


def stored(folder, stem, dataset, marks):
    folder.mkdir(exist_ok=True)
    return save(folder, stem, to_bytes(dataset.assign_attrs(marks)))


def plain_attributes(attributes):
    return {name: np.asarray(value).tolist() for name, value in attributes.items()}


def copied(kept, folder):
    shutil.copy(kept[1], folder)
    return folder / kept[1].name


def test_run_is_the_shell_history(kept):
    """Against the library called by hand, up to the rounding of another order of sums; both widths."""
    _, _, result = kept
    data = grsd.digits(8, task="parity")
    network = grsd.Perceptron(64, 1, width=8, depth=2, residual=True)
    top = torch.linalg.eigvalsh(grsd.tangent_kernel(network, data.inputs))[-1].item()
    flow = grsd.gradient_flow(network, data.inputs, data.targets, grsd.log_times(0.1 / top, 5 / top, 3))
    assert float(result.start_largest_eigenvalue) == pytest.approx(top, rel=1e-12)
    assert float(result.start_loss) > float(result.loss[0]) > float(result.loss[-1])
    for width in SMALL.shell_widths:
        part, by_hand = grsd.at_width(result, width), grsd.shell_history(flow, grsd.LogShells(width, 0.2))
        assert set(part.variables) == {*by_hand.variables, "start_loss", "start_largest_eigenvalue"}
        for name in by_hand.variables:
            size = 1e-10 * np.abs(np.nan_to_num(by_hand[name].values, posinf=0, neginf=0)).max()
            np.testing.assert_allclose(part[name], by_hand[name], rtol=1e-7, atol=size, err_msg=name)
            assert part[name].dims == by_hand[name].dims
            assert plain_attributes(part[name].attrs) == plain_attributes(by_hand[name].attrs)
        assert part.attrs["shell_width"] == width
    merged, coarse = grsd.merge_shells(grsd.at_width(result, 1.0), 2), grsd.at_width(result, 2.0)
    assert np.allclose(merged.energy.sum("shell"), coarse.energy.sum("shell"))
    assert Spec.from_json(result.attrs["spec"]) == SMALL
    assert "torch 2" in result.attrs["versions"]
    with pytest.raises(ValueError, match=r"at_width\(width=...\): expected one of 1.0, 2.0, got 0.5"):
        grsd.at_width(result, 0.5)


def test_float32_flow(tmp_path):
    result = grsd.run(replace(SMALL, dtype="float32"), folder=tmp_path)
    assert result.energy.dtype == np.float32
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
    asking = [threading.Thread(target=lambda: results.append(obtain(SMALL, folder=tmp_path))) for _ in range(2)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert computed == [SMALL]
    assert sorted(seconds is None for _, _, seconds in results) == [False, True]
    assert "another process is computing it; waiting" in capsys.readouterr().err


def test_fingerprint_covers_what_computes(tmp_path, monkeypatch):
    """The function's file and, directly or not, what it imports of grsd; one statement more in one is other code."""
    covered = {path.relative_to(PACKAGE).as_posix() for path in sources(PACKAGE / "runs" / "training.py")}
    assert {
        "flow/chebyshev.py", "kernel/products.py", "jacobian/rows.py", "decomposition.py", "shells/budget.py",
        "networks/registry.py", "datasets/registry.py",
        "runs/training.py", "runs/history.py", "runs/spec.py", "runs/plain.py",
    } <= covered  # fmt: skip
    assert not {"cli.py", "evidence/claim.py", "runs/parallel.py", "runs/compute.py"} & covered
    assert [path.name for path in sources(Path(planted.__file__))] == ["planted.py", "values.py"]
    script = tmp_path / "script.py"
    script.write_text("import grsd.decomposition\nfrom grsd.runs import fingerprint\nfrom grsd import nothing\n")
    assert {"decomposition.py", "fingerprint.py", "cli.py", "__init__.py"} - {
        path.name for path in sources(script)
    } == {"cli.py"}

    package = tmp_path / "grsd"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprint_module, "PACKAGE", package)
    monkeypatch.setattr(fingerprint_module, "_file", lambda function: package / "runs" / "training.py")
    monkeypatch.setattr(fingerprint_module, "sources", lambda start: sources(start, package))
    found = fingerprint(train)
    (package / "plotting.py").write_text("")
    assert fingerprint(train) == found
    with (package / "flow" / "chebyshev.py").open("a") as file:
        file.write("\n# a comment\n")
    assert fingerprint(train) == found
    with (package / "flow" / "chebyshev.py").open("a") as file:
        file.write("MORE = 1\n")
    with pytest.raises(RuntimeError, match=r"^run\(spec\): .*chebyshev.py has changed since it was imported; restart"):
        fingerprint(train)
    monkeypatch.setattr(fingerprint_module, "_imported", {})
    assert fingerprint(train) != found
    monkeypatch.undo()
    assert fingerprint(train) == found, "the same code elsewhere"
    assert len({fingerprint(getattr(planted, name)) for name in ("planted", "wrong")}) == 2


def test_other_code_computes_again(kept, tmp_path, computed, monkeypatch):
    path = copied(kept, tmp_path)
    monkeypatch.setattr(compute_module, "fingerprint", lambda *_: "0" * 64)
    result = grsd.run(SMALL, folder=tmp_path)
    assert computed == [SMALL]
    assert result.attrs["code"] == "0" * 64
    assert path.is_file()
    assert len(names(tmp_path)) == 2


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_damage_is_found_at_every_place(kept, tmp_path, damage, capsys):
    _, original, _ = kept
    payload = original.read_bytes()
    stem, marks = identity(SMALL, train)
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
    stem, marks = identity(SMALL, train)
    foreign = {
        "other": stored(tmp_path / "a", stem, kept[2], {**marks, "spec": Spec().to_json()}),
        "nobody": stored(tmp_path / "b", stem, xr.Dataset({"x": 1}), {}),
    }
    for name, reason in {"other": "its spec is not the one asked for", "nobody": "its function is not"}.items():
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
    first = stored(tmp_path, "stem", xr.Dataset({"x": 1}), MARKS)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("grsd.support.files.os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path, "stem", xr.Dataset({"x": 2}), MARKS)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [first]
    assert load(tmp_path, "stem", MARKS)[1].x == 1
    second = stored(tmp_path, "stem", xr.Dataset({"x": 2}), MARKS)
    assert list(tmp_path.iterdir()) == [second]
    assert stored(tmp_path / "again", "stem", xr.Dataset({"x": 2}), MARKS).name == second.name


@pytest.mark.parametrize("saves", [1, 9])
def test_interrupted_anywhere_ends_with_the_same_bytes(kept, tmp_path, monkeypatch, saves):
    """A checkpoint at every step, stopped after so many of its files: at the first step and after a snapshot."""
    original, counted, states = Scratch.save, [], []

    def interrupting(scratch, part, dataset):
        original(scratch, part, dataset)
        counted.append(part)
        if len(counted) == saves:
            raise KeyboardInterrupt

    begin = Descent.begin

    def watched(descent, state):
        states.append(state)
        return begin(descent, state)

    monkeypatch.setattr(train_module, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(Scratch, "save", interrupting)
    monkeypatch.setattr(Descent, "begin", watched)
    with pytest.raises(KeyboardInterrupt):
        grsd.run(SMALL, folder=tmp_path)
    assert names(tmp_path) == []
    monkeypatch.setattr(train_module, "SECONDS_BETWEEN_CHECKPOINTS", np.inf)
    grsd.run(SMALL, folder=tmp_path)
    assert states[0] is None
    assert 0 < states[1]["accepted"] <= saves
    budgets = {part for part in counted if part.startswith("budget-")}
    assert len(states[1]["row_loss"]) == len(budgets) // 2
    assert bool(budgets) == (saves > 1)
    assert names(tmp_path) == [kept[1].name]


def test_damaged_checkpoint_starts_over(kept, tmp_path, monkeypatch, capsys):
    budgets, calls = train_module.spectrum_parts, []

    def interrupting(*arguments):
        calls.append(1)
        monkeypatch.setattr(train_module, "SECONDS_BETWEEN_CHECKPOINTS", 0.0 if len(calls) == 1 else np.inf)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return budgets(*arguments)

    monkeypatch.setattr(train_module, "spectrum_parts", interrupting)
    with pytest.raises(KeyboardInterrupt):
        grsd.run(SMALL, folder=tmp_path)
    (part,) = (tmp_path / ".work").glob("*/budget-0-0-*.nc")
    part.write_bytes(part.read_bytes()[:-1])
    grsd.run(SMALL, folder=tmp_path)
    assert len(calls) == 2 + 3
    assert f"{part}: its bytes are not" in capsys.readouterr().err
    assert names(tmp_path) == [kept[1].name]


def test_any_function_of_a_spec(tmp_path, computed):
    """In one process and, the same bytes, in two, where one spec is asked of both."""
    results = grsd.ensemble(DRAWS, planted.planted, workers=1, threads=1, folder=tmp_path / "one")
    for spec, result in zip(DRAWS, results, strict=True):
        assert np.array_equal(result.draw, np.random.default_rng(spec["seed"]).normal(size=3))
        assert result.attrs["function"] == "planted"
        assert "torch 2" in result.attrs["versions"]
        xr.testing.assert_identical(result, grsd.run(spec, planted.planted, folder=tmp_path / "one"))
    assert computed == DRAWS
    found = dict(members([*DRAWS, DRAWS[0]], planted.planted, 2, 1, tmp_path / "two"))
    assert [member.failure for member in found.values()] == [None] * 4
    assert sorted(found[index].seconds is not None for index in (0, 3)) == [False, True]
    assert names(tmp_path / "one") == names(tmp_path / "two")
    for index, result in enumerate(results):
        xr.testing.assert_identical(found[index].result, result)
    assert os.environ["OMP_NUM_THREADS"] == str(torch.get_num_threads())
    header, *rows = summary(DRAWS, [results[0], None, results[2]]).splitlines()
    assert header == "exponent,draws,seed,mean"
    assert rows == [f"0.5,3,{seed},{results[seed]['mean'].item()}" for seed in (0, 2)]


def test_any_function_can_go_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        grsd.run({"seed": 5}, planted.resumed, folder=tmp_path)
    assert grsd.run({"seed": 5}, planted.resumed, folder=tmp_path)["whole"] == 1
    assert not list((tmp_path / ".work").glob("*/*"))


def test_a_failing_member_is_reported_and_the_others_kept(tmp_path, monkeypatch, capsys):
    advance = Descent.advance

    def failing(descent, *arguments):
        if descent._attributes["seed"] == 1:
            raise StepUnderflow("the step fell under 1e-14 of the time reached, t = 1")
        return advance(descent, *arguments)

    monkeypatch.setattr(Descent, "advance", failing)
    with pytest.raises(
        grsd.EnsembleError, match=r"1 of 2 runs failed, the others are kept: Spec\(.*seed=1\)"
    ) as caught:
        grsd.ensemble(SMALL.with_seeds([0, 1]), workers=1, threads=1, folder=tmp_path)
    assert "the step fell under" in str(caught.value)
    assert caught.value.results[1] is None
    assert caught.value.results[0].attrs["seed"] == 0
    assert [member.spec.seed for member in caught.value.failures] == [1]
    assert cli.main(["run", *OPTIONS, "--seeds", "0,1", "--workers", "1", "--folder", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert re.fullmatch(r"seed 0: \S+\.nc, already there\n", said.out)
    assert re.fullmatch(r"grsd run: Spec\(.*seed=1\): RuntimeError: run\(.*\): the step fell under .*\n", said.err)


def test_refused_calls(tmp_path, as_users_run_it):
    with pytest.raises(TypeError, match=r"run\(spec\): expected a grsd.Spec, got dict; a mapping needs its function"):
        grsd.ensemble([SMALL, {}], folder=tmp_path)
    for function in (lambda spec: xr.Dataset(), len, "train"):
        with pytest.raises(TypeError, match=r"run\(spec, function\): expected a function at the top level of a file"):
            grsd.run({}, function, folder=tmp_path)
    with pytest.raises(TypeError, match=r"expected wrong to return an xarray\.Dataset, it returned dict"):
        grsd.run({"seed": 1}, planted.wrong, folder=tmp_path)
    for name in ("workers", "threads"):
        with pytest.raises(ValueError, match=rf"ensemble\({name}=...\): expected a whole number of at least 1"):
            grsd.ensemble([SMALL], folder=tmp_path, **{name: 0})
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"run\(device='cuda'\): no CUDA device here"):
            grsd.run(replace(SMALL, device="cuda"), folder=tmp_path)


@pytest.mark.long
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on this system")
def test_killed_in_the_middle_and_run_again(tmp_path, capsys):
    """The command killed with work done and work under way, then the same command (in this process, to be quick), and
    elsewhere without interruption: only what was lost is computed again, and the bytes are the same."""
    lost, whole = tmp_path / "lost", tmp_path / "whole"
    command = ["run", *OPTIONS, "--seeds", "0-2", "--workers"]
    here, there = (["--folder", str(folder), "--table", f"{folder}.csv"] for folder in (lost, whole))
    process = subprocess.Popen(
        [sys.executable, "-m", "grsd.cli", *command, "2", *here],
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
    assert 0 < len(finished) < 3, "killed in the middle"

    assert cli.main([*command, "1", *here]) == 0
    said = capsys.readouterr().out
    assert len(re.findall(r"seed \d: \S+\.nc, already there\n", said)) == len(finished)
    assert len(re.findall(r"seed \d: \S+\.nc, \d+\.\d s\n", said)) == 3 - len(finished)
    assert cli.main([*command, "1", *there]) == 0
    assert set(finished) < set(names(lost))
    assert names(lost) == names(whole)
    assert (tmp_path / "lost.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_ensemble_is_run_for_each(kept, tmp_path, capsys):
    copied(kept, tmp_path)
    specs = SMALL.with_seeds([1, 0])
    threads = torch.get_num_threads()
    results = grsd.ensemble(specs, workers=1, threads=1, folder=tmp_path, progress=True)
    assert torch.get_num_threads() == threads
    assert [result.attrs["seed"] for result in results] == [1, 0]
    for spec, result in zip(specs, results, strict=True):
        xr.testing.assert_identical(result, grsd.run(spec, folder=tmp_path))
    assert "ensemble" in capsys.readouterr().err
