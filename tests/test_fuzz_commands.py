"""Careless commands on damaged projects: one line and an exit code, never a traceback. What computes is replaced."""

import json
import os
import random
import shutil

import pytest

import grsd.reproduce
import grsd.studies.confirm
from grsd import cli
from grsd.bench import measure, monitor
from grsd.evidence import claims, judge, write_result
from grsd.runs import parallel

GOOD = {
    "--only": ["00", "01_second"], "--profile": ["test", "default"], "--set": ["depth=3", "divisor=2", "steps=[1, 2]"],
    "--device": ["cpu", "auto"], "--output": ["out", "new/newer"], "--project": ["project"], "--confirm": ["a"],
    "--threads": ["1", "2"], "--workers": ["1"], "--folder": ["out", "new/newer"], "--neural-tangents": ["false"],
    "--port": ["8888"], "--architecture": ["plain", "residual"], "--width": ["8"], "--depth": ["2"],
    "--activation": ["relu"], "--weight-scale": ["0.5"], "--branch-scale": ["none", "0.1"],
    "--data": ["digits", "mnist"], "--task": ["parity"], "--samples": ["9"], "--data-seed": ["1"],
    "--times": ["0.1,10,3"], "--tolerance": ["1e-3"],
    "--shell-widths": ["0.5", "1,2"], "--smoothing": ["0.1"], "--seed": ["3"], "--dtype": ["float32"],
    "--seeds": ["0-7", "0,3,5-6"], "--table": ["t.csv"], "--check": ["a"], "--notebook": ["0", "00_first"],
    "--from": ["project", "out"], "--cores": ["2"], "--gpus": ["1"], "--jobs": ["3"], "--gpu": ["H100"],
    "--slurm": ["project", "out"],
}  # fmt: skip
COMMANDS = {
    "reproduce": ["--only", "--profile", "--set", "--device", "--output", "--project", "--refresh"],
    "claims": ["--confirm", "--forecast", "--readme", "--project", "--check", "--notebook"],
    "data": ["--show", "--project", "--from"],
    "bench": ["--large", "--monitor", "--gpt2", "--device", "--threads", "--folder", "--neural-tangents"],
    "lab": ["--port", "--no-browser", "--project"],
    "workflow": [
        "--only", "--profile", "--set", "--device", "--cores", "--gpus", "--slurm", "--dry-run", "--output", "--project"
    ],
    "scale": ["--only", "--profile", "--set", "--jobs", "--gpu", "--project"],
    "run": [
        "--architecture", "--width", "--depth", "--activation", "--weight-scale", "--branch-scale", "--data", "--task",
        "--samples", "--data-seed", "--times", "--tolerance", "--shell-widths", "--smoothing", "--seed", "--device",
        "--dtype", "--seeds", "--workers", "--threads", "--folder", "--table",
    ],
}  # fmt: skip
FLAGS = {
    "--help",
    "--refresh",
    "--show",
    "--forecast",
    "--readme",
    "--large",
    "--monitor",
    "--gpt2",
    "--no-browser",
    "--dry-run",
}
ODD = [
    "", " ", "-", "--", "-1", "-0", "1e999", "nan", "inf", "-inf", "1e-320", "0x10", "1_000", "\u00b2", "\u0663",
    "None", "True", "9" * 30, "9" * 5000, "-" + "9" * 5000, "0-" + "9" * 18, "1-0", "1,1", ",", "0,", "1;2", "=", "=3",
    "depth=", "depth=deep", "dept=3", "depth=[[[[", "steps={", "steps=!!python/name:os.system", "steps=&a [*a]",
    "steps=" + "[" * 3000, "a\nb", "a\rb\x1b[2J", "a\0b", "\udcff", "\u00fc" * 300, "x" * 5000, "/dev/null",
    "/dev/full", "/proc/self/mem", "file", "file/below", "loop", "loop/below", "nowhere", "~", "*", "$HOME",
    "'", '"', "%s", "--help", "--version", "--colour", "--widht", "--no-such=3", "@file", "cuda", "cuda:99", "77",
]  # fmt: skip
FILES = [
    "data/claims/00_first.yaml", "data/results/a.json", "data/manifest.yaml", "notebooks/profiles.yaml",
    "notebooks/00_first.ipynb", "README.md",
]  # fmt: skip
DAMAGE = [
    b"", b"\xff\xfe\x00", b"[", b"[" * 3000, b"{}", b"[]", b"null", b"3", b'"text"', b"claims: {a: 1}", b"claims: [3]",
    b"claims:\n- {id: [a], claim: 1, whose: ours}", b"default: 3", b"a: &a [*a]", b'{"cells": [null]}', b"\0", b"\t- x",
    b'{"cells": [{"metadata": {"tags": ["parameters"]}, "source": ["a: int = = 1"]}]}', b"claims: !!python/object:x {}",
    b'{"claim": "a", "seeds": "abc", "values": null}', b"a: b: c", b"2" * 5000, b"1e400", b"? [a]\n: b", b"<<: 3",
    b"entries: 3", b"entries: [3]", b"entries: [{files: a, makes: os:system}]", b"entries: [{files: [], command: 3}]",
]  # fmt: skip
MANIFEST = """entries:
- {files: data/manifest.yaml, otherwise: by hand, seconds: 3}
- {files: data/claims/*, otherwise: by hand}
- {files: data/results/*.json, command: "grsd claims --confirm {stem}"}
- {files: data/tables/*.csv, makes: "grsd.support.folders:project"}
"""
RULE = "{statistic: s, direction: at most, threshold: 1.0, reason: because, seeds: 2}"


