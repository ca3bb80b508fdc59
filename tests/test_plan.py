"""What a request asks for, from files that are read as they are: notebooks as JSON, profiles as YAML."""

import json

import pytest

from grsd.plan import Refused, declared_in, plan
from grsd.support.folders import project

PARAMETERS = (
    'count: int = 5\nrate: float = 0.5\nflag: bool = False\nname: str = "a"\nsteps: list = [1]\ndevice: str = "auto"\n'
    "other = 3  # no parameter: it has no type"
)


def notebook(source):
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": source.splitlines(keepends=True)}
    return json.dumps({"cells": [{"cell_type": "markdown", "source": "text"}, cell], "nbformat": 4})


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "profiles.yaml").write_text("test:\ndefault: {}\nfull: {00_first: {rate: 1e-3, flag: true}}\n")
    (folder / "00_first.ipynb").write_text(notebook(PARAMETERS))
    (folder / "01_second.ipynb").write_text(notebook("divisor: int = 1\n"))
    return tmp_path


def test_types_and_profiles(root):
    first, second = plan(root)
    assert (first.notebook.stem, second.notebook.stem) == ("00_first", "01_second")
    assert first.parameters == second.parameters == {}
    assert plan(root, profile="test")[0].parameters == {}, "a profile of nothing"
    (run,) = plan(root, only=["00"], profile="full", settings=["count=7", "steps=[1, 2]", "name=7"], device="cpu")
    assert run.parameters == {"rate": 1e-3, "flag": True, "count": 7, "steps": [1, 2], "name": "7", "device": "cpu"}
    assert plan(root, only=["01_second"], settings=["divisor=3"])[0].parameters == {"divisor": 3}
    assert plan(root, settings=["divisor=3"])[0].parameters == {}
    assert list(declared_in(root / "notebooks" / "00_first.ipynb")) == [
        "count",
        "rate",
        "flag",
        "name",
        "steps",
        "device",
    ]


@pytest.mark.parametrize(
    ("profiles", "message"),
    [
        ("default: {00_first: {cuont: 1}}", r"profiles\.yaml, profile default: 00_first has no parameter 'cuont'"),
        ("default: {00_first: {count: x}}", "parameter count=x: expected int"),
        ("", r"profiles\.yaml: expected profiles such as default: \{NOTEBOOK: \{parameter: value\}\}"),
        ("[default]", r"profiles\.yaml: expected profiles such as"),
        ("default: [00_first]", r"profiles\.yaml: expected profiles such as"),
        ("default: {00_first: 3}", r"profiles\.yaml: expected profiles such as"),
        ("default: {00_first: [", r"profiles\.yaml cannot be read as YAML: while parsing"),
        ("[" * 2000, r"profiles\.yaml cannot be read as YAML: "),
        ("default: !!python/object:os.system {}", r"profiles\.yaml cannot be read as YAML: could not determine"),
        (b"\xff\xfe", r"profiles\.yaml: expected UTF-8 text, found another byte at 0"),
    ],
)
def test_profiles_that_are_none(root, profiles, message):
    (root / "notebooks" / "profiles.yaml").write_bytes(profiles if isinstance(profiles, bytes) else profiles.encode())
    with pytest.raises(ValueError, match=message) as caught:
        plan(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "01_second.ipynb cannot be read as a notebook: Expecting value"),
        (b"[]", "01_second.ipynb cannot be read as a notebook: list indices"),
        (b"{}", "01_second.ipynb cannot be read as a notebook: no 'cells'"),
        (b'{"cells": 3}', "01_second.ipynb cannot be read as a notebook: 'int' object"),
        (b"[" * 100_000, "01_second.ipynb cannot be read as a notebook: maximum recursion"),
        (b"\xff", "01_second.ipynb cannot be read as a notebook: .*: expected UTF-8 text"),
        (notebook("divisor: int ==").encode(), "01_second.ipynb cannot be read as a notebook: invalid syntax"),
    ],
)
def test_notebooks_that_are_none(root, content, message):
    path = root / "notebooks" / "01_second.ipynb"
    path.write_bytes(content)
    with pytest.raises(Refused, match=message) as caught:
        plan(root)
    assert "\n" not in str(caught.value)
    path.unlink()
    path.mkdir()
    with pytest.raises(Refused, match=r"^01_second.ipynb cannot .*: cannot be read: Is a directory"):
        plan(root)
    for other in (root / "notebooks").glob("*.ipynb"):
        other.rename(root / other.name)
    with pytest.raises(Refused, match=r"no notebooks in .*/notebooks"):
        plan(root)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("depth=0", "parameter depth: expected a whole number of at least 1, got 0"),
        ("samples=5000", r"parameter samples: expected at most 1797 \(digits has 1797 samples\), got 5000"),
        ("last=nan", "parameter last: expected a positive finite number, got nan"),
        ("depths=[4, 0]", "parameter depths: expected a whole number of at least 1, got 0"),
    ],
)
def test_nonsense_is_refused_as_in_the_notebook(setting, message):
    with pytest.raises(Refused, match=f"^{message}$"):
        plan(project(), settings=[setting])
