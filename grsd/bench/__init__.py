"""Time, CPU time and memory of this package beside its peers, in one run on one machine."""

from grsd.bench.measure import bench

__all__ = ["bench"]