def small_project(root):
    (root / "notebooks").mkdir(parents=True)
    (root / "data" / "results").mkdir(parents=True)
    (root / "notebooks" / "profiles.yaml").write_text("test: {00_first: {depth: 2}}\ndefault: {}\n")
    source = "depth: int = 8\ndivisor: float = 1.0\nflag: bool = False\nsteps: list = [1]\n"
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": source}
    for name in ("00_first", "01_second"):
        (root / "notebooks" / f"{name}.ipynb").write_text(json.dumps({"cells": [cell]}))
    (root / "data" / "claims").mkdir()
    (root / "data" / "claims" / "00_first.yaml").write_text(
        f"claims:\n- {{id: a, claim: text, whose: ours, rule: {RULE}}}\n"
    )
    (root / "data" / "manifest.yaml").write_text(MANIFEST)
    (root / "README.md").write_text("<!-- findings: written by grsd claims --readme -->\n<!-- end of findings -->\n")


def with_a_result(root):
    known = claims(root / "data" / "claims")
    write_result(judge(known["a"], (1000, 1001), (0.1, 0.1001), {}), root / "data" / "results")


def places(folder):
    (folder / "file").write_text("x")
    (folder / "loop").symlink_to("loop")
    (folder / "nowhere").symlink_to("missing/missing")


def damaged(root, chance):
    """One file of the project cut, replaced, or with some bytes changed; or something else in its place."""
    path = root / chance.choice(FILES)
    content = bytearray(path.read_bytes() if path.is_file() else b"")
    kind = chance.randrange(5)
    if kind == 0:
        path.write_bytes(chance.choice(DAMAGE))
    elif kind == 1:
        path.write_bytes(content[: chance.randrange(len(content) + 1)])
    elif kind == 2 and path.is_file():
        path.unlink()
        chance.choice([path.mkdir, lambda: path.symlink_to(path.name), lambda: path.symlink_to("missing")])()
    else:
        for _ in range(kind * 2):
            content[chance.randrange(len(content) or 1) : 1] = bytes([chance.randrange(256)])
        path.write_bytes(content)


