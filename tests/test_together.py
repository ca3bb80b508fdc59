"""Networks computed at once: each as if it were alone, bit by bit; what cannot be computed so is left alone."""

import numpy as np
import pytest
import torch
from filelock import FileLock
from models import CASES
from torch import nn

import grsd
from grsd.flow import Descent, StepUnderflow
from grsd.flow import stacked as stacked_module
from grsd.flow.questions import Kernel, Push, Velocity
from grsd.flow.stacked import most, stacked
from grsd.flow.together import answered_together
from grsd.jacobian import random_like
from grsd.networks import Perceptron
from grsd.runs import Spec, family, together, train
from grsd.runs.together import batches, store_together, train_together

# At these sizes the processors tried so far round a network among others as they do alone.
SMALL = Spec(width=8, depth=3, samples=16, task="parity", times=(0.3, 3.0, 3), tolerance=1e-3, shell_widths=(1.0, 2.0))
AT_ONCE = {
    "plain",
    "residual",
    "deep linear",
    "erf, one output",
    "one layer, no bias",
    "one sample",
    "flat output, buffer",
}
TIMES, TOLERANCE = (0.5, 3.0), 1e-5


def names(folder):
    """A name holds the digest of the bytes."""
    return sorted(path.name for path in folder.glob("*.nc"))


def along(descent, times=TIMES):
    """A course: parameters and row at each time, then M and M'."""
    found = []
    yield from descent.begin()
    for time in times:
        yield from descent.advance(time)
        found.append((descent.theta, descent.row()))
    kernels = yield Kernel(descent.theta, descent.rate)
    return found, kernels


def siblings(descent, count):
    """Other parameters, ever further away, so that each takes steps of its own."""
    away = random_like(descent.theta) * descent.theta.abs().mean()
    return [descent.sibling(descent.theta + 0.2 * number * away, {"seed": number}) for number in range(count)]


