"""How an audit is carried out: samples, route and gradients that fit the budget, each with its reason in words.

The costs are nominal, from counted operations and fixed speeds, never timed: the same question has the same answer on
every machine, to the byte, and takes about the budget on one core of a usual processor.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from grsd.auditing.question import Question, size_of

SPEED = 5e9  # operations per second, float64, one core
CALL_SECONDS = 2e-5  # of one module, whatever its size
SIZES = (64, 48, 32, 24, 16, 12, 8, 4)
SNAPSHOTS = 14  # of a flow, about; each is a kernel and its rate
PER_DECADE = 4
INTERVENED = 12  # shells of closure by interventions at most, each of which takes a kernel rate
LEAST_CLOSED = 16  # samples below which closure is left out rather than asked of fewer
MEASURING = {True: 0.6, False: 0.5}  # of the time, for kernels with closure and without
DESCENDING = 0.5  # of the time, for the first 500 gradients
KRYLOV_SAMPLES = 16
GRADIENTS = 200, 4000
GROUPS = 8
SHARE = 0.8  # of the budget; the rest is for the judging


@dataclass(frozen=True)
class Choice:
    """What was chosen for ``what``, and why; both in words."""

    what: str
    chosen: str
    why: str


@dataclass(frozen=True)
class Plan:
    """``samples`` N per network or group, ``route`` "dense" or "krylov", ``gradients`` at most per flow."""

    samples: int
    groups: int
    route: str
    gradients: int
    conditions: bool
    interventions: bool
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class _Cost:
    """Nominal seconds: of one pass forward per sample, and of calling the modules once."""

    sample: float
    call: float
    outputs: int
    parameters: int

    def gradient(self, samples: int) -> float:
        return 3 * (self.sample * samples + self.call)

    def kernel(self, samples: int, rate: bool) -> float:
        dimension = samples * self.outputs
        passes = self.outputs * self.gradient(samples) * (4 if rate else 1)
        products = (4 if rate else 1) * dimension**2 * min(self.parameters, 50_000) / (2 * SPEED)
        return passes + products + 20 * dimension**3 / (2 * SPEED)


def plan(question: Question) -> Plan:
    """Choose samples, route and the largest number of gradients by the nominal cost."""
    few = question.inputs[:4]
    cost = _cost(question.make(question.seeds[0]), few, size_of(question, 1), question.parameters)
    seconds = SHARE * 60 * question.budget
    if question.runs:
        return _of_checkpoints(question, cost, seconds)
    each = seconds / len(question.seeds)
    sizes = [question.samples] if question.samples else _sizes(len(question.inputs))

    def kernels(count: int, closes: bool) -> float:
        rates = SNAPSHOTS + (INTERVENED + 1 if closes else 0)
        return rates * cost.kernel(count, question.conditions)

    def fits(count: int, closes: bool) -> bool:
        return kernels(count, closes) <= MEASURING[closes] * each and 500 * cost.gradient(count) <= DESCENDING * each

    least = question.samples or min(LEAST_CLOSED, len(question.inputs))
    closing = [n for n in sizes if question.conditions and n >= least and fits(n, True)]
    fitting = [n for n in sizes if fits(n, False)]
    closes = bool(closing) and question.method != "krylov"
    count = (closing or fitting or sizes[-1:])[0]
    dense = question.method == "dense" or (question.method == "auto" and (bool(fitting) or bool(question.samples)))
    if not dense and question.samples is None:
        count = min(KRYLOV_SAMPLES, len(question.inputs))
    conditions = question.conditions and dense
    spent = kernels(count, closes) if dense else 0.5 * each
    gradients = int(min(max((each - spent) / cost.gradient(count), GRADIENTS[0]), GRADIENTS[1]))
    choices = [
        _samples(question, count, 1),
        _route(question, count, dense),
        Choice("training", f"gradient flow, at most {gradients} gradients per network", _stops(question)),
    ]
    if question.conditions:
        room = _minutes(max(kernels(least, True) / MEASURING[True], 500 * cost.gradient(least) / DESCENDING), question)
        choices.append(_closure(closes, dense, room))
    return Plan(count, 1, "dense" if dense else "krylov", gradients, conditions, closes, tuple(choices))


def _of_checkpoints(question: Question, cost: _Cost, seconds: float) -> Plan:
    several = len(question.runs) > 1
    groups = 1 if several else min(GROUPS, len(question.inputs) // 4)
    states = sum(len(run) for run in question.runs) * groups
    most = len(question.inputs) // groups
    sizes = [question.samples // groups] if question.samples else [n for n in SIZES if n <= most] or [most]
    fitting = [n for n in sizes if states * cost.kernel(n, False) <= seconds]
    count = max(fitting[0] if fitting else sizes[-1], 1)
    dense = question.method == "dense" or (question.method == "auto" and bool(fitting or question.samples))
    choices = [_samples(question, count, groups), _route(question, count, dense)]
    if not several:
        why = "one training has no spread over seeds; pass a list of files for each of several trainings to have it"
        choices.append(Choice("intervals", f"over {groups} groups of samples, not over trainings", why))
    return Plan(count, groups, "dense" if dense else "krylov", 0, False, False, tuple(choices))


def _minutes(each: float, question: Question) -> str:
    """Return the budget in minutes, rounded up to two digits, of which every network has ``each`` seconds."""
    minutes = each * len(question.seeds) / (SHARE * 60)
    step = 10.0 ** (math.floor(math.log10(minutes)) - 1)
    return f"{math.ceil(minutes / step) * step:.2g}"


def _closure(closes: bool, dense: bool, room: str) -> Choice:
    if closes:
        why = "each shell takes a kernel and its rate of change; finer shells would leave room for fewer samples"
        return Choice(
            "closure", f"energies are changed by hand in at most {INTERVENED} shells, wider than the others", why
        )
    if not dense:
        return Choice("closure", "left out", "it needs the whole kernel")
    why = (
        f"it takes {INTERVENED} kernels and their rates beside the {SNAPSHOTS} of a flow; a budget of {room} minutes "
        "has room"
    )
    return Choice("closure", "left out", why)


def _samples(question: Question, count: int, groups: int) -> Choice:
    total = len(question.inputs)
    used = f"{groups} disjoint groups of {count}" if groups > 1 else f"{count}"
    why = "you asked for them" if question.samples else f"the most that {question.budget:g} minutes allow, nominally"
    if question.samples is None and (count * groups == total or count == SIZES[0]):
        why = "all there are" if count * groups == total else f"{count} are enough for shells of this width"
    return Choice("samples", f"{used} of {total}, drawn with a fixed seed", why)


def _route(question: Question, count: int, dense: bool) -> Choice:
    dimension = size_of(question, count)
    if dense:
        why = (
            "you asked for it"
            if question.method == "dense"
            else f"a kernel of {dimension} x {dimension} fits the budget"
        )
        return Choice("kernel", f"whole (dense), {dimension} x {dimension}", why)
    why = "you asked for it" if question.method == "krylov" else f"{dimension} x {dimension} does not fit the budget"
    return Choice("kernel", "products with it (Krylov); conditions are left out", why)


def _stops(question: Question) -> str:
    return f"until the loss has fallen by a factor of {math.exp(question.fall):.3g}, or the budget is spent"


def _sizes(total: int) -> list[int]:
    below = [n for n in SIZES if n < total]
    return below if total > SIZES[0] else [total, *below]


def _cost(model: nn.Module, inputs: Tensor, outputs: int, parameters: int) -> _Cost:
    private = copy.deepcopy(model).cpu().double()
    batch = inputs.detach().cpu()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), counter:
        private(batch.double() if batch.is_floating_point() else batch)
    modules = sum(1 for _ in private.modules())
    counted = counter.get_total_flops() + 2 * parameters
    return _Cost(counted / len(batch) / SPEED, modules * CALL_SECONDS, outputs, parameters)
