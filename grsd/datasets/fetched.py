"""Images that are fetched only when the user asks (``grsd data fetch NAME``); nothing here downloads anything.

Of each set the official training part is used, so that the official test part stays unseen. Inputs are centred with
the whole part's mean and divided by one common scale, so that |x|^2 / d averages one. Tasks are those of the digits.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from grsd.datasets.data import Data
from grsd.datasets.readers import read_cifar, read_idx, read_subset
from grsd.datasets.registry import dataset, reads
from grsd.datasets.remote import SETS, Remote
from grsd.datasets.sampling import checked, class_targets, drawn
from grsd.support.pinned import pinned
from grsd.support.values import seed_of

TASKS = ("one-hot", "parity")
CIFAR = 50_000
GREY = 60_000
READERS = {"cifar10": read_cifar, "cifar5m": read_subset, "mnist": read_idx, "fashion-mnist": read_idx}
CHUNK = 1000


class OnAsking:
    """The copy of a set that this machine may have, looked up anew at each question."""

    def __init__(self, name: str) -> None:
        self._name = name

    def content(self) -> str:
        return SETS[self._name].content()

    def require(self) -> None:
        SETS[self._name].require()


@dataset("cifar10", tasks=TASKS, most=CIFAR)
@reads(OnAsking("cifar10"))
@pinned(1)
def cifar10(samples: int = 100, *, task: str = "one-hot", seed: int = 0) -> Data:
    """Return CIFAR-10's training images; fetch them first: ``grsd data fetch cifar10``.

    Inputs, d = 3072: red, then green, then blue, 32 x 32 each, ``inputs.reshape(N, 3, 32, 32)``.

    Args:
        samples: N, up to 50,000, drawn without replacement.
        task: ``"one-hot"``: C = 10 class indicators, centred (minus 1/10); ``"parity"``: C = 1, +1 for the classes of
            even number (airplane, bird, deer, frog, ship), -1 for the other five.
        seed: seed of the draw; the first N of a larger draw with the same seed are the same samples.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009), binary version; no licence is
    stated. Errors: ``ValueError`` for N outside 1..50,000, an unknown task or a damaged copy; ``DataNotFound`` if it
    was not fetched.
    """
    return _batch("cifar10", samples, CIFAR, task, seed)


@dataset("cifar5m", tasks=TASKS, most=CIFAR)
@reads(OnAsking("cifar5m"))
@pinned(1)
def cifar5m(samples: int = 100, *, task: str = "one-hot", seed: int = 0) -> Data:
    """Return the first 50,000 images of CIFAR-5M; fetch them first: ``grsd data fetch cifar5m``.

    Six million images drawn from a diffusion model of CIFAR-10 and labelled by a classifier; inputs, samples, tasks
    and seed as for ``cifar10``.

    Source: P. Nakkiran, B. Neyshabur, H. Sedghi, The Deep Bootstrap Framework (arXiv 2010.08127), part 0; no licence
    is stated. Its publisher states no sha256: the copy's own is kept in its name, and is part of every run's key.
    Errors: as for ``cifar10``.
    """
    return _batch("cifar5m", samples, CIFAR, task, seed)


@dataset("mnist", tasks=TASKS, most=GREY)
@reads(OnAsking("mnist"))
@pinned(1)
def mnist(samples: int = 100, *, task: str = "one-hot", seed: int = 0) -> Data:
    """Return MNIST's training digits, d = 784 (28 x 28); fetch them first: ``grsd data fetch mnist``.

    Samples (N up to 60,000), tasks and seed as for ``digits``.

    Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database (1998), CC BY-SA 3.0. Errors: as for ``cifar10``.
    """
    return _batch("mnist", samples, GREY, task, seed)


@dataset("fashion-mnist", tasks=TASKS, most=GREY)
@reads(OnAsking("fashion-mnist"))
@pinned(1)
def fashion_mnist(samples: int = 100, *, task: str = "one-hot", seed: int = 0) -> Data:
    """Return Fashion-MNIST's training images, d = 784 (28 x 28); fetch them first: ``grsd data fetch fashion-mnist``.

    Samples (N up to 60,000) and seed as for ``digits``. Task ``"parity"``: +1 for the classes of even number (T-shirt,
    pullover, coat, shirt, bag), -1 for the other five.

    Source: H. Xiao, K. Rasul, R. Vollgraf (arXiv 1708.07747), MIT. Errors: as for ``cifar10``.
    """
    return _batch("fashion-mnist", samples, GREY, task, seed)


def _batch(name: str, samples: int, most: int, task: str, seed: int) -> Data:
    call = name.replace("-", "_")
    checked(call, samples, most, task, TASKS)
    seed = seed_of(call, "seed", seed)
    remote = SETS[name]
    remote.require()
    states = [path.stat() for path in remote.paths()]
    images, labels, mean, scale = _whole(remote, str(remote.folder), *((s.st_size, s.st_mtime_ns) for s in states))
    chosen = drawn(len(labels), samples, seed).numpy()
    inputs = torch.from_numpy((images[chosen] - mean) / scale)
    targets = class_targets(torch.from_numpy(labels[chosen].astype(np.int64)), task)
    return Data(inputs, targets, f"{name}, {task}, N={samples}, seed={seed}")


@lru_cache(maxsize=2)
def _whole(remote: Remote, folder: str, *states: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return images and labels, the mean image and the scale; read once a process while the files stay the same.

    Sums are of whole numbers, so that their order does not matter.
    """
    payloads = remote.payloads()
    try:
        images, labels = READERS[remote.name](*payloads)
    except ValueError as error:
        raise ValueError(f"{remote.name}: {folder}: {error}; fetch it again: grsd data fetch {remote.name}") from None
    total, squares = np.zeros(images.shape[1], np.int64), 0
    for start in range(0, len(images), CHUNK):
        part = images[start : start + CHUNK].astype(np.int64)
        total += part.sum(0)
        squares += int((part * part).sum())
    mean = total / len(images)
    return images, labels, mean, float(np.sqrt(squares / images.size - np.mean(mean * mean)))
