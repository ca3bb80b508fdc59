"""``make test`` runs these notebooks cell by cell; ``make test-long`` runs the others, half a minute each."""

import pytest

QUICK = {"00_start_here", "01_shell_dynamics", "03_gradient_propagation"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.suffix == ".ipynb" and item.path.stem not in QUICK:
            item.add_marker("long")
