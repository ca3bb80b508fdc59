"""A release: one version, what is packed, what other places run it from, and what GitHub shows."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
REFUSED_BY_GITHUB = r"\\(newcommand|renewcommand|def|let|require|href|label|ref|eqref|class|style|cssId|unicode)\b"


def test_one_version_and_one_description():
    """The version stands in pyproject; what repeats it, or cannot read it, agrees."""
    assert CITATION["version"] == PROJECT["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", PROJECT["version"])
    stored = json.loads((ROOT / ".zenodo.json").read_text())
    assert stored["title"] == CITATION["title"]
    assert stored["license"] == CITATION["license"] == PROJECT["license"]
    assert stored["keywords"] == PROJECT["keywords"]
    assert [person["name"] for person in stored["creators"]] == [person["name"] for person in CITATION["authors"]]
    assert "version" not in stored, "Zenodo takes it from the tag"
    known = [entry["value"] for paper in CITATION["references"] for entry in paper["identifiers"]]
    assert {entry["identifier"] for entry in stored["related_identifiers"]} <= set(known)


def test_binder_installs_what_is_pinned():
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    (torch,) = (line for line in lock if line.startswith("torch=="))
    lines = (ROOT / ".binder" / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")][1:] == [
        f"{torch}+cpu",
        "-c ../requirements.lock",
        "-e .[notebooks]",
    ]
    python = (ROOT / ".binder" / "runtime.txt").read_text().strip()
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][0]
    assert python.replace("-", "=") == conda
    for script in ("postBuild", "start"):
        path = ROOT / ".binder" / script
        assert path.stat().st_mode & 0o111, "Binder runs it"
        assert subprocess.run(["bash", "-n", path], check=False).returncode == 0


def test_the_matrix_covers_what_is_promised():
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    matrix = workflow["jobs"]["versions"]["strategy"]["matrix"]
    assert matrix == {"os": ["ubuntu-latest", "macos-latest"], "python": ["3.11", "3.12", "3.13", "3.14"]}
    assert PROJECT["requires-python"] == f">={matrix['python'][0]}"
    assert "BROWSER_TESTS=required" in (ROOT / ".ci" / "run").read_text(), "a skipped browser test fails there"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_github_can_show_it(path):
    """Small enough to be rendered; only mathematics that GitHub sets; every formula is closed."""
    assert path.stat().st_size < 10**6
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"```.*?```|`[^`\n]*`", "", cell.source, flags=re.DOTALL)
            assert not re.search(REFUSED_BY_GITHUB, text), cell.source
            inline = text.replace(r"\$", "").split("$$")
            assert len(inline) % 2 == 1, cell.source
            assert all(part.count("$") % 2 == 0 for part in inline[::2]), cell.source


def packed(folder):
    """Names under grsd/ in the wheel and in the source archive that pip and setuptools build into ``folder``."""
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        return wheel, set(archive.namelist()), inside


@pytest.mark.long
def test_wheel_and_source_archive_in_a_clean_environment(tmp_path):
    """Every file of the package is in both; the installed wheel computes, says its version, and refuses in one line."""
    listed = subprocess.run(["git", "ls-files", "grsd"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    if not listed:
        pytest.skip("not a clone")
    source = tmp_path / "source"
    source.mkdir()
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in (name for name in files if name.startswith("grsd/") or "/" not in name):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    built = tmp_path / "built"
    code = "import sys; from setuptools import build_meta as b; to = sys.argv[1]; b.build_wheel(to); b.build_sdist(to)"
    builder, clean = made_environment(tmp_path / "builder"), made_environment(tmp_path / "clean")
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    subprocess.run([builder, "-m", "pip", "install", "-q", *needed], check=True)
    built.mkdir()
    subprocess.run([builder, "-c", code, built], cwd=source, check=True, capture_output=True)
    wheel, in_wheel, in_source = packed(built)
    assert set(listed.split()) <= in_wheel
    assert {*listed.split(), "pyproject.toml", "README.md", "LICENSE"} <= in_source
    assert wheel.name == f"grsd-{PROJECT['version']}-py3-none-any.whl"
    subprocess.run([clean, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel], check=True)
    # What grsd needs comes from the environment of this test; its own path file is not read from there.
    variables = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")}
    variables.pop("GRSD_PROJECT", None)
    network = "grsd.Perceptron(64, 2, width=4, depth=1)"
    line = f"import grsd; print(grsd.__file__, grsd.tangent_kernel({network}, grsd.digits(3).inputs).shape)"
    said = ask([clean, "-c", line], tmp_path, variables)
    assert said.stdout.startswith(str(tmp_path / "clean"))
    assert said.stdout.strip().endswith("torch.Size([6, 6])")
    assert ask([clean.with_name("grsd"), "--version"], tmp_path, variables).stdout == f"grsd {PROJECT['version']}\n"
    refused = ask([clean.with_name("grsd"), "claims"], tmp_path, variables)
    assert refused.returncode == 2
    assert refused.stderr.startswith("grsd claims: no notebooks/profiles.yaml in ")
    assert refused.stderr.count("\n") == 1


def made_environment(folder):
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder / "bin" / "python"


def ask(line, folder, variables):
    return subprocess.run(line, cwd=folder, env=variables, capture_output=True, text=True, check=False)
