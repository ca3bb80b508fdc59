"""Memory that a computation frees stays with the process, so that the next one need not fetch it from the system."""

from __future__ import annotations

import ctypes
import os
from functools import cache

FREED = 2**29  # bytes; what is freed beyond this goes back to the system
MAPPED = 2**25  # bytes; the largest limit that glibc would find by itself
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
VARIABLES = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


@cache
def keep_freed_memory() -> bool:
    """Ask glibc, once a process, to keep up to 512 MiB of freed memory; returns whether it does.

    By default glibc returns the top of its heap as soon as a kernel is done. The next one then pays a page fault per
    4 KiB: up to a third of the time of a small kernel. Nothing is changed where the environment already says how
    malloc shall behave, or where malloc is not glibc's.
    """
    if any(os.environ.get(name) for name in VARIABLES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # another system, or another C library
        return False
    return bool(mallopt(TRIM_THRESHOLD, FREED) and mallopt(MMAP_THRESHOLD, MAPPED))
