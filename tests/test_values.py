import math

import pytest

from grsd.networks import LAYERS
from grsd.support.values import ACTIVATIONS, between, cores, positive, whole_number


def test_names_are_those_of_the_layers():
    assert tuple(LAYERS) == ACTIVATIONS


def test_what_is_right_comes_back():
    assert (between("f", 3, 1, 3, "why"), positive("f", "x", 2), whole_number("f", "n", 0, 0)) == (3, 2.0, 0)
    assert cores() >= 1


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: between("--n", 0, 1, 3, "why"), "--n: expected a whole number of at least 1, got 0"),
        (lambda: between("--n", 4, 1, 3, "why"), "--n: expected at most 3 (why), got 4"),
        (lambda: between("--n", 10**5000, 1, 3, "why"), "--n: expected at most 3 (why), got a longer number"),
        (lambda: between("--n", 1.0, 1, 3, "why"), "--n: expected a whole number of at least 1, got 1.0"),
        (lambda: between("--n", True, 1, 3, "why"), "--n: expected a whole number of at least 1, got True"),
        (lambda: positive("f", "x", math.nan), "f(x=...): expected a positive finite number, got nan"),
        (lambda: positive("f", "x", True), "f(x=...): expected a positive finite number, got True"),
        (lambda: positive("f", "x", 10**400), "f(x=...): expected a positive finite number, got a longer number"),
        (lambda: whole_number("f", "n", "3", 1), "f(n=...): expected a whole number of at least 1, got '3'"),
        (
            lambda: whole_number("f", "n", -(10**5000), 1),
            "f(n=...): expected a whole number of at least 1, got a longer number",
        ),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    assert str(caught.value) == message
