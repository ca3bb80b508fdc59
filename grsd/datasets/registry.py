"""The registry of data sets."""

from grsd.support.registry import Registry

dataset = Registry("grsd.datasets", "dataset", ("samples",), ("task", "seed"), tasks=(), most=0)
