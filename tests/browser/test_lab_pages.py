"""JupyterLab in a browser: a notebook opens, and Run All ends well."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress

import nbformat
import pytest

import grsd
from grsd.plan import plan

pytestmark = [pytest.mark.long, pytest.mark.browser]

ROOT = grsd.project()
RUN = ("00_start_here.ipynb", "02_calibration.ipynb", "13_your_own_network.ipynb")
OPENED = "08_rigidity.ipynb"
ENDLESS = "99_endless.ipynb"  # at the first try; it ends at the second
CELLS = (
    # sympy, which torch loads late, cannot be loaded any more once its loading is interrupted: one flow comes first
    "import grsd\n\n"
    "def trained(seed):\n"
    "    network = grsd.Perceptron(64, 10, width=16, depth=2, seed=seed)\n"
    "    return grsd.gradient_flow(network, data.inputs, data.targets, [0.0, 0.1])\n\n"
    "tries = globals().get('tries', 0) + 1\ndata = grsd.digits(20)\nflow = trained(0)",
    "for seed in range(10**6 if tries == 1 else 1):\n    flow = trained(seed)",
    "print('try', tries, 'of seed', seed)",
)
TOKEN = "abc"  # noqa: S105
SETTINGS = {
    "@jupyterlab/apputils-extension/notification.jupyterlab-settings": {
        "fetchNews": "false",
        "checkForUpdates": False,
    },
    "@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none"},
}
# One text per cell of code; a folded cell shows no number.
PROMPTS = """() => [...document.querySelectorAll('.jp-NotebookPanel .jp-CodeCell')]
    .map(cell => (cell.querySelector('.jp-InputPrompt') || {textContent: ''}).textContent.trim())"""
# Lab shows the traceback of a failed cell as it shows what went to stderr.
RED = '.jp-NotebookPanel [data-mime-type="application/vnd.jupyter.stderr"]'
FAILED = re.compile(r"Traceback|Error\b|Interrupt\b")
# Whether the picture that sliders draw is there and another one than before.
MOVED = """before => {
    const picture = document.querySelector('.widget-output img');
    return picture && picture.complete && picture.src !== before;
}"""
PATIENCE = 2400  # quarters of a second, on a machine that does much else
OWN = (r"/static/|/lsp/|favicon",)  # what Lab itself may find missing


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """``grsd lab`` on the notebooks at the values of the profile ``test``; the address of its server."""
    root = tmp_path_factory.mktemp("project")
    (root / "notebooks").mkdir()
    (root / "data").symlink_to(ROOT / "data")
    (root / "notebooks" / "profiles.yaml").write_bytes((ROOT / "notebooks" / "profiles.yaml").read_bytes())
    for run in plan(ROOT, profile="test"):
        write(run.notebook, root / "notebooks" / run.notebook.name, run.parameters)
    endless = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    endless.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(endless, root / "notebooks" / ENDLESS)
    for name, values in SETTINGS.items():
        path = root / "settings" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "grsd.cli", "lab", "--no-browser", "--port", str(port), "--project", str(root)]
    folders = {"JUPYTER_RUNTIME_DIR": "runtime", "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTER_CONFIG_DIR": "config"}
    folders |= {"JUPYTERLAB_WORKSPACES_DIR": "workspaces", "GRSD_RUNS": "runs"}
    variables = os.environ | {"JUPYTER_TOKEN": TOKEN} | {name: str(root / place) for name, place in folders.items()}
    variables.pop("GRSD_PROGRESS", None)  # somebody is watching
    variables.pop("GRSD_PROJECT", None)
    with open(root / "log", "w") as log, subprocess.Popen(line, env=variables, stdout=log, stderr=log) as server:
        try:
            wait_for(f"http://127.0.0.1:{port}/api/status?token={TOKEN}", server)
            yield f"http://127.0.0.1:{port}", root
        finally:
            server.terminate()


def write(source, target, values):
    """Copy a notebook with other values in its cell of parameters, and without outputs."""
    notebook = nbformat.read(source, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if "parameters" in cell.metadata.get("tags", []):
            for name, value in values.items():
                cell.source = re.sub(
                    rf"^({name}: \w+) = [^#\n]*", rf"\1 = {value!r}  ", cell.source, flags=re.MULTILINE
                )
    nbformat.write(notebook, target)


def wait_for(address, server):
    for _ in range(240):
        try:
            with urllib.request.urlopen(address, timeout=5):  # noqa: S310
                return
        except OSError:
            assert server.poll() is None
            time.sleep(0.5)
    raise AssertionError("no answer in two minutes")


@pytest.fixture
def opened(lab, watched):
    """``with opened(name)``: a notebook whose kernel is idle; afterwards its kernel is ended."""
    address, _ = lab

    class Opened:
        def __init__(self, name):
            self.watch = watched(viewport={"width": 1400, "height": 1600})
            self.name = name

        def __enter__(self):
            self.page, self.complaints = self.watch.__enter__()
            self.page.goto(f"{address}/lab/tree/lab/{self.name}?token={TOKEN}&reset")
            self.page.wait_for_selector(".jp-NotebookPanel .jp-CodeCell .jp-InputPrompt")
            self.idle()
            return self

        def __exit__(self, *failure):
            end_kernels(address)
            self.watch.__exit__(*failure)

        def idle(self):
            """Wait for the kernel, and as long as a person takes: it still refuses cells right after an error."""
            self.page.wait_for_selector(".jp-StatusBar-TextItem:text-matches('\\\\| Idle$')")
            self.page.wait_for_timeout(1000)

        def menu(self, name, command):
            self.page.click(f'.lm-MenuBar-itemLabel:text-is("{name}")')
            self.page.click(f'.lm-Menu-item[data-command="{command}"]')

        def run_all(self):
            self.menu("Run", "runmenu:run-all")

        def interrupt(self):
            self.menu("Kernel", "kernelmenu:interrupt")

        def prompts(self):
            return self.page.evaluate(PROMPTS)

        def until(self, done, patience=PATIENCE):
            for _ in range(patience):
                if done(self.prompts()):
                    return
                self.page.wait_for_timeout(250)
            raise AssertionError(self.prompts())

        def wait(self, script, given):
            self.page.wait_for_function(script, arg=given, timeout=250 * PATIENCE)

        def errors(self):
            return self.page.locator(RED).filter(has_text=FAILED).all_inner_texts()

    return Opened


def end_kernels(address):
    with urllib.request.urlopen(f"{address}/api/kernels?token={TOKEN}", timeout=60) as answer:  # noqa: S310
        kernels = json.load(answer)
    for kernel in kernels:
        ask = urllib.request.Request(f"{address}/api/kernels/{kernel['id']}?token={TOKEN}", method="DELETE")  # noqa: S310
        urllib.request.urlopen(ask, timeout=60).close()  # noqa: S310


def all_ran(prompts):
    return all(re.fullmatch(r"\[\d+\]:", prompt) for prompt in prompts if prompt)


def test_opens(opened, plain):
    with opened(OPENED) as notebook:
        assert notebook.page.locator(".jp-NotebookPanel .jp-MarkdownCell h1").first.inner_text()
        assert plain(notebook.complaints, *OWN) == []


@pytest.mark.parametrize("name", RUN)
def test_run_all_ends_without_an_error(opened, plain, name):
    """And if there are sliders, the first one moves and its picture changes."""
    with opened(name) as notebook:
        notebook.run_all()
        notebook.until(lambda prompts: all_ran(prompts) or notebook.errors())
        assert notebook.errors() == []
        assert notebook.page.locator(".jp-OutputArea img").count() >= 2
        sliders = notebook.page.locator(".widget-slider .noUi-handle")
        assert (sliders.count() > 0) == (name != RUN[0])
        if sliders.count():
            picture = notebook.page.locator(".widget-output img")
            before = picture.first.get_attribute("src")
            value = notebook.page.locator(".widget-slider .widget-readout").first.inner_text()
            sliders.first.press("ArrowRight")
            notebook.wait(MOVED, before)
            assert notebook.page.locator(".widget-slider .widget-readout").first.inner_text() != value
            assert notebook.errors() == []
        assert plain(notebook.complaints, *OWN) == []


def test_an_interrupted_notebook_runs_again(opened, plain):
    """Run All, interrupted in an endless cell, ends there in an error; Run All again ends without one."""
    with opened(ENDLESS) as notebook:
        notebook.run_all()
        notebook.until(lambda prompts: prompts == ["[1]:", "[*]:", "[*]:"])
        for _ in range(5):  # Python ignores an interrupt that comes while an object is being deleted
            notebook.interrupt()
            with suppress(AssertionError):
                notebook.until(lambda prompts: prompts == ["[1]:", "[2]:", "[ ]:"], patience=120)
                break
        notebook.until(lambda _: notebook.errors())
        assert ["KeyboardInterrupt" in error for error in notebook.errors()] == [True]
        notebook.idle()
        notebook.run_all()
        notebook.until(lambda prompts: prompts == ["[3]:", "[4]:", "[5]:"] or len(notebook.errors()) > 0)
        assert notebook.errors() == []
        said = notebook.page.locator(".jp-OutputArea-output").all_inner_texts()
        assert [text.strip() for text in said][-1] == "try 2 of seed 0"
        assert plain(notebook.complaints, *OWN) == []
