"""The force dl/df of each loss, against finite differences of the loss of each sample."""

import pytest
import torch

from grsd.losses import force_of, loss_and_force, losses_of

OUTPUTS = torch.linspace(-1.0, 2.0, 12, dtype=torch.float64).reshape(4, 3)


def log_cosh(outputs, targets):
    return torch.log(torch.cosh(outputs - targets)).sum(1)


@pytest.mark.parametrize(("loss", "targets"), [
    ("mse", OUTPUTS.flip(0)), ("cross-entropy", torch.tensor([0, 2, 1, 1])), (log_cosh, OUTPUTS.flip(0)),
])  # fmt: skip
def test_forces_are_slopes_of_the_losses(loss, targets):
    mean, force = loss_and_force("test", loss, OUTPUTS, targets)
    assert mean == pytest.approx(float(losses_of(loss, OUTPUTS, targets).mean()), rel=1e-14)
    assert torch.equal(force, force_of(loss, OUTPUTS, targets))
    step = 1e-6
    for sample in range(4):
        for output in range(3):
            moved = OUTPUTS.clone()
            moved[sample, output] += step
            slope = (losses_of(loss, moved, targets) - losses_of(loss, OUTPUTS, targets)) / step
            assert float(slope[sample]) == pytest.approx(float(force[sample, output]), abs=1e-5)
            assert torch.equal(slope[torch.arange(4) != sample], torch.zeros(3, dtype=torch.float64))
