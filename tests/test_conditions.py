import importlib

import pytest


@pytest.mark.parametrize("name", ["propagation", "incoherence"])
def test_each_condition_measures_and_judges(name):
    module = importlib.import_module(f"grsd.conditions.{name}")
    assert callable(module.measure)
    assert callable(module.judge)
    assert module.RULE.reason
