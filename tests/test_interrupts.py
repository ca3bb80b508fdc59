"""Ctrl-C at any moment leaves torch's switches as they were, so that a notebook goes on with the numbers it had."""

import itertools
import sys
from contextlib import suppress

import pytest
import torch
import torch.utils.checkpoint
from torch.autograd import forward_ad
from torch.nn.utils import parametrize

import grsd
from grsd.support.switches import DTYPE, Switch, Switched

DATA = grsd.digits(8)
WITHIN = ("/grsd/", "/contextlib.py", "/overrides.py", "/forward_ad.py")
LAST = (Switched.__enter__.__code__, "return"), (Switched.__exit__.__code__, "call")


def work():
    network = grsd.Perceptron(64, 2, width=4, depth=2, seed=0)
    return grsd.gradient_flow(network, DATA.inputs, DATA.targets[:, :2], [0.0, 0.1])


def switches():
    cuda, checkpoint = torch.backends.cuda, torch.utils.checkpoint
    return {
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "attention": (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.cudnn_sdp_enabled()),
        "modes": (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()),
        "level": forward_ad._current_level,
        "cache": parametrize._cache_enabled,
        "checkpoint": checkpoint.CheckpointFunction,
    }


class Interrupt:
    """Raises at the given moment: when a function of ours, or of a manager that we use, is called or has called."""

    def __init__(self, moment):
        self.moment, self.passed, self.place = moment, 0, None

    def __call__(self, frame, event, _):
        code = frame.f_code
        if not any(part in code.co_filename for part in WITHIN) or event == "return" or (code, event) in LAST:
            return
        self.passed += 1
        if self.passed == self.moment:
            sys.setprofile(None)
            self.place = f"{event} in {code.co_name} of {code.co_filename}"
            raise KeyboardInterrupt


def interrupted(moment):
    """Return the interrupt and its exception, which holds the frames as a notebook does; ``None`` if it never came."""
    interrupt = Interrupt(moment)
    sys.setprofile(interrupt)
    try:
        work()
    except KeyboardInterrupt as error:
        return interrupt, error
    finally:
        sys.setprofile(None)
    return interrupt, None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("step", [499, pytest.param(211, marks=pytest.mark.long)])
def test_an_interrupt_leaves_no_switch(step):
    """At every so many of its moments, which are more than ten thousand."""
    work()
    before, errors = switches(), []
    for moment in itertools.count(1, step):
        interrupt, error = interrupted(moment)
        if error is None and interrupt.place is None:
            break
        errors.append(error)
        assert switches() == before, interrupt.place
    assert len(errors) > 20
    errors.clear()
    assert switches() == before


def test_what_is_left_inside_comes_back():
    """Planted: a mode and a dtype that nobody takes back."""
    before = switches()
    with suppress(KeyboardInterrupt), Switched([(DTYPE, torch.float64)]):
        torch.overrides._push_mode(torch.overrides.BaseTorchFunctionMode())
        forward_ad.enter_dual_level()
        torch.set_grad_enabled(False)
        assert all(switches()[name] != before[name] for name in ("dtype", "modes", "level", "gradients"))
        raise KeyboardInterrupt
    assert switches() == before


def test_a_switch_that_cannot_be_put_brings_the_others_back():
    before = switches()
    stiff = Switch(lambda: 1, lambda value: 1 / value)
    with pytest.raises(ZeroDivisionError), Switched([(DTYPE, torch.float64), (stiff, 0)]):
        pass
    assert switches() == before


def test_a_generator_that_is_closed_later_changes_nothing_else():
    """Its switches come back; whether gradients are on is by then somebody else's."""

    def half():
        with Switched([(DTYPE, torch.float64)]):
            yield

    before, waiting = switches(), half()
    next(waiting)
    with torch.no_grad():
        waiting.close()
        assert switches() == before | {"gradients": False}
