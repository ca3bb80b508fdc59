"""Compares time, CPU time and memory of this package with its peers, in one run on one machine."""

from grsd.bench.gpt2 import bench_gpt2
from grsd.bench.measure import bench
from grsd.bench.monitor import bench_monitor
from grsd.bench.zoo import bench_zoo

__all__ = ["bench", "bench_gpt2", "bench_monitor", "bench_zoo"]
