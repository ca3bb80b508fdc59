import errno
import importlib
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import grsd
from grsd import cli
from grsd.commands import options
from grsd.evidence import Recheck

GRSD = Path(sys.executable).with_name("grsd")


def grsd_command(*arguments, **options):
    return subprocess.run([GRSD, *arguments], capture_output=True, text=True, timeout=120, check=False, **options)


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """In another folder: exit 2, one line that starts with ``message``, no folder "out" made."""

    def check(arguments, message):
        monkeypatch.chdir(tmp_path)
        try:
            code = cli.main(arguments)
        except SystemExit as stopped:
            code = stopped.code
        said = capsys.readouterr()
        assert code == 2
        assert said.out == ""
        assert said.err.startswith(message)
        assert said.err.count("\n") == 1
        assert not (tmp_path / "out").exists()

    return check


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--only", "01", "--set", "dpeth=8"],
            "grsd reproduce: no parameter 'dpeth' in 01_shell_dynamics; there are depth",
        ),
        (["--only", "77"], "grsd reproduce: no notebook '77'; there are 00_start_here"),
        (["--profile", "huge"], "grsd reproduce: no profile 'huge'"),
        (["--set", "depth=deep"], "grsd reproduce: parameter depth=deep: expected int"),
        (
            ["--project", "nowhere"],
            "grsd reproduce: no notebooks/profiles.yaml in nowhere: clone the companion's repository",
        ),
        (["--colour"], "grsd: unrecognized arguments: --colour (see grsd --help)"),
    ],
)
def test_refused_in_one_line(refused, arguments, message):
    refused(["reproduce", "--output", "out", *arguments], message)


def test_installed_without_the_repository(tmp_path):
    """The package alone, copied elsewhere: one clear line."""
    shutil.copytree(Path(grsd.__file__).parent, tmp_path / "grsd", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-m", "grsd.cli", "reproduce"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert "clone the companion's repository and run this inside it" in done.stderr
    assert done.stderr.count("\n") == 1


def test_exit_code_of_a_failing_notebook(monkeypatch):
    from grsd.plan import NotebookRun

    for failure, code in ((None, 0), ("cell In [1]: ValueError: no", 1)):
        monkeypatch.setattr(
            "grsd.reproduce.reproduce",
            lambda failure=failure, **_: [NotebookRun(Path("00_a.ipynb"), {}, failure=failure)],
        )
        assert cli.main(["reproduce"]) == code


def test_help_and_version():
    assert "reproduce" in grsd_command("--help").stdout
    assert grsd_command("--version").stdout.startswith(f"grsd {version('grsd')}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--width", "x"], "grsd run: argument --width: expected a whole number, got 'x' (see"),
        (["--width", "0"], "grsd run: --width: expected a whole number of at least 1, got 0"),
        (["--times", "1,2"], "grsd run: argument --times: expected 3 numbers separated by commas, got '1,2'"),
        (["--shell-widths", "1,1"], "grsd run: --shell-widths: a width stands twice"),
        (["--branch-scale", "none", "--smoothing", "-1"], "grsd run: --smoothing: expected a positive finite number"),
        (
            ["--architecture", "conv"],
            "grsd run: --architecture: expected one of ",
        ),
        (
            ["--seeds", "3-1"],
            "grsd run: argument --seeds: expected up to 100000 seeds (each is a run and a",
        ),
        (["--seeds", "0-99999999999"], "grsd run: argument --seeds: expected up to 100000 seeds"),
        (["--seeds", "1,0-2"], "grsd run: argument --seeds: a seed stands twice"),
        (["--seed", "1", "--seeds", "2"], "grsd run: --seed or --seeds, not both"),
        (["--workers", "0"], "grsd run: --workers: expected a whole number of at least 1"),
        (["--table", "nowhere/t.csv"], "grsd run: --table: there is no folder"),
        (["--dpeth", "3"], "grsd: unrecognized arguments: --dpeth 3"),
        (["--folder", ""], "grsd run: argument --folder: expected a path, got '' (see grsd run --help)"),
        (["--table", ""], "grsd run: argument --table: expected a path, got '' (see grsd run --help)"),
    ],
)
def test_run_refuses_in_one_line(refused, arguments, message):
    refused(["run", "--folder", "out", *arguments], message)


