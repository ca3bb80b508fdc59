"""Estimates of cost: whether arithmetic or the overhead of function calls takes most of the time."""

from __future__ import annotations

from torch import Tensor

PER_CALL = 2**20  # multiplications that take as long as one function call, forward and backward
PER_CHECK = 2**19  # the same if only checks are saved
FEW_CALLS = 2**22  # multiplications that take no longer than the calls that would avoid them
COPIES = 2**17  # numbers that are copied in the time of another round of calls
GRAMS_AT_ONCE = 2**16  # numbers in Gram matrices that are computed at once; of larger ones only one half is
HELD_ROWS = 2**24  # numbers in rows that are held although they could be factored
NARROW = 5  # how much longer a multiplication takes in a product with few rows and columns
SAMPLES, MANY_SAMPLES, INPUTS = 32, 128, 2**14


def evaluated_at_once(inputs: Tensor) -> bool:
    """Whether the inputs are so few that the graph of all of them is made before the model is examined."""
    samples = len(inputs)
    return samples <= SAMPLES or (samples <= MANY_SAMPLES and inputs.numel() <= INPUTS)


def rows_are_cheap(outputs: int, parameters: int, calls: int, known: bool) -> bool:
    """Whether rows of ``parameters`` numbers for ``outputs`` outputs, and their products, cost less than they save.

    They save passes of ``calls`` function calls: the pass of single samples, or, if all parameters are ``known``, the
    passes that check the samples and find the layouts.
    """
    numbers = outputs * parameters
    return numbers < HELD_ROWS and numbers * outputs < (PER_CHECK if known else PER_CALL) * calls


def copies_avoid_calls(numbers: int) -> bool:
    """Whether copying so many numbers costs less than another round of calls."""
    return numbers < COPIES


def rows_avoid_calls(multiplications: int) -> bool:
    """Whether products of rows cost less than the calls that would avoid them."""
    return multiplications < FEW_CALLS


def grams_fit(numbers: int) -> bool:
    """Whether Gram matrices with this many numbers are computed at once."""
    return numbers <= GRAMS_AT_ONCE


def rows_work(samples: int, classes: int, positions: int, p: int, q: int) -> float:
    """Multiplications for the rows of p q parameters, and for half of their products."""
    return samples * classes * p * q * (positions + samples * classes / 2)


def weighted_work(samples: int, classes: int, positions: int, p: int, q: int) -> float:
    """Multiplications for products of features, for backprops weighted by them, and for half of their products."""
    pair = positions * (positions * (p + classes * q) + NARROW * classes**2 * q)
    return samples * (samples * pair / 2 + PER_CALL)
