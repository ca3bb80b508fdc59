"""Program that prints the CPU seconds of a process's first kernel, beyond ``import torch``, as JSON.

``python first.py NAME HOW``, HOW: grsd, rate, or a name in ``grsd.bench.jacobians.WAYS``. Neither the import of the
table nor the construction of the network is counted.
"""

import json
import sys
import time
import warnings

import torch

OURS = ("grsd", "rate")


def main(name: str, how: str) -> None:
    start = time.process_time()
    import grsd

    imported = time.process_time() - start if how in OURS else 0.0
    from grsd.bench.families import FAMILIES
    from grsd.bench.jacobians import WAYS

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    family = FAMILIES[name]
    model, inputs, targets = family.make(family.enough)
    start = time.process_time()
    if how == "rate":
        grsd.tangent_kernel_and_rate(model, inputs, targets)
    elif how == "grsd":
        grsd.tangent_kernel(model, inputs)
    else:
        WAYS[how](model, inputs)
    print(json.dumps({"cpu_s": imported + time.process_time() - start}))


if __name__ == "__main__":
    main(*sys.argv[1:])