TIMED = """
import sys, time
from grsd import cli
from grsd.evidence import Recheck
try:
    code = cli.main(sys.argv[1:])
except SystemExit as stopped:
    code = stopped.code
heavy = {"torch", "scipy", "nbformat", "papermill", "sklearn"} & sys.modules.keys()
print("\\n", code, time.process_time(), ",".join(sorted(heavy)) or "-")
"""


@pytest.mark.parametrize(
    ("arguments", "code", "seconds"),
    [
        (["--help"], 0, 0.5),
        (["run", "--help"], 0, 0.5),
        (["reproduce", "--only", "wrong"], 2, 1),
        (["reproduce", "--only", "01", "--set", "dept=3"], 2, 1),
        (["reproduce", "--output", "pyproject.toml"], 2, 1),
        (["run", "--dept", "3"], 2, 1),
        (["run", "--depth", "-3"], 2, 1),
        (["run", "--seeds", "7-0"], 2, 1),
        (["run", "--folder", "pyproject.toml"], 2, 1),
        (["run", "--table", "grsd"], 2, 1),
        (["claims", "--confirm", "nothing"], 2, 1),
        (["claims", "--project", "tests"], 2, 1),
        (["claims", "--check", "nothing"], 2, 1),
        (["claims", "--notebook", "77"], 2, 1),
        (["data", "nothing"], 2, 1),
        (["data", "--show"], 2, 1),
        (["data", "fetch", "nothing"], 2, 1),
        (["run", "--data", "nothing"], 2, 1),
        (["lab", "--port", "0"], 2, 1),
    ],
)
def test_to_say_no_takes_no_torch_and_no_time(arguments, code, seconds):
    """CPU seconds with the start of Python, the better of two; this machine may be busy."""
    for _ in range(2):
        line = [sys.executable, "-c", TIMED, *arguments]
        done = subprocess.run(line, capture_output=True, text=True, cwd=grsd.project(), timeout=60, check=True)
        found, took, heavy = done.stdout.split()[-3:]
        assert (found, heavy) == (str(code), "-")
        if float(took) <= seconds:
            return
    raise AssertionError(f"{took} s of CPU time, at most {seconds}")


