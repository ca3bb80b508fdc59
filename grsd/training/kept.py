"""The folder of a monitor: one file per record, and the last recorded state, from which a new process goes on.

The file of a state is written before that of its record, and the one before is removed after it: whenever the process
is killed, the state of the last record is there. Files are archives of NumPy (.npz), whose checksums betray damage:
netCDF would take as long as the record itself.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from grsd.decomposition import Spectrum
from grsd.runs.store import LARGEST, say
from grsd.runs.values import tagged, untagged
from grsd.support.files import read_file, say_swept, write_atomically
from grsd.support.folders import writable
from grsd.training.dense import DenseState
from grsd.training.identity import architecture, hashed, loss_gives, weights_of
from grsd.training.reading import Reading
from grsd.training.recorder import Recorder

RECORD, STATE = "record", "state"
NAME = re.compile(r"(record|state)-(\d{12,})\.npz")
MARK = "monitor"
OWN = (MARK, "span_low", "span_high", "outputs", "loss_gives", "weights", "weights_before")


def fingerprint(model: nn.Module, reading: Reading) -> str:
    """Return a digest of what all records of one folder share, but the loss: probe, shells, dtype, method, network."""
    settings = (reading.shells, reading.dtype, reading.method, architecture(model))
    return hashlib.sha256(f"{settings!r} {hashed(reading.inputs, reading.targets)}".encode()).hexdigest()


class Kept:
    """The files of one monitor; ``folder`` ``None`` keeps nothing.

    ``weights``: digests of the weights at the recorded steps, by which another training is told from this one.
    Errors: ``ValueError`` if the folder cannot be written to, or holds records of another monitor.
    """

    def __init__(self, call: str, folder: str | os.PathLike | None, model: nn.Module, reading: Reading) -> None:
        self.call, self.model, self.reading = call, model, reading
        self.folder = None if folder is None else writable(f"{call}(folder=...)", folder)
        self.mark = "" if folder is None else fingerprint(model, reading)
        self.weights: dict[int, str] = {}
        self._waiting: dict[str, xr.Dataset] = {}

    def open(self, recorder: Recorder, device: torch.device) -> tuple[list[int], list[xr.Dataset]]:
        """Return the recorded steps and the budgets found; give ``recorder`` the state of the last record."""
        if self.folder is None or not self.folder.is_dir():
            return [], []
        say_swept(self.folder)
        recorded, states = self._steps(RECORD), self._steps(STATE)
        if not recorded and not states:
            return [], []
        budgets = [found for step in recorded if (found := self._load(RECORD, step, device)) is not None]
        last = recorded[-1] if recorded else states[0]
        state = self._load(STATE, last, device)
        if state is None and not budgets:
            return [], []
        shells = (budgets[0] if state is None else state).attrs
        span = shells["span_low"], shells["span_high"]
        recorder.reading.shells = replace(recorder.reading.shells, span=span)
        if state is None:
            say(f"{self.folder}: the state of step {last} is not there; the next record begins a new sequence")
        else:
            _restore(recorder, state, device)
            self.weights[last] = state.attrs["weights"]
        for one in budgets:
            self.weights[int(one.step)] = one.attrs["weights"]
            self.weights.setdefault(int(one.step_before), one.attrs["weights_before"])
        steps = {int(one[name]) for one in budgets for name in ("step", "step_before")} | {last}
        return sorted(steps), [one.drop_attrs(deep=False).assign_attrs(_theirs(one)) for one in budgets]

    def keep(self, step: int, budget: xr.Dataset | None, recorder: Recorder) -> None:
        """Write the state and the record of this step, and remove the states before it.

        If that fails (a full disk), one line reports it; the record is written with the next one.
        """
        if self.folder is None:
            return
        reading, own = self.reading, self._own(step, recorder)
        states = {}
        if isinstance(recorder.latest, DenseState):
            state = _state(recorder.latest, reading.first[1])
            network = {name: [list(shape), trained] for name, (shape, trained) in reading.network.items()}
            states = {_stem(STATE, step): state.assign_attrs(own, network=network)}
        if budget is not None:
            before = self.weights[int(budget.step_before)]
            self._waiting[_stem(RECORD, step)] = budget.assign_attrs(own, weights_before=before)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for stem, found in (states | self._waiting).items():
                write_atomically(self.folder / f"{stem}.npz", packed(found))
                self._waiting.pop(stem, None)
            for path, kind, other in self._files():
                if kind == STATE and other != step:
                    path.unlink()
        except OSError as error:
            why = error.strerror or error
            say(f"{self.folder}: step {step} is not on the disk yet ({why}); it is written with the next record")

    def _own(self, step: int, recorder: Recorder) -> dict[str, object]:
        """Return the attributes of the files of this step, and remember the weights."""
        reading, device = self.reading, recorder.latest.force.device
        self.weights[step] = weights_of(self.model)
        shape = [int(size) for size in reading.first[1]]
        return {
            MARK: self.mark,
            "span_low": float(reading.shells.span[0]),
            "span_high": float(reading.shells.span[1]),
            "outputs": shape,
            "loss_gives": self._loss_gives(shape, device),
            "weights": self.weights[step],
        }

    def _loss_gives(self, shape: Sequence[int], device: torch.device) -> str:
        reading = self.reading
        return loss_gives(self.call, reading.loss, shape, reading.targets, reading.dtype, device)

    def _files(self) -> list[tuple[Path, str, int]]:
        found = ((path, NAME.fullmatch(path.name)) for path in sorted(self.folder.iterdir()))
        return [(path, name[1], int(name[2])) for path, name in found if name]

    def _steps(self, kind: str) -> list[int]:
        return sorted({step for _, own, step in self._files() if own == kind})

    def _load(self, kind: str, step: int, device: torch.device) -> xr.Dataset | None:
        """Return the dataset; ``None`` if its file is damaged or missing. Another monitor's is a ``ValueError``."""
        path = self.folder / f"{_stem(kind, step)}.npz"
        try:
            found = unpacked(read_file(path, LARGEST))
        except FileNotFoundError:
            return None
        except Exception as error:  # zipfile and numpy raise many kinds of exceptions for damaged files
            said = " ".join(str(error).split())[:100]
            say(f"{path}: it cannot be read ({type(error).__name__}: {said}); it is not used")
            return None
        own = found.attrs
        if own.get(MARK) != self.mark or own["loss_gives"] != self._loss_gives(own["outputs"], device):
            raise ValueError(
                f"{self.call}(folder=...): {self.folder} holds records of another probe, loss, network or other "
                "settings, or of another version of grsd; choose another folder"
            )
        return found


