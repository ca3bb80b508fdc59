"""Data sets: full batches in float64.

To add one, write a function under ``@dataset("name", tasks=(...), most=N)``, here or in a file of your own. It takes
the number of samples (at most N) and, by name, ``task`` (one of ``tasks``) and ``seed``, and returns ``Data``.
"""

from typing import TYPE_CHECKING

from grsd.datasets.registry import dataset
from grsd.support.lazy import face

if TYPE_CHECKING:
    from grsd.datasets.data import Data
    from grsd.datasets.images import digits, patches
    from grsd.datasets.synthetic import power_law

__all__ = ["Data", "dataset", "digits", "patches", "power_law"]

__getattr__, __dir__ = face(__name__)
