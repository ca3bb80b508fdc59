"""The real notebooks: their form, and their values at other parameters than their own."""

import ast
import re

import matplotlib.image
import nbformat
import numpy as np
import papermill
import pytest
import torch
import yaml

import grsd
from grsd.evidence import results
from grsd.networks import architecture
from grsd.plan import plan
from grsd.plotting import decades
from grsd.reproduce import reproduce

ROOT = grsd.project()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LONGEST_CELL, MOST_FIGURES, MOST_PANELS, WIDEST = 15, 4, 3, 10  # lines, figures, panels, inches
FEWEST_WORDS, MOST_WORDS = 600, 1200
FIGURES = sorted((ROOT / "figures").glob("[0-9][0-9]_*.svg"))
CHECKED = "nbval-check-output"
DRAWING = r"subplots\(|\.(errorbar|plot|semilogy|loglog|axhline|axvline|pcolormesh|legend|set_[xyt]\w*)\("
OTHER = {"depth": 3, "width": 20, "seed": 7, "residual": False}


def only_imports(source):
    body = ast.parse(source).body
    return bool(body) and all(
        isinstance(node, ast.Import | ast.ImportFrom) or ast.unparse(node) == "use_style()" for node in body
    )


def code(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_form(path):
    cells = code(path)
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    written = re.findall(r"^(\w+): (\w+) = ", tagged[0].source, re.MULTILINE)
    found = {name: details["inferred_type_name"] for name, details in papermill.inspect_notebook(str(path)).items()}
    assert found == dict(written), "papermill reads every parameter, with its type"
    assert "device" in found
    assert "tables" not in found, "grsd data makes them"
    for cell in cells:
        assert cell.execution_count is not None, (
            f"grsd reproduce --only {path.stem[:2]} --refresh executes:\n{cell.source}"
        )
        assert not [output for output in cell.outputs if output.output_type == "error"]
        assert not [output for output in cell.outputs if output.get("name") == "stderr"], cell.source
    marked = [cell for cell in cells if "NBVAL_CHECK_OUTPUT" in cell.source or CHECKED in cell.metadata.get("tags", [])]
    assert marked, f"tag {CHECKED} on a cell whose output is the same everywhere"
    assert all(cell.outputs for cell in marked)
    assert "papermill" not in nbformat.read(path, as_version=4).metadata
    figures = [name for cell in cells for name in re.findall(r'savefig\(figure, "([^"]+)"', cell.source)]
    assert figures
    committed = {f.stem for f in (ROOT / "figures").glob(f"{path.stem}-*")}
    assert set(figures) == committed
    assert all((ROOT / "figures" / f"{name}.{kind}").is_file() for name in figures for kind in ("svg", "png"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_are_read_at_a_glance(path):
    """Short cells; drawing is the package's, and cells that only draw, or only import, are collapsed in Lab."""
    cells = code(path)
    assert [cell.source for cell in cells if len(cell.source.splitlines()) > LONGEST_CELL] == []
    assert [cell.source for cell in cells if re.search(DRAWING, cell.source)] == [], "draw in grsd/plotting"
    for cell in cells:
        collapsed = cell.metadata.get("jupyter", {}).get("source_hidden", False)
        wanted = "savefig(" in cell.source or only_imports(cell.source)
        assert collapsed == wanted, f'"jupyter": {{"source_hidden": {wanted}}} in the metadata of:\n{cell.source}'
    assert 1 <= sum("savefig(figure" in cell.source for cell in cells) <= MOST_FIGURES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_prose_is_as_long_as_an_article(path):
    """Formulas and addresses of links aside."""
    cells = nbformat.read(path, as_version=4).cells
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    words = re.findall(r"[A-Za-z][\w'-]*", re.sub(r"\$\$.*?\$\$|\$[^$]*\$|\]\([^)]*\)", " ", prose, flags=re.DOTALL))
    assert FEWEST_WORDS <= len(words) <= MOST_WORDS


def shown(value, figures):
    """Whether ``figures`` is the value, rounded to as many decimals."""
    decimals = len(figures.partition(".")[2])
    return abs(value - float(figures.replace("\N{MINUS SIGN}", "-"))) <= 0.5001 * 10**-decimals


def test_every_interval_in_the_prose_is_that_of_a_result():
    """With its sign, or with the other one where the prose says "smaller by"."""
    number = "([-\N{MINUS SIGN}]?\\d*\\.?\\d+)"
    stored = [(found.estimate, found.low, found.high) for found in results().values()]
    stored += [(-estimate, -high, -low) for estimate, low, high in stored]
    for path in NOTEBOOKS:
        prose = " ".join(
            cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"
        )
        for written in re.findall(rf"{number}(?: %| per cent)? \[{number}, {number}\]", prose):
            assert any(all(map(shown, found, written)) for found in stored), (path.stem, written)


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_figures_are_read_in_a_column(path):
    """Few panels (a colour bar has ticks along one side alone), and no wider than its letters stay readable."""
    text = path.read_text()
    parts = re.split(r'<g id="axes_\d+">', text)[1:]
    assert 1 <= sum('id="xtick_' in part and 'id="ytick_' in part for part in parts) <= MOST_PANELS
    assert float(re.search(r'width="([\d.]+)pt"', text)[1]) <= 72 * WIDEST


def test_every_profile_can_be_planned():
    profiles = yaml.safe_load((ROOT / "notebooks" / "profiles.yaml").read_text())
    assert set(profiles) == {"test", "default", "full"}
    for profile in profiles:
        assert len(plan(ROOT, profile=profile)) == len(NOTEBOOKS)
        assert set(profiles[profile]) <= {path.stem for path in NOTEBOOKS}
    assert profiles["default"] == {}


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Notebook 01 twice at profile ``test`` with other parameters: by ``reproduce``, and from another folder."""
    once = tmp_path_factory.mktemp("once")
    settings = [f"{name}={str(value).lower()}" for name, value in OTHER.items()]
    (run,) = reproduce(only=["01"], profile="test", settings=settings, output=once)
    assert run.failure is None
    again = tmp_path_factory.mktemp("again")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRSD_FIGURES", str(again / "figures"))
        papermill.execute_notebook(
            str(run.notebook),
            str(again / run.notebook.name),
            parameters=run.parameters,
            cwd=str(again),
            progress_bar=False,
        )
    return run, once, again


def said(path):
    return "".join(output.get("text", "") for cell in code(path) for output in cell.outputs)


@pytest.mark.long
def test_values_at_other_parameters(executed):
    """What the notebook prints, against the library called here with the same parameters."""
    run, _, _ = executed
    text = said(run.output)
    chosen = run.parameters
    data = grsd.digits(chosen["samples"])
    network = grsd.Perceptron(64, 10, width=20, depth=3, seed=7, residual=False)
    top = torch.linalg.eigvalsh(grsd.tangent_kernel(network, data.inputs))[-1].item()
    times = grsd.log_times(0.03 / top, chosen["last"] / top, chosen["snapshots"])
    flow = grsd.gradient_flow(network, data.inputs, data.targets, times)
    middle = int(np.argmin(np.abs(np.log(times * top / np.sqrt(chosen["last"])))))
    losses = flow.history.loss.values
    assert f"loss: {losses[0]:.2f} at first, {losses[middle]:.2f} in the middle" in text
    assert losses[middle] < losses[0]
    for name in ("budget-closes", "coupling-antisymmetric", "flow-is-accurate"):
        assert f"{name}: holds (at most {grsd.claims()[name].rule.threshold:g})" in text
        value = float(re.search(rf"^{name}: (\d\S*)$", text, re.MULTILINE)[1])
        assert 0 < value <= grsd.claims()[name].rule.threshold
    shells = grsd.LogShells(0.5, 0.1)
    check = grsd.measured_energy_change(flow, middle, shells)
    table = next(
        output.data["text/plain"]
        for cell in code(run.output)
        for output in cell.outputs
        if "discrepancy" in output.get("data", {}).get("text/plain", "")
    )
    kept = check.where(check.mask == 0, drop=True)
    printed = np.array([float(line.split()[1]) for line in table.splitlines()[2:]])
    assert np.allclose(printed, kept.budget, rtol=1e-4, atol=1e-5)
    assert decades(kept.shell).size >= 4


@pytest.mark.long
def test_figures_are_the_same_bytes_from_any_folder(executed):
    _, once, again = executed
    first = {path.name: path.read_bytes() for path in (once / "figures").iterdir()}
    second = {path.name: path.read_bytes() for path in (again / "figures").iterdir()}
    assert first.keys() == second.keys()
    assert len(first) == 2 * len({name.rsplit(".", 1)[0] for name in first})
    assert [name for name in first if first[name] != second[name]] == []
    for path in (once / "figures").glob("*.png"):
        assert matplotlib.image.imread(path)[..., :3].std() > 0.02, f"{path.name} is blank"


@pytest.mark.long
def test_the_tour_at_profile_test(tmp_path):
    (run,) = reproduce(only=["00"], profile="test", settings=["depth=2"], output=tmp_path)
    assert run.failure is None
    lines = said(run.output).splitlines()
    assert [line.split(":")[0] for line in lines] == list(architecture.names(compared=True))
    assert all(re.search("has learned (faster|slower) than its frozen kernel", line) for line in lines)
    assert len(run.figures) == 4
