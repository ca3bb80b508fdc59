import ast
import inspect

import ipywidgets
import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest

import grsd
from grsd.evidence import claims, results, verdict_lines
from grsd.networks import architecture
from grsd.plotting import (
    COLOURS,
    STYLE,
    energy_map,
    explore,
    intervals,
    look,
    savefig,
    show_verdicts,
    use_style,
)
from grsd.plotting.sliders import start
from grsd.support.folders import project


@pytest.fixture(autouse=True)
def headless(monkeypatch, tmp_path):
    monkeypatch.setenv("GRSD_FIGURES", str(tmp_path))
    mpl.use("Agg")
    with mpl.rc_context():
        yield
    plt.close("all")


def test_the_same_figure_is_the_same_bytes(tmp_path):
    written = []
    for _ in range(2):
        figure, axes = plt.subplots()
        axes.plot([1, 2, 3], label="line")
        axes.legend()
        paths = savefig(figure, "00_start_here-test")
        written.append([path.read_bytes() for path in paths])
        assert [path.name for path in paths] == ["00_start_here-test.svg", "00_start_here-test.png"]
        assert all(path.parent == tmp_path for path in paths)
    assert written[0] == written[1]
    assert written[0][1].startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["energy", "../00_start_here-x", "00_start_here", "00_start_here-x.png"])
def test_names_refused(name):
    with pytest.raises(ValueError, match=r"savefig\(name=...\): expected NOTEBOOK-WHAT"):
        savefig(plt.figure(), name)


def test_style_is_applied():
    use_style()
    assert mpl.rcParams["image.cmap"] == "viridis"
    assert mpl.rcParams["svg.hashsalt"] == STYLE["svg.hashsalt"]


def test_energy_map_shows_the_data():
    data = grsd.digits(20)
    flow = grsd.gradient_flow(grsd.Perceptron(64, 10, width=16, depth=2), data.inputs, data.targets, [0.01, 0.1, 1.0])
    history = grsd.shell_history(flow, grsd.LogShells(1.0, 0.2))
    _, axes = plt.subplots()
    mesh = energy_map(axes, history)
    shown = np.ma.masked_invalid(mesh.get_array())
    kept = history.energy.where(history.mask == 0)
    assert float(shown.max()) == pytest.approx(float(kept.max()))
    assert shown.count() == int((kept > 1e-6 * kept.max()).sum())
    frontier = axes.lines[-1]
    assert np.allclose(frontier.get_ydata(), -np.log10(flow.times))
    assert "time" in axes.get_xlabel()
    assert "[1/time]" in axes.get_ylabel()


def test_energy_map_needs_something_to_show():
    data = grsd.digits(10)
    network = grsd.Perceptron(64, 10, width=8, depth=2)
    history = grsd.shell_history(
        grsd.gradient_flow(network, data.inputs, data.targets, [0.0, 0.1, 0.2]), grsd.LogShells(1.0)
    )
    _, axes = plt.subplots()
    energy_map(axes, history)
    for nothing in (history.isel(time=[0, 1]), history.assign(mask=history.mask * 0 + 4)):
        with pytest.raises(ValueError, match=r"energy_map\(history=...\): expected at least 2 times after 0"):
            energy_map(axes, nothing)


def test_sliders_or_one_drawing(monkeypatch):
    drawn = []
    explore(lambda **values: drawn.append(values), width=(0.0, 1.0, 0.5), kind=["a", "b"])
    assert drawn == [{"width": 0.5, "kind": "a"}]
    monkeypatch.setenv("GRSD_PROGRESS", "1")
    explore(lambda **values: drawn.append(values), width=(0.0, 1.0, 0.5), kind=["a", "b"])
    assert drawn[-1] == {"width": 0.5, "kind": "a"}
    assert len(drawn) == 2