def test_a_run_that_cannot_write_fails_in_one_line(monkeypatch, capsys, tmp_path):
    """What the system says while something is written, where no check could know it before: a full disk."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x"))

    monkeypatch.setattr("grsd.reproduce.reproduce", full)
    assert cli.main(["reproduce"]) == 1
    assert capsys.readouterr().err == f"grsd reproduce: [Errno 28] No space left on device: '{tmp_path / 'x'}'\n"
    for error, code, said in (
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 1, "MemoryError"),
        (RuntimeError("one\ntwo"), 1, "one two"),
    ):
        monkeypatch.setattr("grsd.reproduce.reproduce", lambda error=error, **_: (_ for _ in ()).throw(error))
        assert cli.main(["reproduce"]) == code
        assert capsys.readouterr().err == f"grsd reproduce: {said}\n"


def test_claims_of_a_notebook(capsys, monkeypatch):
    assert cli.main(["claims", "--notebook", "3"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("gradient-propagation (paper): holds: 0.033 [0.03, 0.0367], at most 0.1, 8 seeds;")
    assert said[-1] == "10 findings: 6 hold, 4 fail; 2 checks: 2 hold"
    for arguments, line in (
        (
            ["--notebook", "77"],
            "grsd claims: --notebook: no claims of a notebook '77'; there are 01_shell_dynamics, 02",
        ),
        (["--check", "none"], "grsd claims: --check: no claim 'none' with a rule; grsd claims lists them"),
        (
            ["--notebook", "3", "--confirm", "rigidity"],
            "grsd claims: --confirm: no claim 'rigidity' with a rule in note",
        ),
    ):
        assert cli.main(["claims", *arguments]) == 2
        assert capsys.readouterr().err.startswith(line)
    asked = []
    monkeypatch.setattr("grsd.studies.confirm.confirm_claims", lambda names, among: asked.append((names, list(among))))
    assert cli.main(["claims", "--notebook", "01", "--confirm"]) == 0
    assert asked == [([], ["budget-closes", "coupling-antisymmetric", "flow-is-accurate"])]
    assert capsys.readouterr().out.splitlines()[-1] == "3 checks: 3 hold"
    assert cli.main(["claims", "--confirm", "flow-is-accurate"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("flow-is-accurate (ours): holds: ")
    assert said[-1] == "1 check: 1 hold"


def test_checked_claims(capsys, monkeypatch):
    """One line each, and exit 1 if today's code gives another value."""

    def checked(names):
        return (Recheck(name, 1000, 0.5, 0.5 if name != "rigidity" else 0.6, 1e-9, True, False) for name in names)

    monkeypatch.setattr("grsd.studies.confirm.check_claims", checked)
    assert cli.main(["claims", "--check", "budget-closes"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "budget-closes, seed 1000: agrees: stored 0.5, today 0.5, allowed 1e-09 apart;",
        "  other code than measured it",
        "1 checked: 1 agree, 0 differ",
    ]
    assert cli.main(["claims", "--check", "--notebook", "08"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert "rigidity, seed 1000: differs: stored 0.5, today 0.6, allowed 1e-09 apart; other" in said
    assert said[-1] == "6 checked: 5 agree, 1 differ"


@pytest.mark.parametrize("arguments", [["claims"], ["--help"], ["data"]])
def test_nobody_reads(arguments):
    """As in ``grsd claims | true``."""
    reading, writing = os.pipe()
    os.close(reading)
    line = [sys.executable, "-m", "grsd.cli", *arguments]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    options = {"cwd": grsd.project(), "env": variables, "timeout": 60, "check": False}
    done = subprocess.run(line, stdout=writing, stderr=subprocess.PIPE, **options)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(("command", "module"), [("reproduce", "papermill"), ("lab", "jupyterlab")])
def test_commands_say_which_packages_they_need(command, module, monkeypatch, capsys):
    monkeypatch.setattr(options, "find_spec", lambda name: None)
    assert cli.main([command]) == 2
    line = f"grsd {command}: {module} is not installed; grsd {command} needs it: pip install 'grsd[notebooks]'\n"
    assert capsys.readouterr().err == line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("arguments", [["--device", "cuda"], ["--set", "device=cuda:1"]])
def test_cuda_is_refused_before_any_notebook_runs(refused, arguments):
    line = "grsd reproduce: --device cuda: there is no CUDA device here\n"
    refused(["reproduce", "--output", "out", "--only", "02", *arguments], line)


def test_a_claim_named_twice_is_measured_once(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("grsd.studies.confirm.confirm_claims", lambda names, among: asked.append(names))
    monkeypatch.setattr("grsd.studies.confirm.check_claims", lambda names: asked.append(names) or iter(()))
    for option in ("--confirm", "--check"):
        cli.main(["claims", option, "rigidity", "budget-closes", "rigidity"])
    assert asked == [["rigidity", "budget-closes"]] * 2


def test_a_missing_package_is_one_line(monkeypatch, capsys, tmp_path):
    """Also one that is found missing only where it is used; a missing module of the package itself is a fault."""
    monkeypatch.setitem(sys.modules, "papermill", None)
    assert cli.main(["reproduce", "--only", "00", "--output", str(tmp_path)]) == 2
    line = "grsd reproduce: papermill is not installed; grsd reproduce needs it: pip install 'grsd[notebooks]'\n"
    assert capsys.readouterr().err == line
    monkeypatch.setattr("grsd.commands.clean.run", lambda options: importlib.import_module("grsd.nowhere"))
    with pytest.raises(ModuleNotFoundError, match=r"grsd\.nowhere"):
        cli.main(["clean"])
