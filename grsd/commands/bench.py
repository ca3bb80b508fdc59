"""``grsd bench``: time and memory beside peers."""

from __future__ import annotations

import argparse

from grsd.commands.options import option, path
from grsd.support.values import cores

HELP = "compare time and memory with peers; writes data/benchmarks/DEVICE.csv"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--large", action="store_true", help="time ResNet-18, and shells without the kernel")
    parser.add_argument(
        "--zoo", action="store_true", help="compare every family of networks with a plain Jacobian, on the CPU"
    )
    parser.add_argument(
        "--monitor", action="store_true", help="compare the records of a training with the training, on the CPU"
    )
    parser.add_argument(
        "--gpt2", action="store_true", help="time Krylov shells of a language model of GPT-2 small's shape, on the CPU"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="default cpu")
    parser.add_argument("--threads", type=int, metavar="N", help="default 1, with --large all cores")
    parser.add_argument("--folder", type=path, metavar="DIR", help="table and figure go here")
    parser.add_argument(
        "--neural-tangents",
        nargs="?",
        const="",
        metavar="PYTHON",
        help="also time neural-tangents, with PYTHON from its environment, or in an environment that pip makes for it",
    )


def run(options: argparse.Namespace) -> int:
    from grsd.bench import bench, bench_gpt2, bench_monitor, bench_zoo

    kinds = {"zoo": bench_zoo, "gpt2": bench_gpt2, "monitor": bench_monitor}
    for kind, measure in kinds.items():
        if not getattr(options, kind):
            continue
        for name in ("large", "threads", "neural_tangents", *kinds):
            if name != kind and getattr(options, name) not in (False, None):
                raise ValueError(f"{option(name)}: not with --{kind}, which runs on one thread beside torch alone")
        if options.device != "cpu":
            raise ValueError(f"--device {options.device}: not with --{kind}, which runs on the CPU")
        print(measure(folder=options.folder))
        return 0
    threads = (cores() if options.large else 1) if options.threads is None else options.threads
    peers = options.neural_tangents
    print(
        bench(large=options.large, device=options.device, threads=threads, folder=options.folder, neural_tangents=peers)
    )
    return 0
