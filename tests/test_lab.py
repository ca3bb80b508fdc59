"""Lab works on copies: fresh where there is none, never over what somebody changed."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

import grsd
from grsd import cli
from grsd.lab import LINKED, RECORD, command, copies
from grsd.support.folders import PROJECT


@pytest.fixture
def folders(tmp_path):
    notebooks, folder = tmp_path / "notebooks", tmp_path / "build" / "lab"
    notebooks.mkdir()
    (notebooks / "profiles.yaml").write_text("{}")
    for name in ("00_a", "01_b"):
        (notebooks / f"{name}.ipynb").write_text(f"{name}: first")
    return notebooks, folder


def test_copies_are_made_renewed_and_kept(folders):
    notebooks, folder = folders
    assert copies(notebooks, folder) == [f"{folder}: 2 copied, 0 kept as you left them"]
    assert sorted(path.name for path in folder.iterdir()) == [RECORD, "00_a.ipynb", "01_b.ipynb"]
    assert copies(notebooks, folder) == [f"{folder}: 0 copied, 0 kept as you left them"]
    (folder / "01_b.ipynb").write_text("mine")
    (notebooks / "00_a.ipynb").write_text("00_a: second")
    assert copies(notebooks, folder) == [f"{folder}: 1 copied, 1 kept as you left them"]
    assert (folder / "00_a.ipynb").read_text() == "00_a: second"
    (notebooks / "01_b.ipynb").write_text("01_b: second")
    for _ in range(2):
        first, second = copies(notebooks, folder)
        assert first == f"{folder}: 0 copied, 1 kept as you left them"
        assert second == f"01_b.ipynb is newer than your copy; move {folder / '01_b.ipynb'} away to have it"
    assert (folder / "01_b.ipynb").read_text() == "mine"
    (folder / "01_b.ipynb").unlink()
    assert copies(notebooks, folder) == [f"{folder}: 1 copied, 0 kept as you left them"]
    assert (folder / "01_b.ipynb").read_text() == "01_b: second"


def test_links_to_pages_of_the_book_work_in_lab(folders):
    """Every link of a notebook to a page is of one that is copied; one to the glossary leads to an entry."""
    notebooks, folder = folders
    (notebooks / "book").mkdir()
    for text in ("first", "second"):
        for page in LINKED:
            (notebooks / page).write_text(text)
        copies(notebooks, folder)
        assert [(folder / page).read_text() for page in LINKED] == [text] * len(LINKED)
    real = grsd.project() / "notebooks"
    headings = re.findall(r"^## (.+)$", (real / "book" / "glossary.md").read_text(), re.MULTILINE)
    entries = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = {link for path in real.glob("*.ipynb") for link in re.findall(r"\]\(book/([^)]+)\)", path.read_text())}
    assert len(links) > 20
    whole = {page.removeprefix("book/") for page in LINKED}
    assert links - whole <= {f"glossary.md#{entry}" for entry in entries}


@pytest.mark.parametrize("record", ["no JSON", "[1]", "{}"])
def test_without_its_record_every_copy_counts_as_changed(folders, record):
    notebooks, folder = folders
    copies(notebooks, folder)
    (folder / RECORD).write_text(record)
    (notebooks / "00_a.ipynb").write_text("00_a: second")
    assert copies(notebooks, folder)[0] == f"{folder}: 0 copied, 1 kept as you left them"
    assert (folder / "00_a.ipynb").read_text() == "00_a: first"


def test_loopback_token_and_one_thread(monkeypatch, tmp_path, folders, capsys):
    folder = folders[1]
    started = []

    def started_instead(program, line, variables):
        started.append((line, variables))
        raise SystemExit(0)

    monkeypatch.setattr(os, "execve", started_instead)
    for given, threads in ((None, "1"), ("2", "2")):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if given:
            monkeypatch.setenv("OMP_NUM_THREADS", given)
        with pytest.raises(SystemExit):
            cli.main(["lab", "--project", str(tmp_path), "--no-browser", "--port", "9999"])
        line, environment = started.pop()
        assert environment["OMP_NUM_THREADS"] == threads
        assert environment[PROJECT] == str(tmp_path)
        assert {"--ServerApp.ip=127.0.0.1", "--no-browser", "--ServerApp.port=9999"} <= set(line)
        assert not any(re.match(r"--\w+\.(token|password)", part) for part in line), "the server makes its own token"
        assert f"kernels compute with OMP_NUM_THREADS={threads}; set it before" in capsys.readouterr().out
    assert (folder / "00_a.ipynb").is_file()
    assert "--ServerApp.port" not in " ".join(command(folder, None, True))


@pytest.mark.parametrize("port", ["0", "70000", "x"])
def test_a_wrong_port_is_refused_in_one_line(port, capsys):
    try:
        code = cli.main(["lab", "--port", port])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.long
def test_the_server_lists_the_copies(tmp_path):
    """The real server on the real notebooks, asked through its API, with its token and without."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "notebooks").symlink_to(grsd.project() / "notebooks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "grsd.cli", "lab", "--no-browser", "--port", str(port), "--project", str(root)]
    variables = os.environ | {"JUPYTER_TOKEN": "abc", "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")}
    with subprocess.Popen(line, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            listing = _asked(f"http://127.0.0.1:{port}/api/contents/lab", server)
        finally:
            server.terminate()
    names = [entry["name"] for entry in listing["content"]]
    assert names
    assert all(re.fullmatch(r"\d\d_\w+\.ipynb|book", name) for name in names)


def _asked(address, server):
    for _ in range(120):
        try:
            with urllib.request.urlopen(f"{address}?token=abc", timeout=5) as answer:  # noqa: S310
                return json.load(answer)
        except OSError:
            assert server.poll() is None
            time.sleep(0.5)
    raise AssertionError("no answer in a minute")