SLOW = {
    "one sample",
    "erf, one output",
    "deep linear",
    "plain",
    "flat output, buffer",
}  # by the same ways as "residual"


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=[pytest.mark.long] if case.name in SLOW else []) for case in CASES]
)
def test_together_is_alone_to_the_tolerance_of_the_integrator(case):
    """Over the shared table of models; a module of another kind is not taken for one of these."""
    model, inputs, targets = case.make()
    descent = Descent(model, inputs, targets, tolerance=TOLERANCE)
    found = stacked(descent)
    assert (found is not None) == (case.name in AT_ONCE)
    if found is None:
        return
    for flow, (states, kernels) in zip(
        siblings(descent, 3), answered_together(found, map(along, siblings(descent, 3))), strict=True
    ):
        alone, own = descent.answer(along(flow))
        for (theta, row), (expected, counted) in zip(states, alone, strict=True):
            assert (theta - expected).norm() <= TOLERANCE * expected.norm()
            assert row["loss"] == pytest.approx(counted["loss"], rel=TOLERANCE)
            assert row["gradient_evaluations"] == pytest.approx(counted["gradient_evaluations"], rel=0.2)
        for matrix, expected in zip(kernels, own, strict=True):
            assert (matrix - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize(("samples", "width", "activation"), [(16, 8, "gelu"), (7, 3, "tanh"), (8, 16, "erf")])
def test_the_bits_do_not_depend_on_the_company(samples, width, activation, monkeypatch):
    """Alone, among two in another order, among forty in two parts, and kernels in small parts; odd sizes as well."""
    draw = {"generator": torch.Generator().manual_seed(0), "dtype": torch.float64}
    inputs, targets = torch.randn(samples, 4, **draw), torch.randn(samples, 2, **draw)
    model = Perceptron(4, 2, width=width, depth=3, residual=True, activation=activation)
    descent = Descent(model, inputs, targets)
    found, flows = stacked(descent), siblings(descent, 40)
    if found is None:
        pytest.skip("the products of this processor differ with their company at this size; such a network runs alone")
    rates = [found.answers([Velocity(flow.theta)])[0][0] for flow in flows]
    for kind in (lambda theta, _: Velocity(theta), Push, Kernel):
        questions = [kind(flow.theta, rate) for flow, rate in zip(flows, rates, strict=True)]
        alone = [found.answers([question])[0] for question in questions]
        for order in ([3, 1], [1, 3], range(40), range(39, 4, -1)):
            among = found.answers([questions[place] for place in order])
            for place, answer in zip(order, among, strict=True):
                assert stacked_module._equal(answer, alone[place])
    with monkeypatch.context() as patch:
        patch.setattr(stacked_module, "KERNEL_BYTES", 1)
        assert all(map(stacked_module._equal, found.answers(questions), alone))


def test_slots_of_a_device_are_fewer_if_they_are_large(monkeypatch):
    """4 samples and 11 units."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 1, dtype=torch.float64)
    descent = Descent(Perceptron(3, 1, width=5, depth=2), inputs, targets)
    found = stacked(descent)
    questions = [Velocity(flow.theta) for flow in siblings(descent, 5)]
    expected, slots, evaluate = found.answers(questions), [], found.velocity
    monkeypatch.setattr(found, "velocity", lambda theta: slots.append(len(theta)) or evaluate(theta))
    monkeypatch.setattr(found, "fixed", True)
    each = 8 * (6 * 4 * 11 + 12 * sum(p.numel() for p in found.network.parameters.values()))
    for room, counts in ((3, [3, 3, 3]), (1, [2] * 5), (9, [9])):
        monkeypatch.setattr(stacked_module, "DEVICE_BYTES", room * each)
        slots.clear()
        assert all(map(stacked_module._equal, found.answers(questions), expected))
        assert slots == counts


class Summed(nn.Module):
    """Right for one network: the sum of its biases. For several it would be that of all."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2, dtype=torch.float64)

    def forward(self, x):
        return torch.tanh(self.layer(x)) + self.layer.bias.sum()


def test_a_module_that_means_something_else_among_others_is_left_alone():
    inputs, targets = torch.ones(5, 3, dtype=torch.float64), torch.zeros(5, 2, dtype=torch.float64)
    assert stacked(Descent(Summed(), inputs, targets)) is None


def test_one_that_fails_and_one_that_ends_early_disturb_no_other():
    torch.manual_seed(0)
    inputs, targets = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 1, dtype=torch.float64)
    descent = Descent(Perceptron(3, 1, width=4, depth=2), inputs, targets)
    found = stacked(descent)

    def flows():
        first, second, broken, _ = siblings(descent, 4)
        broken._integrator.theta = torch.full_like(broken.theta, torch.nan)
        return [along(first, (0.1,)), along(broken), along(second)]

    early, failed, late = answered_together(found, flows())
    assert isinstance(failed, StepUnderflow)
    (alone,) = answered_together(found, flows()[2:])
    assert late[0][-1][1] == alone[0][-1][1]
    assert torch.equal(late[1][1], alone[1][1])
    assert len(early[0]) == 1


def test_a_wrong_kernel_is_refused_for_its_network_alone(monkeypatch):
    descent = Descent(Perceptron(3, 1, width=4, depth=2), torch.ones(4, 3), torch.zeros(4, 1))
    found, flows = stacked(descent), siblings(descent, 3)
    kernels = found.kernels

    def wrong(theta, direction):
        matrices, rates, off = kernels(theta, direction)
        return matrices, rates, off + (theta == flows[1].theta).all(1)

    monkeypatch.setattr(found, "kernels", wrong)
    first, second, third = answered_together(found, map(along, flows))
    assert str(second) == "the kernel's self-check failed, it is off by 1"
    assert len(first[0]) == len(third[0]) == 2


