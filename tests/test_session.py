"""Refusals in notebooks: one line, the traceback one %tb away, and the cell has failed all the same."""

import ast
import sys

import IPython
import nbformat
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

import grsd
from grsd.datasets import dataset
from grsd.plan import PROFILES, declared_in, plan
from grsd.support import session
from grsd.support.parameter_cell import ParameterCell
from grsd.support.parameters import MOST

REFUSED = "Spec(depth=...): expected a whole number of at least 1, got -3"


@pytest.fixture
def shell(monkeypatch):
    """A shell as notebooks have one, with no number of threads given."""
    before = torch.get_num_threads()
    made = InteractiveShell()
    made.run_line_magic("colors", "nocolor")
    monkeypatch.setattr(IPython, "get_ipython", lambda: made)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    yield made
    torch.set_num_threads(before)


def test_a_refusal_is_one_line(shell, capsys):
    session.begin()
    done = shell.run_cell("import grsd\ngrsd.Spec(depth=-3)")
    assert str(done.error_in_exec) == REFUSED
    assert capsys.readouterr().out.splitlines() == [f"ValueError: {REFUSED}  (%tb shows where)"]
    shell.run_cell("%tb")
    shown = capsys.readouterr().out
    assert "grsd.Spec(depth=-3)" in shown
    assert "Traceback" in shown
    assert shown.count("\n") > 5
    assert sys.last_value is done.error_in_exec


@pytest.mark.parametrize("code", ["int('three')", "raise ValueError('Spec(depth=...): mine')", "1 / 0"])
def test_everything_else_is_as_it_was(shell, capsys, code):
    shell.run_cell(code)
    before = capsys.readouterr().out
    session.begin()
    shell.run_cell(code)
    assert capsys.readouterr().out.splitlines()[3:] == before.splitlines()[3:]
    assert "Traceback" in before


def test_what_counts_as_a_refusal():
    for call, expected in ((lambda: grsd.Spec(depth=-3), True), (lambda: grsd.claims(1), False)):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            call()
        assert session.is_refusal(caught.value, caught.tb) is expected


def test_one_thread_unless_somebody_says_otherwise(shell, monkeypatch):
    torch.set_num_threads(3)
    session.begin()
    assert torch.get_num_threads() == 1
    torch.set_num_threads(2)
    session.begin()
    assert torch.get_num_threads() == 2, "the first cell run again"
    monkeypatch.setattr(IPython, "get_ipython", InteractiveShell)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    session.begin()
    assert torch.get_num_threads() == 2
    monkeypatch.setattr(IPython, "get_ipython", lambda: None)
    monkeypatch.delenv("OMP_NUM_THREADS")
    session.begin()
    assert torch.get_num_threads() == 2, "in a script"


CELL = 'samples: int = 80  # digits\ndepths: list = [4, 16]\nlast: float = 30.0\nseed: int = 0\ndevice: str = "auto"'


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        ("samples: int = 5_000", "parameters(samples=...): expected at most 1797 (digits has 1797 samples), got 5000"),
        ("samples: int = 2.5", "parameters(samples=...): expected a whole number of at least 1, got 2.5"),
        ("depths: list = [4, 0]", "parameters(depths=...): expected a whole number of at least 1, got 0"),
        ("depths: list = []", "parameters(depths=...): expected a list of at least one number, got []"),
        ("last: float = -1", "parameters(last=...): expected a positive finite number, got -1"),
        ("seed: int = -1", "parameters(seed=...): expected a whole number of at least 0, got -1"),
        ('device: str = "gpu"', "parameters(device=...): expected auto, cpu or cuda, got 'gpu'"),
        ('device: str = "cuda"', "parameters(device=...): there is no CUDA device here, got 'cuda'"),
    ],
)
def test_nonsense_in_the_parameters_is_one_line_at_once(shell, capsys, monkeypatch, as_users_run_it, line, refused):
    """In the tagged cell and in papermill's; no name of the cell is set, so that none is new beside old ones."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    session.begin()
    name, _, value = line.partition(" = ")
    nonsense = "\n".join(line if old.startswith(name) else old for old in CELL.splitlines())
    done = shell.run_cell(nonsense)
    assert not done.success
    assert capsys.readouterr().out.splitlines() == [f"ValueError: {refused}"]
    assert "samples" not in shell.user_ns
    assert shell.run_cell(CELL).success
    done = shell.run_cell(f"# Parameters\nseed = 3\n{name.partition(':')[0]} = {value}")
    assert str(done.error_before_exec) == refused
    assert shell.user_ns["seed"] == 0
    assert shell.run_cell("seed = 3\nsamples = min(9, 8)").success
    assert shell.user_ns["samples"] == 8


def test_other_cells_are_not_parameters(shell):
    session.begin()
    assert shell.run_cell("depth: int = 0\nwidth = -1\nsamples, seeds = 5000, 0").success
    assert shell.user_ns["depth"] == 0


def test_every_notebook_makes_sense_at_every_profile():
    root = grsd.project()
    for profile in PROFILES:
        for run in plan(root, profile=profile):
            cell = ParameterCell()
            (source,) = (
                cell.source
                for cell in nbformat.read(run.notebook, as_version=4).cells
                if "parameters" in cell.metadata.get("tags", [])
            )
            cell.visit(ast.parse(source))
            assert cell.declared == declared_in(run.notebook)
    assert MOST["samples"][0] == dataset["digits"].facts["most"]
