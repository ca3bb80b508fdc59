"""neural-tangents, which needs an old jax, in an environment of its own; this file is also the script that runs there.

The script does not import this package: ``python neural_tangents.py FOLDER`` reads the weights and inputs that
``row`` wrote there, times the three implementations and writes back the kernel and the seconds of the fastest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import numpy as np

NAME = "neural-tangents"
PINNED = ("jax==0.4.30", "jaxlib==0.4.30", "numpy<2", "scipy<1.14", "ml_dtypes<0.5", "frozendict", "absl-py")
VERSION = "neural-tangents==0.6.5"
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
LONGEST = 300


def row(case: object, python: str) -> dict[str, dict[str, object]]:
    """The row of one case; empty if the problem has no model in jax here.

    ``case``: a ``grsd.bench.worker.Case``. ``python``: of an environment that has neural-tangents; "" makes one.
    """
    if case.problem not in MODELS:
        return {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            reference = _hand_over(case, folder)
            _run([python or str(environment()), __file__, name], XLA_FLAGS=ONE_THREAD)
        except subprocess.TimeoutExpired:
            return {NAME: {"note": f"not done in {LONGEST} s"}}
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            return {NAME: {"note": f"not installed: {said.strip().splitlines()[-1][:100]}"}}
        from grsd.bench.worker import check_same

        check_same(NAME, reference.new_tensor(np.load(folder / "kernel.npy")), reference, case.dtype)
        return {NAME: json.loads((folder / "seconds.json").read_text())}


_made: dict[str, object] = {}


def environment() -> Path:
    """The Python of an environment with neural-tangents, made with pip once per process and deleted at its end.

    The dependency on tensorflow is omitted: only a part that is not used here needs it.
    """
    if "python" not in _made:
        folder = tempfile.TemporaryDirectory(prefix="grsd-neural-tangents-")
        python = Path(folder.name) / "bin" / "python"
        _run([sys.executable, "-m", "venv", folder.name])
        _run([str(python), "-m", "pip", "install", "-q", *PINNED])
        _run([str(python), "-m", "pip", "install", "-q", "--no-deps", VERSION])
        _made.update(folder=folder, python=python)
    return _made["python"]


def _run(command: list[str], **variables: str) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment = kept | {"OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"} | variables
    subprocess.run(  # noqa: S603
        command, env=environment, check=True, capture_output=True, text=True, timeout=LONGEST
    )


def _hand_over(case: object, folder: Path) -> object:
    """Write weights and inputs to files; returns this package's kernel."""
    import torch

    from grsd.bench.methods import METHODS
    from grsd.bench.problems import PROBLEMS

    model, inputs, targets = PROBLEMS[case.problem].make(case.samples, getattr(torch, case.dtype), "cpu")
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    np.savez(folder / "state.npz", **state)
    np.save(folder / "inputs.npy", inputs.numpy())
    trained = [name for name, _ in model.named_parameters()]
    plan = {"problem": case.problem, "trained": trained, "repeats": case.repeats}
    (folder / "plan.json").write_text(json.dumps(plan))
    return METHODS["grsd"](model, inputs, targets, None)


def _mlp(w: dict, x: object) -> object:
    import jax.numpy as jnp

    depth = sum(name.startswith("hidden") for name in w) // 2
    for layer in range(depth):
        x = jnp.tanh(x @ w[f"hidden.{layer}.weight"].T + w[f"hidden.{layer}.bias"])
    return x @ w["readout.weight"].T + w["readout.bias"]


def _cnn(w: dict, x: object) -> object:
    """``grsd.bench.problems.cnn``: blocks 1, 2, ... of the sequence, batch norms in evaluation mode."""
    import jax

    def conv(name: str, x: object) -> object:
        return jax.lax.conv_general_dilated(x, w[f"{name}.weight"], (1, 1), "SAME")

    def norm(name: str, x: object) -> object:
        def channels(v: object) -> object:
            return v[:, None, None]

        scale = w[f"{name}.weight"] / (w[f"{name}.running_var"] + 1e-5) ** 0.5
        return (x - channels(w[f"{name}.running_mean"])) * channels(scale) + channels(w[f"{name}.bias"])

    x = conv("0", x) + w["0.bias"][:, None, None]
    blocks = sorted({int(name.split(".")[0]) for name in w if ".conv1." in name})
    for block in blocks:
        h = conv(f"{block}.conv1", jax.nn.relu(norm(f"{block}.norm1", x)))
        x = x + conv(f"{block}.conv2", jax.nn.relu(norm(f"{block}.norm2", h)))
    last = blocks[-1] + 3
    return x.mean((2, 3)) @ w[f"{last}.weight"].T + w[f"{last}.bias"]


MODELS = {"mlp": _mlp, "cnn": _cnn, "cnn, wide": _cnn}


def _measure(folder: Path) -> None:
    if hasattr(os, "sched_setaffinity"):  # one core, since jax starts a second thread despite its flags
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sys.path = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).resolve().parent]
    sys.modules["neural_tangents.experimental"] = types.ModuleType("neural_tangents.experimental")
    import jax
    import jax.interpreters.ad
    import neural_tangents as nt
    from jax._src import source_info_util

    moved = {
        "source_info_util": source_info_util,
        "config": jax.config,
    }  # moved within jax since the last release of neural-tangents
    vars(jax.interpreters.ad).update(moved)
    plan = json.loads((folder / "plan.json").read_text())
    state = {name: jax.numpy.asarray(value) for name, value in np.load(folder / "state.npz").items()}
    trained = {name: state[name] for name in plan["trained"]}
    fixed = {name: value for name, value in state.items() if name not in trained}
    inputs, model = jax.numpy.asarray(np.load(folder / "inputs.npy")), MODELS[plan["problem"]]

    def timed(kernel: object) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        kernel(inputs, None, trained).block_until_ready()
        return time.perf_counter() - wall, time.process_time() - cpu

    best: tuple = ()
    for implementation in nt.NtkImplementation.__members__.values():
        if implementation.name == "AUTO":
            continue
        kernel = jax.jit(
            nt.empirical_ntk_fn(
                lambda w, x: model({**w, **fixed}, x), trace_axes=(), vmap_axes=0, implementation=implementation
            )
        )
        timed(kernel)  # compiles
        once = timed(kernel)
        if not best or once[1] < best[0][1]:
            best = once, implementation.name, kernel
    once, name, kernel = best
    repeats = plan["repeats"] if once[1] < 3 else 1
    pairs = [timed(kernel) for _ in range(repeats)] if repeats > 1 else [once]
    wall, cpu = (float(np.median(values)) for values in zip(*pairs, strict=True))
    result = np.asarray(kernel(inputs, None, trained))
    size = result.shape[0] * result.shape[2]
    np.save(folder / "kernel.npy", result.transpose(0, 2, 1, 3).reshape(size, size) / len(inputs))
    written = {"wall_s": wall, "cpu_s": cpu, "repeats": repeats, "note": f"{name}, best of three"}
    (folder / "seconds.json").write_text(json.dumps(written))


if __name__ == "__main__":
    _measure(Path(sys.argv[1]))
