"""The faces of packages: every name where it belongs, whoever is imported first, and torch only where it is needed."""

import importlib
import pickle
import pkgutil
import subprocess
import sys
from importlib.metadata import version

import pytest

import grsd
import grsd.runs
from grsd.support.lazy import face

FACES = (grsd, grsd.runs)
PACKAGES = ["grsd", *(m.name for m in pkgutil.walk_packages(grsd.__path__, "grsd.") if m.ispkg)]


@pytest.mark.parametrize("package", FACES, ids=lambda package: package.__name__)
def test_a_face_has_its_names_and_no_other(package):
    more = set(dir(package)) - set(package.__all__)
    assert set(package.__all__) < set(dir(package)) if package is grsd else not more
    assert all(getattr(package, name) is not None for name in more)
    assert all(getattr(package, name).__module__.startswith("grsd.") for name in package.__all__ if name != "CHOICES")
    with pytest.raises(AttributeError, match=f"^module '{package.__name__}' has no attribute 'nothing'$"):
        package.nothing  # noqa: B018


@pytest.mark.parametrize("name", PACKAGES)
def test_no_name_is_that_of_a_submodule(name):
    """Importing the submodule would put it in the name's place, or the name hides the submodule."""
    package = importlib.import_module(name)
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert not modules & set(getattr(package, "__all__", ()))


def test_what_is_not_in_all_is_no_attribute():
    get, _ = face("grsd")
    with pytest.raises(AttributeError):
        get("TYPE_CHECKING_ONLY")
    with pytest.raises(AttributeError):
        get("__wrapped__")
    assert get("shells").__name__ == "grsd.shells"


def in_a_new_process(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.long
def test_every_import_order():
    """Each module of the package first, then the face: its names are what they always are."""
    code = """
import importlib, pkgutil, sys
import grsd
for module in sorted(m.name for m in pkgutil.walk_packages(grsd.__path__, "grsd.")):
    importlib.import_module(module)
import inspect, grsd.runs
for package in (grsd, grsd.runs):
    for name in package.__all__:
        assert not inspect.ismodule(getattr(package, name)), name
print(grsd.spectrum.__name__, grsd.project().name, grsd.run.__name__, grsd.runs.train.__name__)
"""
    assert in_a_new_process(code)[::2] == ["spectrum", "run"]


def test_torch_waits():
    """``import grsd``, a ``Spec`` and the claims need none; pickled classes come back in a process that has nothing."""
    spec = grsd.Spec(depth=3)
    code = f"""
import pickle, sys
import grsd
from grsd import Spec, claims, project
assert Spec(depth=3) == pickle.loads({pickle.dumps(spec)!r})
claims(), dir(grsd)
assert not {{"torch", "scipy", "xarray"}} & sys.modules.keys()
from grsd import *
assert "torch" in sys.modules and tangent_kernel is grsd.tangent_kernel and LogShells.__name__ == "LogShells"
"""
    in_a_new_process(code)


def test_dir_is_what_a_user_types():
    assert grsd.__version__ == version("grsd")
    listed = set(dir(grsd)) - set(grsd.__all__)
    assert listed == {
        "__version__", "conditions", "datasets", "krylov", "laws", "networks", "plotting", "solvable", "theory",
        "training",
    }  # fmt: skip
    assert grsd.conditions.CONDITIONS
    data = grsd.digits(6)
    flow = grsd.gradient_flow(grsd.Perceptron(64, 10, width=4, depth=2), data.inputs, data.targets, [0.0, 1.0])
    modes = grsd.spectrum(grsd.tangent_kernel(flow.snapshots[1].model, data.inputs))
    for value in (flow, flow.snapshots[1], modes):
        assert repr(value).startswith(f"{type(value).__name__}(")
        assert len(repr(value)) < 120


def test_a_name_that_no_module_can_have_is_no_attribute():
    for name in ("", "a b", "cli.nothing", "nothing.at.all", "support.files"):
        assert not hasattr(grsd, name)