def test_stored_as_if_run_alone(tmp_path):
    """By the default route and in a batch: the same files, byte by byte; each has its seconds."""
    together_, alone = tmp_path / "together", tmp_path / "alone"
    specs = SMALL.with_seeds([4, 0, 2])
    results = grsd.ensemble(specs, workers=1, folder=together_)
    for spec, result in zip(specs, results, strict=True):
        assert result.identical(grsd.run(spec, folder=alone))
    assert names(together_) == names(alone)
    assert list((together_ / ".work").iterdir()) == []


def test_by_its_own_network_to_the_tolerance(monkeypatch):
    """The whole result, against the route of networks that are not small."""
    (found, _) = train_together(SMALL.with_seeds([1, 2]))
    monkeypatch.setattr(family, "LARGEST", 0)
    expected = train(SMALL.with_seeds([1])[0], progress=False)
    assert list(found.variables) == list(expected.variables)
    assert found.attrs == expected.attrs
    for name, variable in expected.variables.items():
        np.testing.assert_allclose(found[name], variable, rtol=1e-6, atol=1e-9 * float(abs(variable).max()))


def test_a_batch_that_is_stopped_goes_on(tmp_path, monkeypatch):
    """What was stored stays, and no lock; the same files in the end."""
    keep, kept = together.keep, []

    def interrupting(*arguments):
        if kept:
            raise KeyboardInterrupt
        kept.append(keep(*arguments))
        return kept[0]

    specs = SMALL.with_seeds(range(3))
    with monkeypatch.context() as patch:
        patch.setattr(together, "keep", interrupting)
        with pytest.raises(KeyboardInterrupt):
            grsd.ensemble(specs, workers=1, folder=tmp_path / "stopped")
    assert names(tmp_path / "stopped") == [kept[0][0].name]
    assert list((tmp_path / "stopped" / ".work").iterdir()) == []
    for place in ("stopped", "whole"):
        grsd.ensemble(specs, workers=1, folder=tmp_path / place)
    assert names(tmp_path / "stopped") == names(tmp_path / "whole")


def test_what_another_process_computes_is_left_to_it(tmp_path, monkeypatch):
    specs = SMALL.with_seeds(range(3))
    stem, _ = together.identity(specs[1], train)
    (tmp_path / ".work").mkdir()
    with FileLock(tmp_path / ".work" / f"{stem}.lock"):
        first, held, last = store_together(specs, tmp_path, 1)
    assert held is None
    assert names(tmp_path) == sorted([first[0].name, last[0].name])
    assert store_together(specs[:1], tmp_path, 1) == [None], "stored already"


def test_a_seed_with_another_network_is_computed_alone(monkeypatch, tmp_path):
    """Its numbers beside the parameters depend on the seed, which no shape tells."""
    network = Spec.network

    def odd(spec, data):
        made = network(spec, data)
        made.branch_scale = made.branch_scale * (1 + spec.seed)
        return made

    monkeypatch.setattr(Spec, "network", odd)
    family._family.cache_clear()
    try:
        specs = SMALL.with_seeds(range(2))
        assert store_together(specs, tmp_path, 1)[1] is None
        results = grsd.ensemble(specs, workers=1, folder=tmp_path)
        monkeypatch.setattr(family, "LARGEST", 0)
        assert results[1].loss.values == pytest.approx(train(specs[1], progress=False).loss.values, rel=1e-9)
    finally:
        family._family.cache_clear()


def test_tasks_are_batches_of_a_family():
    """Of equal size for the workers, never more than fit; large networks, several threads and other functions alone."""
    few, wide = SMALL.with_seeds(range(5)), Spec(width=300, samples=50)
    assert batches([*few, wide], range(6), train, 1, 2) == [[0, 1, 2], [3, 4], [5]]
    assert batches([*few, wide], [1, 3], train, 1, 1) == [[1, 3]]
    assert [len(task) for task in batches(SMALL.with_seeds(range(70)), range(70), train, 1, 1)] == [most("cpu")] * 2 + [
        8
    ]
    assert batches(few, range(5), train, 2, 1) == [[0], [1], [2], [3], [4]]
    assert batches([{"seed": 0}, {"seed": 1}], range(2), len, 1, 1) == [[0], [1]]
