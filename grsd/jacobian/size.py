"""How large a problem is: whether its arithmetic takes the time, or the calling of functions does."""

from __future__ import annotations

from torch import Tensor

PER_CALL = 2**20  # multiplications that take as long as calling one function, forward and backward
PER_CHECK = 2**19  # the same where only checks are spared
FEW_CALLS = 2**22  # multiplications that take no longer than the calls that avoid them
GRAMS_AT_ONCE = 2**20  # numbers in Gram matrices that are made at once
HELD_ROWS = 2**24  # numbers in rows that are held though they could be factored
SAMPLES, MANY_SAMPLES, INPUTS = 32, 128, 2**14


def evaluated_at_once(inputs: Tensor) -> bool:
    """Whether these inputs are so few that their graph is made before anything is known of the model."""
    samples = len(inputs)
    return samples <= SAMPLES or (samples <= MANY_SAMPLES and inputs.numel() <= INPUTS)


def rows_are_cheap(outputs: int, parameters: int, calls: int, known: bool) -> bool:
    """Whether rows of so many parameters, for so many outputs, and their products cost less than they spare.

    They spare passes of ``calls`` calls: a second one of each sample alone, or, where all parameters are ``known``,
    those that check the samples and find the layouts.
    """
    numbers = outputs * parameters
    return numbers < HELD_ROWS and numbers * outputs < (PER_CHECK if known else PER_CALL) * calls


def rows_avoid_calls(multiplications: int) -> bool:
    """Whether products of rows cost less than calling what would avoid them."""
    return multiplications < FEW_CALLS


def grams_fit(numbers: int) -> bool:
    """Whether so many numbers in Gram matrices are made at once."""
    return numbers <= GRAMS_AT_ONCE
