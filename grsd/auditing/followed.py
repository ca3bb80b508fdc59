"""One network followed by gradient flow of any loss: its budgets between states, and what the conditions read."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from grsd.auditing.blind import blindness
from grsd.auditing.choices import INTERVENED, PER_DECADE, Plan
from grsd.auditing.question import CALL, Question
from grsd.conditions import evolution, incoherence, interventions, propagation
from grsd.decomposition import Spectrum, spectrum
from grsd.flow import Descent, Snapshot, StepUnderflow
from grsd.jacobian.operators import KernelProducts
from grsd.kernel import tangent_kernel, tangent_kernel_and_rate
from grsd.losses import Loss, loss_and_force
from grsd.runs.fingerprint import fingerprint
from grsd.runs.store import Scratch
from grsd.shells import LogShells, energy_budget, log_range
from grsd.support.pinned import pinned
from grsd.training.dense import DenseState
from grsd.training.krylov import KrylovState
from grsd.training.reading import Reading
from grsd.training.recorder import budgets_between

TOLERANCE = 1e-2  # shares are judged to a tenth; at 1e-4 networks with kinks take forty times as many gradients
FIRST = 0.3  # from one snapshot to the next at least, in units of 1 / lambda_max then
EACH = 0.25  # e-folds of |e|^2 after which a snapshot is due whatever the time
MOST_SNAPSHOTS = 32
ROOM = 12.0  # e-folds above the first largest eigenvalue: kernels grow
DEPTH = 18.0  # e-folds below it that shells resolve
FLIPS, FEW = 199, 8  # FEW: samples whose gradients are followed through the layers
PLACES = {
    "(model, ...": "(model=...",
    "(model, inputs": "(model=...",
    "(kernel=...": "(model=...",
    "(files": "(checkpoints",
}
EVALUATION = "call model.eval() first", "return model.eval() from the function that makes it"
STILL = 0.02, 0.2  # e-folds of the loss in a decade of time, after it fell by so much


class LossDescent(Descent):
    """Gradient flow of the mean of any loss that stops where a snapshot is due."""

    def __init__(self, model: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss, **options: object) -> None:
        super().__init__(model, inputs, targets, loss=loss, **options)
        self.loss = loss

    @property
    def evaluations(self) -> int:
        return self._integrator.evaluations

    def read(self, outputs: Tensor) -> tuple[float, Tensor]:
        """Return the loss and the force at these outputs."""
        value, force = loss_and_force(CALL, self.loss, outputs, self.targets)
        return value, force.detach()

    def until(self, end: float, due: Callable[[float], bool]) -> Snapshot:
        """Continue to ``end``, or to the end of the first step after which ``due`` says so of |e|^2."""

        def check() -> None:
            if due(float(self._integrator.error.square().sum())):
                raise _Due

        with suppress(_Due):
            self.answer(self.advance(end, check))
        module = self._problem.module(self._integrator.theta)
        return Snapshot(self._integrator.time, module, self._integrator.error.detach().clone())

    def outputs(self, model: nn.Module) -> Tensor:
        with torch.no_grad():
            return model(self.inputs)


@dataclass
class Followed:
    """What one network gave, by name: ``between`` always; the rest is missing where it cannot be measured.

    ``refused``: why, by name. ``stopped``: why the flow ended, in words.
    """

    seed: int
    stopped: str = ""
    found: dict[str, xr.Dataset] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


class _Spent(Exception):
    """The gradients of the budget are spent."""


class _Due(Exception):
    """A snapshot is due."""


def follow(question: Question, plan: Plan, seed: int, kept: Scratch | None) -> Followed:
    """Follow the network of ``seed``, or read what an earlier call kept. Errors: in one line, naming the seed."""
    with pinned(1, seed), naming(f"seed {seed}: "):
        model = question.make(seed)
        ((inputs, targets),) = question.chosen(plan.samples)
        digest = _digest([*model.state_dict().values(), inputs, targets])
        loaded = _load(kept, digest, seed)
        if loaded is not None:
            return loaded
        followed = _follow(question, plan, seed, model, inputs, targets)
        _save(kept, digest, followed)
        return followed


def positive_loss(place: str, loss: float, when: str = "") -> None:
    """Refuse a loss that has no log."""
    if loss <= 0:
        hint = "" if when else "; leave such states out"
        raise ValueError(
            f"{CALL}({place}=...): the loss is {loss:.3g}{when}, and its fall, counted in e-folds, takes a loss above "
            f"zero{hint}"
        )


def scratch(question: Question, plan: Plan, folder: str | None) -> Scratch | None:
    """Return where the networks of this question are kept: found again by settings, code, weights and samples."""
    if folder is None:
        return None
    settings = {
        "loss": str(question.loss if isinstance(question.loss, str) else getattr(question.loss, "__qualname__", "")),
        "fall": question.fall,
        "shell_width": question.shell_width,
        "plan": [plan.samples, plan.route, plan.gradients, plan.conditions, plan.interventions],
    }
    marks = {"function": CALL, "spec": json.dumps(settings, sort_keys=True), "code": fingerprint(follow)}
    return Scratch(Path(folder), marks)


def _follow(question: Question, plan: Plan, seed: int, model: nn.Module, inputs: Tensor, targets: Tensor) -> Followed:
    options = {"tolerance": TOLERANCE, "device": question.device, "parameters": {"seed": seed}}
    descent = LossDescent(model, inputs, targets, question.loss, **options)
    work = _Work(question, plan, seed, descent)

    work.add(descent.snapshot(0.0))
    stopped = f"{MOST_SNAPSHOTS} snapshots were taken"
    for _ in range(MOST_SNAPSHOTS):
        size = float(work.snapshot.error.square().sum())
        due = partial(_due, descent, plan.gradients, size * math.exp(-EACH))

        now, pace = work.times[-1], FIRST / work.largest
        try:
            work.add(descent.until(max(now * 10 ** (1 / PER_DECADE), now + pace), due))
        except (_Spent, StepUnderflow) as error:
            stopped = "the gradients of the budget were spent" if isinstance(error, _Spent) else str(error)
            break
        if work.fallen() >= question.fall:
            stopped = f"the loss had fallen by {question.fall:g} e-folds"
            break
        if work.stands():
            stopped = f"the loss stood still, {work.fallen():.2g} e-folds below its start"
            break
    if len(work.times) < 3:
        raise ValueError(f"{CALL}(budget=...): the flow ended before its second snapshot ({stopped}); raise the budget")
    return work.result(stopped)


def _due(descent: LossDescent, gradients: int, level: float, size: float) -> bool:
    """Whether |e|^2 has fallen to the level. Errors: ``_Spent`` if the flow has taken more gradients than allowed."""
    if descent.evaluations > gradients:
        raise _Spent
    return size <= level


class _Work:
    """The measurements along one flow."""

    def __init__(self, question: Question, plan: Plan, seed: int, descent: LossDescent) -> None:
        self.question, self.plan, self.seed, self.descent = question, plan, seed, descent
        self.shells = LogShells(question.shell_width)
        self.times: list[float] = []
        self.losses: list[float] = []
        self.budgets: list[xr.Dataset] = []
        self.between: list[xr.Dataset] = []
        self.rates: list[tuple[float, Spectrum]] = []
        self.top = self.largest = 0.0  # largest eigenvalue at the start, and now
        self.first: tuple[Spectrum | None, Tensor] | None = None
        self.last: Spectrum | None = None
        self.snapshot: Snapshot | None = None
        self.start: nn.Module | None = None
        self.state: DenseState | KrylovState | None = None
        self.reading: Reading | None = None

    def fallen(self) -> float:
        return math.log(self.losses[0] / self.losses[-1]) if self.losses[-1] > 0 else math.inf

    def stands(self) -> bool:
        """Whether something was learned, and nothing more in the last decade of time."""
        decade = [loss for time, loss in zip(self.times, self.losses, strict=True) if 10 * time > self.times[-1]]
        return self.fallen() > STILL[1] and len(decade) >= PER_DECADE and math.log(decade[0] / decade[-1]) < STILL[0]

    def add(self, snapshot: Snapshot) -> None:
        """Measure one snapshot of the flow."""
        when = f" at t = {snapshot.time:.3g}" if snapshot.time else " at the start"
        why = blindness(snapshot.model, self.descent.inputs, when)
        if why is not None:
            raise ValueError(f"{CALL}(model=...): {why}")
        outputs = self.descent.outputs(snapshot.model)
        loss, force = self.descent.read(outputs)
        positive_loss("loss", loss, when)
        snapshot = Snapshot(snapshot.time, snapshot.model, force)
        self.times.append(snapshot.time)
        self.losses.append(loss)
        state = self._dense(snapshot, outputs, loss) if self.plan.route == "dense" else self._krylov(snapshot, loss)
        if self.state is not None:
            self.between.append(budgets_between(self.reading, [self.state, state], None).isel(step=0, drop=True))
        self.state, self.snapshot = state, snapshot

    def _dense(self, snapshot: Snapshot, outputs: Tensor, loss: float) -> DenseState:
        force, inputs = snapshot.error, self.descent.inputs
        if self.plan.conditions:
            kernel, rate = tangent_kernel_and_rate(snapshot.model, inputs, outputs - force)
        else:
            kernel, rate = tangent_kernel(snapshot.model, inputs), None  # budgets between states take no rate
        modes = spectrum(kernel, rate)
        if self.first is None:
            self.top = float(modes.eigenvalues[-1])
            low, high = log_range(modes)
            self.shells = LogShells(self.question.shell_width, span=(max(low, high - DEPTH), high + ROOM))
            self._read("dense", outputs)
            self.first, self.start = (modes, force), snapshot.model
        self.last, self.largest = modes, float(modes.eigenvalues[-1])
        if self.plan.conditions:
            self.rates.append((snapshot.time, modes))
            self.budgets.append(energy_budget(modes, force, self.shells))
        return DenseState(loss, force.reshape(-1), modes)

    def _krylov(self, snapshot: Snapshot, loss: float) -> KrylovState:
        products = KernelProducts(snapshot.model, self.descent.inputs, call=CALL)
        self._read("krylov", snapshot.error)
        state = KrylovState.of(loss, snapshot.error.reshape(-1), products, self.reading.steps, self.reading.tolerance)
        if self.first is None:
            low, high = state.range()
            if high == -math.inf:
                raise ValueError(
                    f"{CALL}(model=...): the gradient of the loss is zero at the start: nothing would move"
                )
            self.top, self.first = math.exp(high), (None, snapshot.error)
            self.start = snapshot.model
            self.shells = LogShells(self.question.shell_width, span=(max(low, high - DEPTH), high + ROOM))
            self.reading.shells = self.shells
        self.largest = math.exp(state.range()[1])
        return state

    def _read(self, route: str, outputs: Tensor) -> None:
        if self.reading is None:
            limits = (torch.float64, None, None)
            inputs, targets = self.descent.inputs, self.descent.targets
            self.reading = Reading(CALL, inputs, targets, self.shells, self.question.loss, route, *limits)
            self.reading.first, self.reading.route = ("start", outputs.shape), route

    def result(self, stopped: str) -> Followed:
        """Join what was measured, and measure what needs the whole flow."""
        followed = Followed(self.seed, stopped)
        between = xr.concat(
            self.between, "step", data_vars="all", coords="minimal", compat="override", combine_attrs="override"
        )
        between["time_before"], between["time_after"] = ("step", self.times[:-1]), ("step", self.times[1:])
        followed.found["between"] = between.assign_attrs(seed=self.seed)
        if self.plan.conditions:
            followed.found["history"] = self._history()
            for name, measure in self._measures().items():
                try:
                    followed.found[name] = measure()
                except (ValueError, TypeError, RuntimeError) as error:
                    followed.refused[name] = " ".join(str(error).split())
        return followed

    def _measures(self) -> Mapping[str, Callable[[], xr.Dataset]]:
        (modes, force), labels, snapshot = self.first, {"seed": self.seed}, self.snapshot
        inputs = self.descent.inputs
        fields = {
            "rates": lambda: evolution.along(self.rates, self.shells, top=self.top, seed=self.seed),
            "signs": lambda: incoherence.measure_modes(modes, force, self.shells, flips=FLIPS, parameters=labels),
            "gains": lambda: propagation.measure(self.start, inputs[:FEW], node=self._nodes(), parameters=labels),
        }
        if self.plan.interventions:
            pseudo = self.descent.outputs(snapshot.model) - snapshot.error
            options = {"shells": self._closing(), "seed": self.seed, "parameters": labels}
            fields["responses"] = lambda: interventions.measure(snapshot.model, inputs, pseudo, **options)
        return fields

    def _nodes(self) -> list[str] | None:
        """Return what everything passes through, at whose tensors the network can be cut; else all layers."""
        try:
            return propagation.nodes(self.start, self.descent.inputs)
        except ValueError:
            return None

    def _closing(self) -> LogShells:
        """Return shells for interventions: the finest of which ``INTERVENED`` cover what the last kernel resolves."""
        low, high = log_range(self.last)
        low = max(low, high - DEPTH)
        return LogShells(max(self.question.shell_width, (high - low) / (INTERVENED - 1)), span=(low, high))

    def _history(self) -> xr.Dataset:
        axis = xr.DataArray(self.times, dims="time", name="time", attrs={"units": "time"})
        joined = xr.concat(
            self.budgets, axis, data_vars="all", coords="minimal", compat="override", combine_attrs="override"
        )
        joined["loss"] = ("time", self.losses)
        joined["start_loss"], joined["start_largest_eigenvalue"] = ((), self.losses[0]), ((), self.top)
        return joined.isel(time=slice(1, None)).assign_attrs(seed=self.seed)


@contextmanager
def naming(who: str, places: Mapping[str, str] = PLACES) -> Iterator[None]:
    """Let refusals of the floors below name the audit, and say of ``who`` they speak."""
    starts = ("gradient_flow", "tangent_kernel_and_rate", "tangent_kernel", "spectrum", "checkpoints")
    try:
        yield
    except (TypeError, ValueError, RuntimeError) as error:
        text = " ".join(str(error).split())
        for start in (CALL, *starts):
            if text.startswith(f"{start}("):
                head, _, rest = text.removeprefix(start).partition("): ")
                for said, own in places.items():
                    head = head.replace(said, own)
                rest = rest.removeprefix(who).replace(*EVALUATION)
                raise type(error)(f"{CALL}{head}): {who}{rest}") from error
        raise


def _digest(tensors: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{plain.dtype} {tuple(plain.shape)} ".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def _save(kept: Scratch | None, digest: str, followed: Followed) -> None:
    """Keep the parts, and last a list of them: a network is found again only if all were written."""
    if kept is None:
        return
    for name, found in followed.found.items():
        kept.save(f"{name}-{digest}", found)
    about = {
        "stopped": followed.stopped,
        "refused": json.dumps(followed.refused),
        "parts": json.dumps([*followed.found]),
    }
    kept.save(f"about-{digest}", xr.Dataset({"there": ((), np.int64(1))}, attrs=about))


def _load(kept: Scratch | None, digest: str, seed: int) -> Followed | None:
    about = None if kept is None else kept.load(f"about-{digest}")
    if about is None:
        return None
    followed = Followed(seed, about.attrs["stopped"], refused=json.loads(about.attrs["refused"]))
    with suppress(KeyError):
        for name in json.loads(about.attrs["parts"]):
            found = kept.load(f"{name}-{digest}")
            if found is None:
                return None
            followed.found[name] = found
    return followed
