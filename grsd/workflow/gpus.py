"""GPUs by their makers' figures, and kernels of ResNet-18 on them, on paper: nothing here was measured on a GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from grsd.bench.problems import PROBLEMS
from grsd.support.folders import project
from grsd.support.values import choice, instance

SHARE = 0.4  # of the peak that is assumed to be reached
LAUNCH = 1e-5  # seconds that one call on a device takes at least
CONTEXT = 2**29  # bytes that CUDA itself takes
SAMPLES = (1000, 2000, 5000, 10_000)
COUNTS = (1, 4, 16, 64)
TABLE = "scale-resnet18.csv"


@dataclass(frozen=True)
class Gpu:
    """A GPU: peak FLOP/s in float64 and float32 (matrix products), and memory in bytes, as the maker states them."""

    name: str
    float64: float
    float32: float
    memory: float
    launch: float = LAUNCH
    context: int = CONTEXT

    def speed(self, dtype: str) -> float:
        """Return the FLOP/s that are assumed."""
        return SHARE * (self.float64 if dtype == "float64" else self.float32)


# float32 without TF32, which has too few digits for a kernel.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("H200", 67e12, 67e12, 141e9),
        Gpu("H100", 67e12, 67e12, 80e9),
        Gpu("A100", 19.5e12, 19.5e12, 80e9),
        Gpu("V100", 7.8e12, 15.7e12, 32e9),
        Gpu("RTX4090", 1.3e12, 82e12, 24e9),
    )
}


def gpu_named(name: str) -> Gpu:
    """Return the GPU. Errors: ``ValueError`` in one line that lists the known ones."""
    return GPUS[choice("gpu_named", "name", name, tuple(GPUS))]


def resnet18_table(gpu: Gpu = GPUS["H100"], dtype: str = "float64") -> pd.DataFrame:
    """Return seconds and memory of the kernel M of ResNet-18 on CIFAR-10 images, by samples and number of GPUs.

    On paper: D = 10 N rows of gradients, made by one backward pass each and multiplied in blocks of rows that fill half
    a GPU's memory. A GPU holds one block and makes the others again, one after another; blocks of the upper triangle
    are shared out evenly. The kernel lies in equal shares on the GPUs (``fits``: so much memory is there). The
    decomposition takes 9 D^3 on one GPU, where three matrices of D^2 numbers fit; it is nan elsewhere.
    """
    instance("resnet18_table", "gpu", gpu, Gpu, "a GPU, as of gpu_named('H100')")
    choice("resnet18_table", "dtype", dtype, ("float64", "float32"))
    problem = PROBLEMS["resnet18"]
    with torch.device("meta"):
        model = problem.build().eval()
        images = torch.empty(1, *problem.shape, device="meta", dtype=torch.float32)
    with FlopCounterMode(display=False) as counted:
        model(images)
    forward, parameters = counted.get_total_flops(), sum(weight.numel() for weight in model.parameters())
    size, speed = 8 if dtype == "float64" else 4, gpu.speed(dtype)
    rows = []
    for samples in SAMPLES:
        dimension = samples * problem.classes
        block = min(dimension, int(gpu.memory / 2 / (2 * parameters * size)))
        blocks = math.ceil(dimension / block)
        made = block * 3 * forward * (blocks + blocks * (blocks - 1) / 2)  # each pair makes its second block
        products = dimension**2 * parameters  # half of the square, two operations each
        whole = 3 * dimension**2 * size
        for count in COUNTS:
            pairs = blocks * (blocks + 1) // 2
            even = pairs / math.ceil(pairs / count) / count
            rows.append(
                {
                    "samples": samples,
                    "gpus": count,
                    "kernel_s": (made + products) / speed / count / even,
                    "gradients_share": made / (made + products),
                    "decomposition_s": 9 * dimension**3 / speed if whole <= gpu.memory else math.nan,
                    "kernel_gib": dimension**2 * size / 2**30,
                    "gib_per_gpu": (held := 2 * block * parameters * size + dimension**2 * size / count) / 2**30,
                    "fits": held <= gpu.memory,
                }
            )
    return pd.DataFrame(rows)


def main() -> None:
    """Write the table to data/benchmarks."""
    from grsd.support.files import write_atomically

    said = f"# {GPUS['H100'].name}, float64; estimated, unmeasured: maker's peak FLOP/s times {SHARE}\n"
    text = resnet18_table().to_csv(index=False, float_format="%.4g", lineterminator="\n")
    write_atomically(project() / "data" / "benchmarks" / TABLE, (said + text).encode())
