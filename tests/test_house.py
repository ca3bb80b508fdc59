"""The house: files that must agree, the order of imports, what must not be in the tree."""

import ast
import contextlib
import graphlib
import re
import subprocess
import sys
import textwrap
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
ORDER = [
    "support", "losses",
    "networks", "datasets",
    "jacobian", "kernel", "decomposition", "shells", "krylov", "flow", "laws", "theory", "solvable",
    "runs", "training", "evidence", "conditions", "studies", "plotting", "auditing",
    "bench", "plan", "reproduce", "workflow", "lab", "commands", "cli",
]  # fmt: skip


def pins():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    listed = project["dependencies"] + extras["notebooks"] + extras["training"] + extras["book"] + extras["test"]
    return [Requirement(text) for text in listed if not text.startswith("grsd[")]


def test_lock_satisfies_the_floors():
    locked = pins()
    for requirement in requirements():
        assert requirement.name in locked
        assert Version(locked[requirement.name]) in requirement.specifier, requirement
        assert [part.operator for part in requirement.specifier] == [">="], "pyproject has floors"
    assert locked["torch"] == "2.13.0"
    assert "grsd" not in locked


def test_conda_environment_is_the_lock_and_this_package():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, rest = environment["dependencies"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert environment["channels"] == ["conda-forge"]
    assert environment["name"] == project["name"]
    assert Version(python.removeprefix("python=")) in Requirement(f"python{project['requires-python']}").specifier
    assert pip == "pip"
    assert rest == {"pip": ["-r requirements.lock", "-e ."]}


def test_readme_makefile_and_ci_say_the_same():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make ([\w-]+)", readme, re.MULTILINE)
    assert targets == ["figures", "test", "test-long", "lab"]
    assert set(targets) <= set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    assert f"torch=={pins()['torch']}" in readme
    for command in (
        'pip install -c requirements.lock -e ".[test]"',
        "grsd reproduce",
        "grsd lab",
        "pytest -n 2",
        "pytest -n 2 -m long",
    ):
        assert command in readme
        assert command in makefile
    assert re.findall(r"^make (.*)", (ROOT / ".ci/run").read_text(), re.MULTILINE) == ["test", "test-long"]
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert {"run": "bash .ci/run"} in steps
    for step in steps:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", step.get("uses", f"a/b@{'0' * 40}")), step
    assert "secrets" not in str(workflow)


def test_readme_maps_every_notebook():
    readme = (ROOT / "README.md").read_text()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        row = f"[{path.stem}](notebooks/{path.name})"
        assert row in readme, f"a row | {row} | its question? | 0 s | is missing in README.md"
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", readme):
        assert (ROOT / link).exists(), link


def test_readme_is_short_before_the_reference():
    """A picture and a command on the first screen; few words before the reference part, code and addresses aside."""
    readme = (ROOT / "README.md").read_text()
    start, rest = readme.split("\n# Reference\n")
    screen = "\n".join(start.splitlines()[:30])
    assert "](figures/" in screen
    assert "make figures" in screen
    assert "grsd.Monitor(" in rest
    prose = re.sub(r"```.*?```|<!--.*?-->|\]\([^)]*\)", "", start, flags=re.DOTALL)
    assert len(re.findall(r"\S*\w\S*", prose)) <= 900


def test_readme_lines_run_as_printed(tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len([line for line in block.splitlines() if line]) <= 10
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", block],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for name in ("energy", "dissipation", "flux", "velocity"):
        assert name in done.stdout


@pytest.mark.long
def test_readme_conditions_run_as_printed(tmp_path):
    readme = (ROOT / "README.md").read_text()
    after = readme[readme.index("The conditions take any torch module") :].partition("\n\n")[2]
    block = re.match(r"(?:    .*\n|\n(?=    ))+", after)[0]
    code = "import grsd\n" + textwrap.dedent(block)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert re.match(r"(holds|fails|inconclusive): .*, 8 runs; ", done.stdout), done.stdout


def module_of(parts):
    """grsd/kernel.py and grsd/shells/budget.py are the modules kernel and shells."""
    return parts[0].removesuffix(".py")


def test_imports_go_one_way():
    package = ROOT / "grsd"
    files = [path for path in package.rglob("*.py") if path != package / "__init__.py"]
    assert {module_of(path.relative_to(package).parts) for path in files} == set(ORDER)
    inner: dict[str, set[str]] = {}
    for path in files:
        module = module_of(path.relative_to(package).parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("grsd"):
                assert node.module != "grsd", f"{path.name}: import from grsd.MODULE, so that its order is seen"
                other = module_of(node.module.split(".")[1:])
                if other == module:
                    inner.setdefault(node.module, set()).add(f"grsd.{module}.{path.stem}")
                else:
                    assert ORDER.index(other) < ORDER.index(module), f"{path.name} imports {other}"
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path.name}: relative import"
    graphlib.TopologicalSorter(inner).prepare()


def test_every_floor_is_imported_by_tests():
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("*.py"))
    imported = set(re.findall(r"(?:from|import) grsd\.(\w+)", tests))
    imported |= {name for line in re.findall(r"from grsd import ([^\n(]+)", tests) for name in line.split(", ")}
    assert set(ORDER) <= imported


def test_every_package_is_installed():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "grsd").rglob("__init__.py")}
    assert set(packages) == found


def test_an_editable_install_is_a_path():
    """A script beside a clone named grsd finds the package in it, not an empty namespace: only this makes setuptools
    write a path instead of an import hook, which comes after folders."""
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"] == {"": "."}
    with contextlib.suppress(PackageNotFoundError):
        written = [str(file) for file in distribution("grsd").files or [] if "__editable__" in str(file)]
        assert not [name for name in written if name.endswith("_finder.py")], "install it again: make"


def test_every_dependency_is_used():
    source = "\n".join(path.read_text() for folder in ("grsd", "tests") for path in (ROOT / folder).rglob("*.py"))
    source += (
        (ROOT / "notebooks/book/conf.py").read_text()
        + (ROOT / "Makefile").read_text()
        + (ROOT / "pyproject.toml").read_text().split("[tool.pytest")[1]
    )
    imported = {
        "scikit-learn": "sklearn",
        "pyyaml": "yaml",
        "pytest-xdist": "-n 2",
        "jupyterlab": "jupyterlab",
        "pillow": "load_sample_images",
        "pytest-cov": "--cov",
        "myst-nb": "myst_nb",
    }
    for requirement in requirements():
        assert imported.get(requirement.name, requirement.name) in source, requirement


def tracked():
    """Nothing where the files came without git, as in a downloaded archive."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, text=True, capture_output=True, check=False)
    return listed.stdout.split()


def test_tracked_files():
    """Small, and unsafe calls nowhere."""
    for path in tracked():
        file = ROOT / path
        assert file.stat().st_size < 2**20, path
        if file.suffix == ".py":
            tree = ast.parse(file.read_text())
            calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
            assert not calls & {"eval", "exec", "yaml.load", "pickle.load", "pickle.loads", "os.system"}, path
