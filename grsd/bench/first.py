"""A program: CPU seconds of the first kernel in a fresh process, beyond ``import torch``, printed as JSON.

``python first.py NAME grsd|rate|jacrev``. Neither the import of the table nor the making of the network is counted.
"""

import json
import sys
import time
import warnings

import torch


def main(name: str, method: str) -> None:
    start = time.process_time()
    import grsd

    imported = 0.0 if method == "jacrev" else time.process_time() - start
    from grsd.bench.families import FAMILIES
    from grsd.bench.jacobians import by_jacobian

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    family = FAMILIES[name]
    model, inputs, targets = family.make(family.enough)
    start = time.process_time()
    if method == "jacrev":
        by_jacobian(model, inputs)
    elif method == "rate":
        grsd.tangent_kernel_and_rate(model, inputs, targets)
    else:
        grsd.tangent_kernel(model, inputs)
    print(json.dumps({"cpu_s": imported + time.process_time() - start}))


if __name__ == "__main__":
    main(*sys.argv[1:])