def command(chance):
    name = chance.choice(list(COMMANDS)) if chance.random() < 0.95 else chance.choice(ODD)
    words = [name] if chance.random() < 0.98 else []
    if name == "data" and chance.random() < 0.7:
        words.append(chance.choice(["a.json", "manifest", "data/tables/00_a-b.csv", "a/b", "fetch", "fetch", *ODD]))
        words += [chance.choice(["mnist", "cifar5m", "digits", *ODD])] * (
            words[-1] == "fetch" and chance.random() < 0.8
        )
    for _ in range(chance.randrange(4)):
        option = chance.choice(COMMANDS.get(name, ["--help"]))
        words.append(option)
        if option not in FLAGS:
            kind = chance.choice([GOOD[option], GOOD[option], chance.choice(list(GOOD.values())), ODD, ODD])
            words += chance.choices(kind, k=chance.choice([0, 1, 1, 1, 1, 1, 1, 1]))
    if chance.random() < 0.1:
        words.insert(chance.randrange(len(words) + 1), chance.choice(ODD))
    return words


def ended(*_, **__):
    raise SystemExit(0)


@pytest.fixture
def harmless(monkeypatch, tmp_path):
    """Nothing computes, starts or listens, and nothing is written but in ``tmp_path``."""
    monkeypatch.setattr(grsd.reproduce, "_execute", lambda run, output: setattr(run, "output", output))
    monkeypatch.setattr(grsd.reproduce, "_refresh", lambda run: None)
    monkeypatch.setattr(parallel, "members", lambda *_, **__: (item for item in ()))
    monkeypatch.setattr("grsd.runs.compute.run", ended)
    monkeypatch.setattr(grsd.studies.confirm, "confirm_claims", lambda names, among: [])
    monkeypatch.setattr(grsd.studies.confirm, "check_claims", lambda names: iter(()))
    monkeypatch.setattr(grsd.studies.confirm, "forecast_claims", lambda: None)
    monkeypatch.setattr(measure, "_rows", lambda *_: [])
    monkeypatch.setattr("grsd.bench.figure.draw", lambda *_: None)
    monkeypatch.setattr(monitor, "in_a_process", lambda *_: {})
    monkeypatch.setattr("grsd.bench.gpt2.in_a_process", lambda *_: {})
    monkeypatch.setattr(monitor, "summary", lambda *_: [])
    monkeypatch.setattr(os, "execve", ended)
    monkeypatch.setattr("grsd.workflow.command._snakemake", lambda root: "snakemake")
    monkeypatch.setattr("grsd.workflow.command._ended", lambda line: 0)
    monkeypatch.setattr("grsd.workflow.scale.predicted", ended)
    monkeypatch.setattr("grsd.datasets.download._download", ended)
    monkeypatch.setenv("GRSD_DATA", str(tmp_path / "kept"))
    monkeypatch.delenv("GRSD_RUNS", raising=False)
    small_project(tmp_path / "project")
    with_a_result(tmp_path / "project")
    return tmp_path


def fuzz(first, count, folder, monkeypatch, capsys):
    for number in range(first, first + count):
        chance = random.Random(number)  # noqa: S311
        here = folder / str(number)
        here.mkdir()
        places(here)
        shutil.copytree(folder / "project", here / "project")
        monkeypatch.chdir(here)
        monkeypatch.setenv("GRSD_PROJECT", str(here / "project"))
        if chance.random() < 0.4:
            damaged(here / "project", chance)
        words = command(chance)
        try:
            code = cli.main(words)
        except SystemExit as stopped:
            code = stopped.code
        except BaseException as error:
            raise AssertionError(f"{number}: {words}") from error
        said = capsys.readouterr()
        assert code in {0, 1, 2, 130}, (number, words)
        assert said.err.count("\n") == (code != 0), (number, words, said.err)
        assert said.err.startswith("grsd") == (code != 0), (number, words, said.err)
        assert "Traceback" not in said.out + said.err, (number, words)
        assert said.err.isprintable() or said.err[:-1].isprintable(), (number, words)
        assert len(said.err) < 2200, (number, words)


def test_careless_commands(harmless, monkeypatch, capsys):
    fuzz(0, 60, harmless, monkeypatch, capsys)


@pytest.mark.long
@pytest.mark.parametrize("first", range(60, 960, 100))
def test_many_careless_commands(first, harmless, monkeypatch, capsys):
    fuzz(first, 100, harmless, monkeypatch, capsys)
