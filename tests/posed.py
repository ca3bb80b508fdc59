"""Tests on the posing device; ``test_posing.py`` runs them in a process of their own, where it is registered."""

import inspect

import moving
import numpy as np
import posing
import pytest
import torch
from material import SHELLS, learning, model
from moving import with_tensors
from posing import DEVICE, NAME, Mixed, Posing, ReadInALoop, inside, moved

import grsd
from grsd.flow import Descent, chebyshev
from grsd.flow.questions import Kernel
from grsd.flow.stacked import stacked
from grsd.flow.together import answered_together
from grsd.krylov import tridiagonal

pytestmark = pytest.mark.usefixtures("let_in")


@pytest.fixture
def let_in(monkeypatch):
    posing.let_in(monkeypatch)


def same(found, expected):
    return moving.same(found, expected, inside)


def test_the_public_calls_on_tensors_of_the_device():
    for public in with_tensors().values():
        with Posing():
            public.function(**moved(public.arguments()))


@pytest.mark.long
def test_the_public_calls_with_the_device_named():
    """As users call them: everything on the host, ``device=`` says where; the same results as on the CPU."""
    named = 0
    for name, public in with_tensors().items():
        if "device" not in inspect.signature(public.function).parameters:
            continue
        named += 1
        expected = public.function(**public.arguments())
        with Posing():
            assert same(public.function(**(public.arguments() | {"device": NAME})), expected), name
    assert named >= 12


def flowing():
    given = moved(learning())
    return Descent(*given.values())


def test_a_host_tensor_in_the_flow_is_caught():
    with Posing():
        descent = flowing()
        descent._problem.targets = descent._problem.targets.cpu()
        with pytest.raises(Mixed, match=r"aten\.sub.* on the host .* at /losses\.py:\d+$"):
            descent.snapshot(0.5)


@pytest.mark.parametrize("reads", [lambda x: x.item(), float, lambda x: x.cpu().numpy().item(), lambda x: bool(x > 0)])
def test_an_item_in_the_loop_is_caught(monkeypatch, reads):
    monkeypatch.setattr(chebyshev, "read", lambda scalars: [float(reads(scalar)) for scalar in scalars])
    with Posing(), pytest.raises(ReadInALoop, match=r"aten\..* at /flow/chebyshev\.py:\d+, 4 times"):
        flowing().snapshot(0.5)


def test_a_copy_in_the_loop_is_caught(monkeypatch):
    monkeypatch.setattr(tridiagonal, "read", lambda scalars: [scalar.cpu().item() for scalar in scalars])
    with Posing(), pytest.raises(ReadInALoop, match=r"aten\._to_copy.* at /krylov/tridiagonal\.py:\d+, 4 times"):
        grsd.krylov_spectrum(**moved(learning()), steps=6)


def test_host_indices_masks_and_arrays_are_refused():
    with Posing():
        there = torch.arange(6.0, device=DEVICE)
        for wrong in (lambda: there[torch.tensor([1])], lambda: there @ torch.ones(6), lambda: torch.ones(6) + there):
            with pytest.raises(Mixed):
                wrong()
        with pytest.raises((TypeError, RuntimeError)):
            np.asarray(there)
        assert float((there * torch.tensor(2.0)).sum()) == 30  # one host number beside a tensor, as on CUDA


def test_step_control_passes_the_door_less_than_once_a_gradient():
    with Posing() as device:
        flow = grsd.gradient_flow(**moved(learning()), times=[0.5, 2.0])
    passages = sum(count for place, count in device.doors.items() if place.startswith("/flow/chebyshev"))
    tries = int(flow.history.steps[-1] + flow.history.rejected[-1])
    assert tries <= passages < int(flow.history.gradient_evaluations[-1]) / 2


def course(flow):
    yield from flow.begin()
    yield from flow.advance(0.5)
    yield Kernel(flow.theta, flow.rate)
    return flow.row()


@pytest.mark.long
def test_flows_together_pass_the_door_together():
    """Less often than each alone, and never with a read of their own."""
    with Posing() as device:
        descent = flowing()
        found = stacked(descent)
        flows = [descent.sibling(descent.theta * scale, {}) for scale in (1.0, 0.95, 0.9)]
        passages = []
        for few in (flows[:1], flows[1:]):
            device.doors.clear()
            rows = answered_together(found, map(course, few))
            passages.append(sum(device.doors.values()) - len(few))  # a loss each
    assert passages[1] < 1.9 * passages[0]
    assert rows[0]["steps"] > 1
    assert not any(place.startswith(("/flow/together", "/flow/stacked")) for place in device.reads)


def test_a_host_tensor_among_flows_is_caught():
    with Posing():
        descent = flowing()
        found = stacked(descent)
        found.targets = found.targets.cpu()
        (end,) = answered_together(found, [course(descent.sibling(descent.theta.clone(), {}))])
    assert isinstance(end, Mixed)


def test_lanczos_passes_the_door_once_a_step():
    with Posing() as device:
        grsd.krylov_spectrum(**moved(learning()), steps=7)
    assert sum(count for place, count in device.doors.items() if place.startswith("/krylov/tridiagonal")) == 7


def test_the_shells_pass_the_door_once_a_width():
    with Posing() as device:
        given = moved(learning())
        modes = grsd.spectrum(*grsd.tangent_kernel_and_rate(**given))
        with torch.no_grad():
            error = given["model"](given["inputs"]) - given["targets"]
        device.doors.clear()
        grsd.energy_budget(modes, error, SHELLS)
    assert sum(device.doors.values()) == 1


def test_the_model_stays_where_it_was():
    own = model()
    with Posing():
        grsd.tangent_kernel(own, learning()["inputs"], device=NAME)
    assert {p.device.type for p in own.parameters()} == {"cpu"}