def explored():
    """(name of the function, its arguments and their defaults, its controls) of each ``explore`` in a notebook."""
    for path in sorted((project() / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type != "code" or "explore(" not in cell.source:
                continue
            body = ast.parse(cell.source).body
            functions = {node.name: node.args for node in body if isinstance(node, ast.FunctionDef)}
            for node in body:
                if isinstance(node, ast.Expr) and ast.unparse(node.value.func) == "explore":
                    found = functions[node.value.args[0].id]
                    defaults = [ast.literal_eval(default) for default in found.defaults]
                    names = [name.arg for name in found.args][-len(defaults) :]
                    controls = {word.arg: ast.literal_eval(word.value) for word in node.value.keywords}
                    yield path.stem, dict(zip(names, defaults, strict=True)), controls


def test_what_is_stored_is_where_the_sliders_stand():
    """The one drawing of a stored notebook is of the values at which ipywidgets starts the sliders."""
    cases = [*explored(), ("no defaults", {}, {"width": (0.0, 1.0, 0.5), "kind": ["a", "b"]})]
    assert len(cases) >= 2
    for name, defaults, controls in cases:

        def draw(**values):
            pass

        keyword, empty = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
        draw.__signature__ = inspect.Signature(
            [inspect.Parameter(key, keyword, default=defaults.get(key, empty)) for key in controls]
        )
        begun = {slider._kwarg: slider.value for slider in ipywidgets.interactive(draw, **controls).kwargs_widgets}
        assert start(draw, **controls) == begun, name
        assert begun.items() >= defaults.items(), name


def test_architectures_look_the_same_everywhere():
    assert look("residual") == {"color": COLOURS["blue"], "marker": "o", "linestyle": "-", "label": "residual"}
    assert look("plain") == {"color": COLOURS["red"], "marker": "s", "linestyle": "--", "label": "plain"}
    seen = [tuple(look(name)[part] for part in ("color", "marker")) for name in architecture.names()]
    assert len(set(seen)) == len(seen), "each has a colour and a marker of its own"
    assert look("one that is not registered yet")["color"] not in {COLOURS["blue"], COLOURS["red"]}


def test_intervals_reach_from_end_to_end():
    _, axes = plt.subplots()
    drawn = intervals.bar(axes, [1, 2], [0.5, 0.7], [0.4, 0.1], [0.9, 0.8])
    ends = [segment[:, 1] for segment in drawn[2][0].get_segments()]
    assert np.allclose(ends, [[0.4, 0.9], [0.1, 0.8]])
    found = list(results().values())[:3]
    _, axes = plt.subplots()
    intervals.forest(axes, found, "abc", label="stored")
    assert [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"] == [r.estimate for r in found]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b", "c"]
    assert axes.get_legend_handles_labels()[1] == ["stored"], "one entry, however many rows"


def test_a_threshold_is_the_rules():
    rule = claims()["initial-incoherence"].judged
    _, axes = plt.subplots()
    intervals.threshold(axes, rule)
    intervals.threshold(axes, rule, horizontal=True)
    assert set(axes.lines[0].get_ydata()) == set(axes.lines[1].get_xdata()) == {rule.threshold}


def test_verdicts_of_a_notebook():
    """A Markdown table in a notebook, lines of 80 columns elsewhere; no word is torn apart in either."""
    shown = show_verdicts("03_gradient_propagation")
    mine = {name: claim for name, claim in claims().items() if claim.notebook == "03_gradient_propagation"}
    stored, table = results(), shown._repr_markdown_().splitlines()
    assert len(table) == 2 + len(mine)
    for claim, row in zip(mine.values(), table[2:], strict=True):
        assert row.startswith(f"| {claim.claim} `{claim.id}` | {claim.whose} | **{stored[claim.id].verdict}** | ")
    lines = repr(shown).splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(" ".join(lines).split()) == " ".join(" ".join(verdict_lines(mine, stored)).split())
    with pytest.raises(
        ValueError, match=r"^show_verdicts\(notebook=\.\.\.\): expected the name of a file .* got '03'$"
    ):
        show_verdicts("03")