def packed(data: xr.Dataset) -> bytes:
    """Return the bytes of an archive that holds a dataset, and their SHA-256 at the end."""
    variables = [[name, list(one.dims), tagged(dict(one.attrs))] for name, one in data.variables.items()]
    header = {"attrs": tagged(dict(data.attrs)), "variables": variables, "coords": sorted(data.coords)}
    arrays = [np.asarray(one.values) for one in data.variables.values()]
    written = io.BytesIO()
    np.savez(written, np.frombuffer(json.dumps(header).encode(), np.uint8), *arrays)
    return written.getvalue() + hashlib.sha256(written.getvalue()).digest()


def unpacked(payload: bytes) -> xr.Dataset:
    """Return the dataset in the bytes that ``packed`` made; any error if they are damaged."""
    size = hashlib.sha256().digest_size
    if hashlib.sha256(payload[:-size]).digest() != payload[-size:]:
        raise ValueError("its bytes are not those that were written")
    with np.load(io.BytesIO(payload[:-size]), allow_pickle=False) as file:
        header, *arrays = [file[f"arr_{number}"] for number in range(len(file.files))]
    read = json.loads(header.tobytes())
    parts = zip(read["variables"], arrays, strict=True)
    variables = {name: (dims, values, untagged(attrs)) for (name, dims, attrs), values in parts}
    coords = {name: variables.pop(name) for name in read["coords"]}
    return xr.Dataset(variables, coords, untagged(read["attrs"]))


def _stem(kind: str, step: int) -> str:
    return f"{kind}-{step:012d}"


def _theirs(budget: xr.Dataset) -> dict[str, object]:
    return {name: value for name, value in budget.attrs.items() if name not in OWN}


def _state(state: DenseState, outputs: torch.Size) -> xr.Dataset:
    """Return the state's decomposed kernel as a dataset."""
    modes = state.spectrum
    values = {
        "eigenvalues": ("mode", modes.eigenvalues),
        "eigenvectors": (("output", "mode"), modes.eigenvectors),
        "force": ("output", state.force),
    }
    data = xr.Dataset({name: (dims, value.detach().cpu().numpy()) for name, (dims, value) in values.items()})
    data["shape"] = "axis", torch.tensor(tuple(outputs), dtype=torch.int64, device="cpu").numpy()
    return data.assign_attrs(loss=float(state.loss), floor=float(modes.floor))


def _restore(recorder: Recorder, data: xr.Dataset, device: torch.device) -> None:
    def part(name: str) -> Tensor:
        return torch.from_numpy(data[name].values.copy()).to(device)

    modes = Spectrum(part("eigenvalues"), part("eigenvectors"), None, float(data.attrs["floor"]))
    recorder.latest = DenseState(float(data.attrs["loss"]), part("force"), modes)
    recorder.reading.route = "dense"
    recorder.reading.first = "the record before", torch.Size(data["shape"].values.tolist())
    network = data.attrs["network"]
    recorder.reading.network = {name: (tuple(shape), trained) for name, (shape, trained) in network.items()}
