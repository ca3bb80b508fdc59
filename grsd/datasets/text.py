"""Characters of English prose that comes with Python."""

from __future__ import annotations

import hashlib
import re
from functools import cache

import numpy as np
import torch

from grsd.datasets.data import Data
from grsd.datasets.registry import DataNotFound, dataset, reads
from grsd.datasets.sampling import checked, drawn
from grsd.support.pinned import pinned
from grsd.support.values import seed_of

TASKS = ("next", "consonant")
MOST = 100_000
WINDOW = 16
ALPHABET = "abcdefghijklmnopqrstuvwxyz .,;'-"
CONSONANTS = "bcdfghjklmnpqrstvwxz"
LEAST_PARAGRAPH = 80  # characters; shorter ones are headings and notes
PLAIN = 0.93  # share of letters and spaces in prose; code and grammar have less


class Prose:
    """The help texts of this Python (``pydoc_data.topics``); they change a little with Python's version."""

    def content(self) -> str:
        try:
            return hashlib.sha256(text().encode()).hexdigest()
        except DataNotFound:
            return "not there"

    def require(self) -> None:
        text()


@dataset("prose", tasks=TASKS, most=MOST)
@reads(Prose())
@pinned(1)
def prose(samples: int = 100, *, task: str = "next", seed: int = 0) -> Data:
    """Return windows of 16 characters of English prose, to tell the next character (no download).

    The prose is what Python's help says about the language, without code: small letters, the space and ``.,;'-``, 32
    characters in the order of ``ALPHABET``. Inputs are 16 indicators of 32 characters, one after the other, d = 512:
    ``inputs.reshape(N, 16, 32)``. They are centred with the whole set's mean and divided by one common scale, so that
    |x|^2 / 512 averages one; in each window position the character is where the largest value over that mean is.

    Args:
        samples: N, up to 100,000, drawn without replacement; windows may overlap.
        task: ``"next"``: C = 32 indicators of the next character, centred (minus 1/32); ``"consonant"``: C = 1, +1 if
            the next character is a consonant (every second is), else -1.
        seed: seed of the draw; the first N of a larger draw with the same seed are the same samples.

    Source: ``pydoc_data.topics`` of this Python, PSF License 2; another version of Python may hold a slightly other
    text, and then makes another run. Errors: ``ValueError`` for N outside 1..100,000 or an unknown task;
    ``DataNotFound`` if this Python came without its help texts.
    """
    checked("prose", samples, MOST, task, TASKS)
    seed = seed_of("prose", "seed", seed)
    chosen = drawn(MOST, samples, seed).numpy()
    characters, (mean, scale) = _characters(), _reference()
    windows = characters[chosen[:, None] + np.arange(WINDOW)]
    inputs = (np.eye(len(ALPHABET))[windows] - mean) / scale
    following = characters[chosen + WINDOW]
    if task == "next":
        targets = np.eye(len(ALPHABET))[following] - 1 / len(ALPHABET)
    else:
        targets = np.where(np.isin(following, [ALPHABET.index(letter) for letter in CONSONANTS]), 1.0, -1.0)[:, None]
    name = f"prose, {task}, N={samples}, seed={seed}"
    return Data(torch.from_numpy(inputs.reshape(samples, -1)), torch.from_numpy(targets), name)


@cache
def text() -> str:
    """Return the first 100,016 characters of the prose. Errors: ``DataNotFound`` if this Python lacks them."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        topics = {}
    found: dict[str, None] = {}
    for name in sorted(topics):
        for paragraph in topics[name].split("\n\n"):
            words = " ".join(paragraph.split())
            plain = sum(letter.isalpha() or letter == " " for letter in words)
            long = len(words) >= LEAST_PARAGRAPH and plain >= PLAIN * len(words)
            if long and words[0].isupper() and words[-1] == "." and "**" not in words:
                found[words] = None
    whole = re.sub(f"[^{ALPHABET}]+", " ", " ".join(found).lower().replace("\u2019", "'"))
    whole = re.sub(r" (?=[.,;])", "", re.sub(" +", " ", whole))[: MOST + WINDOW]
    if len(whole) < MOST + WINDOW:
        raise DataNotFound(
            f"prose: this Python's help texts (pydoc_data.topics) have {len(whole)} characters of prose, expected "
            f"{MOST + WINDOW}: take a complete CPython of version 3.11 or later"
        )
    return whole


@cache
def _characters() -> np.ndarray:
    """Return the text as places in the alphabet."""
    return np.array([ALPHABET.index(letter) for letter in text()])


@cache
@pinned(1)
def _reference() -> tuple[np.ndarray, float]:
    """Return the mean (16, 32) of the indicators over all windows, and the root of their mean variance."""
    characters = _characters()
    counts = [np.bincount(characters[place : MOST + place], minlength=len(ALPHABET)) for place in range(WINDOW)]
    mean = np.array(counts) / MOST
    return mean, float(np.sqrt(np.mean(mean * (1 - mean))))
