"""``make test`` runs the tour cell by cell; ``make test-long`` runs the other notebooks, half a minute each."""

import pytest

QUICK = {"00_start_here"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.suffix == ".ipynb" and item.path.stem not in QUICK:
            item.add_marker("long")
