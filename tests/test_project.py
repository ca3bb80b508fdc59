import pytest

from grsd.project import ProjectNotFound, figures, project


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
