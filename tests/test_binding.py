"""The annotations are enforced, and what binds their arguments for the tests binds them as ``inspect`` does."""

import inspect

import jaxtyping
import pytest
import torch
from binding import Complete, Signature

import grsd


def named(a, b=2, *, c=3, d):
    pass


def by_position(a, /, b, c=None):
    pass


def starred(a, *more, b=1, **others):
    pass


CALLS = [
    ((1,), {"d": 4}), ((1, 5), {"d": 4, "c": None}), ((), {"d": 4, "a": 1}), ((1, 2), {}), ((1, 2, 3), {}),
    ((1, 2, 3, 4), {}), ((), {}), ((1,), {"a": 1, "d": 4}), ((1,), {"b": 2}), ((1,), {"x": 2, "d": 4}),
    ((), {"a": 1, "b": 2}), ((1, 2, 3), {"b": 4, "x": 5}),
]  # fmt: skip


def bound(signature, args, kwargs):
    try:
        found = signature.bind(*args, **kwargs)
    except TypeError as error:
        return str(error)
    found.apply_defaults()
    return found.arguments, found.args, found.kwargs


@pytest.mark.parametrize("function", [named, by_position, starred])
def test_it_binds_as_inspect_does(function):
    answers = []
    for args, kwargs in CALLS:
        expected = bound(inspect.signature(function), args, kwargs)
        assert bound(Signature.from_callable(function), args, kwargs) == expected
        answers.append(expected)
    assert any(isinstance(answer, str) for answer in answers) or function is starred
    assert not all(isinstance(answer, str) for answer in answers)


def test_a_signature_that_is_replaced_still_binds_quickly():
    changed = Signature.from_callable(named).replace(return_annotation=int)
    assert isinstance(changed.bind(1, d=2), Complete)


def test_wrong_arguments_and_wrong_shapes_are_refused():
    with pytest.raises(jaxtyping.TypeCheckError, match="seed"):
        grsd.Perceptron(64, 10, seed="one")
    with pytest.raises(jaxtyping.TypeCheckError):
        grsd.spectrum(torch.zeros(2, 3, dtype=torch.float64))
    with pytest.raises(TypeError, match="missing"):
        grsd.spectrum()
