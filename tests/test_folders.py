import contextlib
import os

import pytest

from grsd.support.folders import ProjectNotFound, environment, figures, one_line, project, writable, writable_file


def test_found_from_anywhere(monkeypatch, tmp_path):
    here = project()
    assert (here / "pyproject.toml").is_file()
    monkeypatch.chdir(tmp_path)
    assert project() == here


def test_named_project(monkeypatch, tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "profiles.yaml").write_text("{}")
    assert project(tmp_path) == tmp_path.resolve()
    monkeypatch.setenv("GRSD_PROJECT", str(tmp_path))
    assert project() == tmp_path.resolve()
    monkeypatch.setenv("GRSD_PROJECT", str(tmp_path / "elsewhere"))
    with pytest.raises(
        ProjectNotFound, match=r"no notebooks/profiles.yaml in .*elsewhere: clone .* --project"
    ) as caught:
        project()
    assert "\n" not in str(caught.value)


def test_figures_by_hand_never_touch_the_committed_ones(monkeypatch, tmp_path):
    monkeypatch.delenv("GRSD_FIGURES", raising=False)
    assert figures() == project() / "build" / "figures"
    monkeypatch.setenv("GRSD_FIGURES", str(tmp_path / "new"))
    assert figures() == tmp_path / "new"
    assert figures().is_dir()


@pytest.fixture
def places(tmp_path):
    """A folder with a file, a loop of links, and a link to nothing."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("missing")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("file", "is not a folder"),
        ("file/below", "is not a folder"),
        ("loop", "Too many levels of symbolic links"),
        ("loop/below", "Too many levels of symbolic links"),
        ("nowhere", "No such file or directory"),
        ("n" * 300, "File name too long"),
        ("a\0b", "embedded null byte"),
    ],
)
def test_a_folder_that_cannot_be_written_to(places, name, why):
    with pytest.raises(ValueError, match=rf"^--folder: cannot write to .*: .*{why}$") as caught:
        writable("--folder", places / name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_folder_that_can_be_made(places):
    assert writable("--folder", places / "new" / "newer") == places / "new" / "newer"
    assert not (places / "new").exists()
    (places / "link").symlink_to(places)
    writable("--folder", places / "link" / "new")


def test_read_only_places(places, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(ValueError, match=r"^--folder: cannot write to .*: .* is read-only here$"):
        writable("--folder", places / "new")
    with pytest.raises(ValueError, match=r"^--table: cannot write .*file: it is read-only here$"):
        writable_file("--table", places / "file")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (".", "cannot write .*: it is not a file"),
        ("missing/t.csv", "there is no folder .*missing"),
        ("file/t.csv", "there is no folder .*file"),
        ("loop", "cannot write .*: Too many levels of symbolic links"),
        ("nowhere", "cannot write .*: No such file or directory"),
        ("n" * 300, "cannot write .*: File name too long"),
    ],
)
def test_a_file_that_cannot_be_written(places, name, why):
    with pytest.raises(ValueError, match=rf"^--table: {why}$") as caught:
        writable_file("--table", places / name)
    assert "\n" not in str(caught.value)


def test_one_line():
    assert one_line("a\nb\x1b[31m\udc80") == r"a\nb\x1b[31m\udc80"
    assert one_line("x" * 300, 20) == "x" * 17 + "..."


def test_the_environment_comes_back(monkeypatch):
    monkeypatch.setenv("GRSD_A", "1")
    monkeypatch.delenv("GRSD_B", raising=False)
    within = []
    with contextlib.suppress(KeyError), environment({"GRSD_A": "2", "GRSD_B": "3"}):
        within += [os.environ["GRSD_A"], os.environ["GRSD_B"], os.environ["GRSD_C"]]
    with environment({"GRSD_A": "2", "GRSD_B": "3"}):
        within += [os.environ["GRSD_A"], os.environ["GRSD_B"]]
    assert within == ["2", "3"]
    assert os.environ["GRSD_A"] == "1"
    assert "GRSD_B" not in os.environ
