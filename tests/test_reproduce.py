"""Planning and running, on a small project of its own; the real notebooks are in test_notebooks.py."""

import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from grsd.plan import Refused
from grsd.reproduce import reproduce

PROFILES = "test: {00_first: {count: 2}}\ndefault: {}\nfull: {00_first: {rate: 1e-3, flag: true}}\n"
PARAMETERS = (
    'count: int = 5\nrate: float = 0.5\nflag: bool = False\nname: str = "a"\nsteps: list = [1]\ndevice: str = "auto"\n'
)


@pytest.fixture
def root(tmp_path):
    """Two notebooks; the second has one parameter and divides by it."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "profiles.yaml").write_text(PROFILES)
    cells = {
        "00_first": [PARAMETERS, "print(count, rate, flag, name, steps, device)", "import os; print(os.getcwd())"],
        "01_second": ["divisor: int = 1\n", "print('before')", "print(1 / divisor)", "print('after')"],
    }
    for name, sources in cells.items():
        notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook.cells[0].metadata["tags"] = ["parameters"]
        nbformat.write(notebook, folder / f"{name}.ipynb")
    return tmp_path


def outputs(path):
    notebook = nbformat.read(path, as_version=4)
    return [output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"only": ["02"]}, "no notebook '02'; there are 00_first, 01_second"),
        ({"only": ["x0"]}, "no notebook 'x0'; there are"),
        ({"profile": "huge"}, "no profile 'huge'; there are test, default, full"),
        ({"settings": ["cuont=3"]}, "no parameter 'cuont' in 00_first, 01_second; there are count, device, divisor"),
        ({"only": ["01"], "settings": ["count=3"]}, "no parameter 'count' in 01_second; there are divisor"),
        ({"settings": ["count=3.5"]}, "parameter count=3.5: expected int"),
        ({"settings": ["count=true"]}, "parameter count=true: expected int"),
        ({"settings": ["rate=fast"]}, "parameter rate=fast: expected float"),
        ({"settings": ["flag=1"]}, "parameter flag=1: expected bool"),
        ({"settings": ["steps=3"]}, "parameter steps=3: expected list"),
        ({"settings": ["count"]}, "--set count: expected name=value"),
        ({"only": ["01"], "device": "cpu"}, "no parameter 'device' in 01_second"),
        ({"settings": ["device=tpu"]}, "parameter device: expected auto, cpu or cuda, got 'tpu'"),
        ({"settings": ["count=3", "count=4"]}, "parameter count: expected one value, got '3' and '4'"),
        ({"settings": ["device=cpu"], "device": "auto"}, "parameter device: expected one value, got 'cpu' and 'auto'"),
    ],
)
def test_refused_before_anything_runs(root, request_, message):
    with pytest.raises(Refused, match=message) as caught:
        reproduce(where=root, **request_)
    assert "\n" not in str(caught.value)
    assert not (root / "build").exists()


def test_run_continue_and_keep(root, monkeypatch, tmp_path, capsys):
    """The second notebook fails in one cell: the first is done, what the second made is kept, and both are reported."""
    monkeypatch.chdir(tmp_path)
    first, second = reproduce(where=root, settings=["divisor=0", "count=9"])
    assert first.failure is None
    assert second.failure == "cell In [4]: ZeroDivisionError: division by zero"
    assert first.output == root / "build" / "custom" / "00_first.ipynb"
    assert outputs(first.output)[0] == "9 0.5 False a [1] auto\n"
    assert outputs(first.output)[1].strip() == str(root / "notebooks")
    assert "before\n" in outputs(second.output)
    assert "after\n" not in outputs(second.output)
    said = capsys.readouterr()
    assert "01_second stopped at cell In [4]: ZeroDivisionError: division by zero (what ran is kept in" in said.err
    assert "00_first" in said.out


def test_refresh_writes_clean_outputs_back(root):
    reproduce(where=root, only=["00"], refresh=True)
    notebook = nbformat.read(root / "notebooks" / "00_first.ipynb", as_version=4)
    assert "papermill" not in notebook.metadata
    assert 0 < notebook.metadata["grsd"]["seconds"] < 100
    assert 0 < notebook.metadata["grsd"]["cpu_seconds"] < 100
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
    assert outputs(root / "notebooks" / "00_first.ipynb")[0] == "5 0.5 False a [1] auto\n"
    assert [cell.execution_count for cell in notebook.cells] == [1, 2, 3]
    with pytest.raises(Refused, match="--refresh goes with the notebooks' own defaults"):
        reproduce(where=root, settings=["count=3"], refresh=True)


def test_a_refusal_fails_its_cell_in_one_line(root, capsys):
    """In the copy the cell shows one line, and so does the terminal; the full traceback of any other error is kept."""
    source = "from grsd.support.session import begin\nbegin()\nfrom grsd import Spec\nSpec(depth=divisor)"
    path = root / "notebooks" / "01_second.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[2:] = [new_code_cell(source)]
    nbformat.write(notebook, path)
    (run,) = reproduce(where=root, only=["01"], settings=["divisor=-3"])
    refusal = "ValueError: Spec(depth=...): expected a whole number of at least 1, got -3"
    assert run.failure == f"cell In [4]: {refusal}"
    assert f"01_second stopped at cell In [4]: {refusal} (what ran is kept in" in capsys.readouterr().err
    cells = nbformat.read(run.output, as_version=4).cells
    (error,) = [output for cell in cells for output in cell.get("outputs", []) if output.output_type == "error"]
    assert error.traceback == [f"{refusal}  (%tb shows where)"]


SLOW_TO_FINISH = """
import time
handlers = get_ipython().kernel.shell_handlers
answer = handlers["kernel_info_request"]
async def slowly(*arguments):
    await answer(*arguments)
    time.sleep(1)
handlers["kernel_info_request"] = slowly
"""


def test_a_kernel_ends_without_an_interrupt(root, capfd):
    """Also one that is still busy after its last reply, as on a loaded machine."""
    path = root / "notebooks" / "01_second.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[2:] = [new_code_cell(SLOW_TO_FINISH)]
    nbformat.write(notebook, path)
    (run,) = reproduce(where=root, only=["01"])
    assert run.failure is None
    assert capfd.readouterr().err == ""


def test_what_cannot_be_run_or_written_fails_alone(root, capsys):
    """A notebook that papermill cannot read, and a copy that cannot be written; the others run."""
    first = root / "notebooks" / "00_first.ipynb"
    first.write_text(
        json.dumps({"cells": json.loads(first.read_text())["cells"], "nbformat": 4, "nbformat_minor": "x"})
    )
    bad, good = reproduce(where=root)
    assert "\n" not in bad.failure
    assert good.failure is None
    (root / "build" / "default" / "01_second.ipynb").unlink()
    (root / "build" / "default" / "01_second.ipynb").mkdir()
    (bad,) = reproduce(where=root, only=["01"])
    assert bad.failure.startswith("its executed copy: ")
    assert capsys.readouterr().err.count("\n") == 2
