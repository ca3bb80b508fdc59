"""Compares time, CPU time and memory of this package with its peers, in one run on one machine."""

from grsd.bench.measure import bench
from grsd.bench.monitor import bench_monitor
from grsd.bench.zoo import bench_zoo

__all__ = ["bench", "bench_monitor", "bench_zoo"]
