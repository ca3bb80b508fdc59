"""Data sets: full batches in float64.

To add one, write a function under ``@dataset("name", tasks=(...), most=N)``, here or in a file of your own. It takes
the number of samples (at most N) and, by name, ``task`` (one of ``tasks``) and ``seed``, and returns ``Data``. One that
reads files names them by ``@reads(source)`` below that, so that the key of a run covers them.
"""

from typing import TYPE_CHECKING

from grsd.datasets.registry import DataNotFound, dataset, reads
from grsd.support.lazy import face

if TYPE_CHECKING:
    from grsd.datasets.data import Data
    from grsd.datasets.download import fetch
    from grsd.datasets.fetched import cifar5m, cifar10, fashion_mnist, mnist
    from grsd.datasets.generated import mnist1d
    from grsd.datasets.images import digits, patches
    from grsd.datasets.synthetic import power_law
    from grsd.datasets.text import prose

__all__ = [
    "Data",
    "DataNotFound",
    "cifar5m",
    "cifar10",
    "dataset",
    "digits",
    "fashion_mnist",
    "fetch",
    "mnist",
    "mnist1d",
    "patches",
    "power_law",
    "prose",
    "reads",
]

__getattr__, __dir__ = face(__name__)
