"""Finished trainings that cannot be audited: one true line each, which names the file that the user gave."""

import copy

import pytest
import torch
from test_audit import Dead, blind, data, small, states
from torch import nn

import grsd
from grsd.auditing.blind import blindness, constant

X, Y = data(32)


def moved(make, count=3):
    """States of a network whose weights go on by chance."""
    torch.manual_seed(0)
    model, found = make().double(), []
    for _ in range(count):
        found.append(copy.deepcopy(model.state_dict()))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return found


def headless(state):
    """The state with a last layer of zeros."""
    return {name: value * (not name.startswith("2.")) for name, value in state.items()}


def refused(found, make=small, targets=Y, **options):
    with pytest.raises((TypeError, ValueError, RuntimeError)) as caught:
        grsd.audit(make, X, targets, checkpoints=found, progress=False, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


ZERO = "the gradients of all outputs are zero, so that no weight can learn (dead units, or layers of zeros?)"
SAME = "every sample has the same gradients, so that no weight that learns sees the inputs "
SAME += "(dead units, or layers of zeros?)"


@pytest.mark.parametrize("method", ["dense", "krylov"])
@pytest.mark.parametrize(("make", "why"), [(Dead, ZERO), (blind, SAME)])
def test_a_dead_network_says_what_is_wrong(make, why, method):
    assert refused(moved(make), make, method=method) == f"audit(checkpoints[0]=...): {why}"


def test_blindness_needs_all_samples():
    """Zero, or equal, for all: one sample that differs is enough to learn from. A model that fails is not judged."""
    assert blindness(Dead().double(), X, " now") == ZERO.replace("zero,", "zero now,")
    assert blindness(blind().double(), X) == SAME
    assert blindness(blind().double(), torch.cat([X[:5], 1e3 * X[5:6]])) is None
    assert blindness(small().double(), X) is None
    assert blindness(small().double(), X[:, :2]) is None
    assert constant(torch.ones(3, 2))
    assert not constant(torch.eye(2))
    assert not constant(torch.full((3, 1), torch.nan))


def test_states_that_cannot_be_compared():
    found = moved(small)
    zeros = [found[0], {name: 0 * value for name, value in found[0].items()}, found[2]]
    assert refused(zeros) == f"audit(checkpoints[1]=...): {SAME}"
    line = (
        "audit(checkpoints[2]=...): the outputs are the same for all samples, so that nothing was learned from the in"
    )
    assert refused([*found[:2], headless(found[2])]).startswith(line)
    same = small().double().state_dict()
    line = "audit(checkpoints=...): all 3 states are equal, so nothing was learned; keep copies, copy.deepcopy(model.s"
    assert refused([same] * 3).startswith(line)
    assert refused([found, [same, same]]).startswith("audit(checkpoints[1]=...): all 2 states are equal")
    own = {"weight": torch.eye(5)[:1].double(), "bias": torch.zeros(1).double()}
    linear = [*moved(lambda: nn.Linear(5, 1)), own]
    line = (
        "audit(checkpoints[3]=...): the loss is 0, and its fall, counted in e-folds, takes a loss above zero; leave s"
    )
    assert refused(linear, lambda: nn.Linear(5, 1), X[:, :1]).startswith(line)


def test_a_head_of_zeros_at_the_start_is_no_fault():
    found = moved(small)
    audited = grsd.audit(small, X, Y, checkpoints=[headless(found[0]), *found[1:]], progress=False)
    assert audited.verdict == "inconclusive"


def foreign(file):
    torch.save(nn.Linear(3, 3).state_dict(), file)


def infinite(file):
    torch.save({name: 1e200 * value for name, value in small().double().state_dict().items()}, file)


def nan(file):
    torch.save({name: torch.nan * value for name, value in small().state_dict().items()}, file)


def twice(file):
    torch.save({f"{part}.{name}": v for part in "ab" for name, v in small().state_dict().items()}, file)


def dead(file):
    torch.save({name: 0 * value for name, value in small().state_dict().items()}, file)


BROKEN = {
    foreign: "the state does not fit its module (",
    infinite: "the model's output contains NaN or infinity",
    nan: "'0.weight' contains NaN or infinity: the training diverged (a learning rate past the edge of stability?); ",
    twice: "the module's names stand there under 'a.' and 'b.'; ",
    dead: SAME,
    lambda file: file.write_bytes(b"no weights"): "it cannot be read as weights alone (",
}


@pytest.mark.parametrize(("spoil", "why"), BROKEN.items())
def test_a_file_is_named_as_it_was_given(spoil, why, tmp_path):
    """Whatever is wrong with it, of one training and of several; a state in memory has a place instead."""
    files = states(tmp_path, steps=8)
    spoil(files[1])
    assert refused(files).startswith(f"audit(checkpoints=...): {files[1]}: {why}")
    if spoil in (foreign, infinite, nan, twice, dead):
        held = [torch.load(file, weights_only=True) for file in files]
        assert refused(held).startswith(f"audit(checkpoints[1]=...): {why}")
        assert refused([held[::2], held]).startswith(f"audit(checkpoints[1][1]=...): {why}")
    if spoil not in (nan, dead):
        with pytest.raises(ValueError) as caught:  # noqa: PT011  the text is compared below
            grsd.checkpoints(small(), [str(file) for file in files], X, Y, grsd.LogShells(0.7))
        assert str(caught.value).startswith(f"checkpoints(files=...): {files[1]}: {why}")


def test_files_that_are_equal(tmp_path):
    files = states(tmp_path, rate=0.0)
    line = "all 4 states are equal, so nothing was learned; are they files of the network that the optimizer trains?"
    assert refused(files) == f"audit(checkpoints=...): {line}"


def test_products_of_a_dead_network_say_no_span():
    with pytest.raises(ValueError, match=r"^checkpoints\(shells=...\): the first and the last state do not say a span"):
        grsd.checkpoints(Dead(), moved(Dead), X, Y, grsd.LogShells(0.7), method="krylov")
