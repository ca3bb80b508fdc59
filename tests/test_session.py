"""Refusals in notebooks: one line, the traceback one %tb away, and the cell has failed all the same."""

import sys

import IPython
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

import grsd
from grsd.support import session

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
