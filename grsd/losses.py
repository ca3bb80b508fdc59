"""Losses of one sample each, and their force dl/df at the outputs of a model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from grsd.support.checks import in_one_line
from grsd.support.values import said

Loss = str | Callable[[Tensor, Tensor], Tensor]
LOSSES = ("mse", "cross-entropy")
SLOPES, SINGLE_SLOPES = (1e-5, 1e-7), (1e-2, 1e-3)  # steps as shares of the outputs' size, in float64 and in less
AGREE = 1e-6
BENDS, BENT_ALIKE, ROUNDING = (1e-5, 1e-7), 1e-3, 1e-14  # steps as shares of the outputs' size


def check_loss(call: str, loss: object) -> str:
    """Return the name of a loss: one of ``LOSSES``, or that of a function of (outputs, targets)."""
    if callable(loss) and not isinstance(loss, type):
        return getattr(loss, "__name__", type(loss).__name__)
    if not isinstance(loss, str) or loss not in LOSSES:
        raise ValueError(
            f"{call}(loss=...): expected one of {LOSSES} or a function of (outputs, targets) that returns one loss per "
            f"sample, got {said(loss)}"
        )
    return loss


def fitting_targets(call: str, loss: Loss, outputs: Float[Tensor, "N ..."], targets: object) -> Tensor:
    """Return the targets on the outputs' device; refuse those that do not fit the loss.

    Mean squared error: floating point of exactly the output's shape. Cross-entropy: whole numbers (N,) from 0 to C - 1.
    A function: any dense tensor of finite numbers.
    """
    if not isinstance(targets, Tensor):
        hint = "; use torch.as_tensor(targets)" if hasattr(targets, "__array__") else ""
        raise TypeError(f"{call}(..., targets): expected a torch.Tensor, got {type(targets).__name__}{hint}")
    if targets.device.type == "meta" or targets.layout != torch.strided:
        what = "on the meta device" if targets.device.type == "meta" else str(targets.layout)
        raise TypeError(f"{call}(..., targets): expected a dense tensor with values, got one {what}")
    if loss == "mse":
        _check_values(call, outputs, targets)
    elif loss == "cross-entropy":
        _check_labels(call, outputs, targets)
    if targets.is_floating_point() and not bool(torch.isfinite(targets).all()):
        raise ValueError(f"{call}(..., targets): found NaN or infinity")
    return targets.detach().to(device=outputs.device, dtype=outputs.dtype if targets.is_floating_point() else None)


def check_samples(call: str, loss: Loss, samples: int, targets: Tensor) -> None:
    """Refuse targets that no outputs of that many samples fit, before a model is called; a function takes any."""
    if loss == "mse":
        if targets.ndim == 0 or len(targets) != samples or not targets.is_floating_point():
            hint = "" if targets.is_floating_point() else "; class labels need loss='cross-entropy'"
            raise ValueError(
                f"{call}(..., targets): expected floating point of {samples} samples for loss='mse', got "
                f"{targets.dtype} of shape {tuple(targets.shape)}{hint}"
            )
    elif loss == "cross-entropy":
        _check_classes(call, samples, targets)


def _check_values(call: str, outputs: Tensor, targets: Tensor) -> None:
    shape = tuple(outputs.shape)
    if not targets.is_floating_point():
        raise TypeError(
            f"{call}(..., targets): expected floating point of shape {shape} for loss='mse', got {targets.dtype} of "
            f"shape {tuple(targets.shape)}; class labels need loss='cross-entropy'"
        )
    if tuple(targets.shape) != shape:
        raise ValueError(
            f"{call}(..., targets): expected exactly the output's shape {shape}, got "
            f"{tuple(targets.shape)}; nothing is broadcast"
        )


def _check_labels(call: str, outputs: Tensor, targets: Tensor) -> None:
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise ValueError(
            f"{call}(loss='cross-entropy'): expected outputs of shape (N, C), C >= 2, the model gives "
            f"{tuple(outputs.shape)}"
        )
    samples, classes = outputs.shape
    _check_classes(call, samples, targets)
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"{call}(..., targets): expected class labels from 0 to {classes - 1}, got labels from {low} to {high}"
        )


def _check_classes(call: str, samples: int, targets: Tensor) -> None:
    whole = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
    if not whole or tuple(targets.shape) != (samples,):
        several = whole and targets.ndim > 1 and len(targets) == samples
        hint = "; for several labels per sample pass a function of (outputs, targets) as loss" if several else ""
        raise TypeError(
            f"{call}(..., targets): expected class labels, whole numbers of shape ({samples},), for "
            f"loss='cross-entropy', got {targets.dtype} of shape {tuple(targets.shape)}{hint}"
        )


def loss_and_force(call: str, loss: Loss, outputs: Float[Tensor, "N ..."], targets: Tensor) -> tuple[float, Tensor]:
    """Return the mean of l over samples and the force dl/df, of the output's shape; for ``mse`` l = |f - y|^2 / 2.

    Errors: as ``checked_force``; ``ValueError`` if a force is so large or so small that its square leaves the dtype's
    range.
    """
    losses, force = checked_force(call, loss, outputs, targets)
    limits = torch.finfo(force.dtype)
    largest = float(force.abs().max())
    if not (largest == 0 or limits.tiny**0.4 <= largest <= limits.max**0.4):
        raise ValueError(
            f"{call}(loss=...): the force dl/df, up to {largest:.3g}, or its square leaves the range of {force.dtype}; "
            "choose other units of the outputs or of the loss"
        )
    return float(losses.mean()), force


def checked_force(
    call: str, loss: Loss, outputs: Float[Tensor, "N ..."], targets: Tensor
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N ..."]]:
    """Return the losses (N,) and the force dl/df; targets as ``fitting_targets`` gives them.

    Errors: ``ValueError`` or ``RuntimeError`` in one line if a function does not return one finite loss per sample, of
    that sample alone.
    """
    if callable(loss):
        return _by_autograd(call, loss, outputs, targets)
    return losses_of(loss, outputs, targets), force_of(loss, outputs, targets)


def losses_of(loss: Loss, outputs: Float[Tensor, "N ..."], targets: Tensor) -> Float[Tensor, " N"]:
    """Return the loss of each sample; arguments as checked by ``loss_and_force``."""
    if loss == "mse":
        return (outputs - targets).reshape(len(outputs), -1).square().sum(1) / 2
    if loss == "cross-entropy":
        return torch.nn.functional.cross_entropy(outputs, targets.long(), reduction="none")
    with torch.no_grad():
        return loss(outputs, targets.clone())


def force_of(loss: Loss, outputs: Float[Tensor, "N ..."], targets: Tensor) -> Float[Tensor, "N ..."]:
    """Return the force dl/df; arguments as checked by ``loss_and_force``, whose checks cost several times as much."""
    if loss == "mse":
        return outputs - targets
    if loss == "cross-entropy":
        return outputs.softmax(1) - torch.nn.functional.one_hot(targets.long(), outputs.shape[1])
    with torch.enable_grad():
        own = outputs.detach().clone().requires_grad_(True)
        return torch.autograd.grad(loss(own, targets.clone()).sum(), own)[0]


def force_along(
    call: str, loss: Loss, outputs: Float[Tensor, "N ..."], targets: Tensor, moved: Float[Tensor, "N ..."]
) -> Float[Tensor, "N ..."]:
    """Return H ``moved``, the rate of the force while the outputs change by ``moved``; arguments as checked above.

    Errors: ``RuntimeError`` in one line if torch cannot differentiate a loss twice, or does so wrongly.
    """
    if loss == "mse":
        return moved
    if loss == "cross-entropy":
        share = outputs.softmax(1)
        return share * (moved - (share * moved).sum(1, keepdim=True))

    def failed(error: Exception) -> str:
        text = (str(error).strip() or "no message").splitlines()[0]
        return f"(loss=...): the loss cannot be differentiated twice ({type(error).__name__}: {text})"

    with torch.enable_grad(), in_one_line(call, failed):
        own, rate = outputs.detach().clone().requires_grad_(True), None
        (force,) = torch.autograd.grad(loss(own, targets.clone()).sum(), own, create_graph=True)
        if force.requires_grad:  # else the loss is linear in the outputs, or torch does not see how it bends
            (rate,) = torch.autograd.grad(force, own, moved, allow_unused=True)
    rate = torch.zeros_like(moved) if rate is None else rate.detach()
    if not _bends_so(loss, outputs, targets, moved, rate):
        raise RuntimeError(
            f"{call}(loss=...): torch's second derivative of the loss disagrees with a difference of its gradient; the "
            "loss detaches something, or its backward pass cannot be differentiated"
        )
    return rate


def _bends_so(loss: Callable, outputs: Tensor, targets: Tensor, moved: Tensor, rate: Tensor) -> bool:
    """Whether the rate of the force is that of a central difference, at one of two steps: a kink may be near."""
    size = float(moved.norm())
    if size == 0:
        return True
    f, y = outputs.double(), targets.double() if targets.is_floating_point() else targets
    for step in BENDS:
        h, forces = step * max(float(f.norm()), 1e-8) / size, []
        for sign in (1, -1):
            with torch.enable_grad():
                own = (f + sign * h * moved.double()).requires_grad_(True)
                forces.append(torch.autograd.grad(loss(own, y.clone()).sum(), own)[0])
        change = (forces[0] - forces[1]) / (2 * h)
        rounding = ROUNDING / h * float(forces[0].norm())
        if float((change - rate).norm()) <= BENT_ALIKE * float(change.norm()) + rounding:
            return True
    return False


def _slopes_so(loss: Callable, outputs: Tensor, targets: Tensor, force: Tensor) -> bool:
    """Whether the force lies between the slopes of the losses on both sides, along one direction, at one of two steps.

    It is so on a kink, too. Not judged: a loss that takes the dtype of its settings alone, a sample at the edge of
    where its loss is defined.
    """
    f, y = outputs.double(), targets.double() if targets.is_floating_point() else targets
    places = torch.arange(f.numel(), dtype=torch.float64, device=f.device)
    moved = (1.7 * places + 1).sin().view_as(f)
    found = (force.double() * moved).reshape(len(f), -1).sum(1)
    bound = force.double().reshape(len(f), -1).norm(dim=1) * moved.reshape(len(f), -1).norm(dim=1)
    size = max(float(f.norm() / moved.norm()), 1e-8)
    try:
        with torch.no_grad():
            middle = loss(f, y.clone())
            steps = SLOPES if middle.dtype == torch.float64 else SINGLE_SLOPES
            ends = [[loss(f + sign * size * step * moved, y.clone()) for sign in (1, -1)] for step in steps]
    except Exception:  # a function may raise anything at another dtype, or outside of where it is defined
        return True
    eps, middle = torch.finfo(middle.dtype).eps, middle.double()
    for step, (above, below) in zip(steps, ends, strict=True):
        h = size * step
        slopes = (above.double() - middle) / h, (middle - below.double()) / h
        allowed = BENT_ALIKE * bound + 100 * eps / h * (middle.abs() + size * bound)
        between = (torch.minimum(*slopes) - allowed <= found) & (found <= torch.maximum(*slopes) + allowed)
        if bool((between | ~torch.isfinite(slopes[0] + slopes[1])).all()):
            return True
    return False


def _by_autograd(call: str, loss: Callable, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    samples = len(outputs)

    def failed(error: Exception) -> str:
        text = (str(error).strip() or "no message").splitlines()[0]
        return (
            f"(loss=...): the loss cannot be evaluated on outputs of shape {tuple(outputs.shape)} and targets of shape "
            f"{tuple(targets.shape)} ({type(error).__name__}: {text})"
        )

    with torch.enable_grad(), in_one_line(call, failed):
        own = outputs.detach().clone().requires_grad_(True)
        losses = loss(own, targets.clone())
        if not isinstance(losses, Tensor) or tuple(losses.shape) != (samples,):
            raise ValueError(
                f"{call}(loss=...): expected one loss per sample, a tensor of shape ({samples},), the function "
                f"returned {said(losses)}; return the losses before their mean (reduction='none')"
            )
        if not bool(torch.isfinite(losses).all()) or not losses.requires_grad:
            what = "NaN or infinity" if losses.requires_grad else "losses without a gradient"
            raise ValueError(f"{call}(loss=...): the function returned {what}")
        if not torch.equal(losses, loss(own, targets.clone())):
            raise ValueError(f"{call}(loss=...): the function returns other losses each time; it must not be random")
        weights = torch.linspace(1, 2, samples, dtype=losses.dtype, device=losses.device)
        (force,) = torch.autograd.grad(losses.sum(), own, retain_graph=True)
        (weighted,) = torch.autograd.grad((weights * losses).sum(), own)
    if not bool(torch.isfinite(force).all()):
        raise ValueError(f"{call}(loss=...): the gradient of the loss contains NaN or infinity")
    alone = force * weights.to(force.dtype).reshape(-1, *[1] * (force.ndim - 1))
    if float((weighted - alone).abs().max()) > AGREE * float(force.abs().max()):
        raise ValueError(f"{call}(loss=...): the loss of a sample depends on the outputs of other samples")
    if not _slopes_so(loss, outputs, targets, force):
        raise ValueError(
            f"{call}(loss=...): torch's gradient of the loss disagrees with a difference of its values; the loss "
            "detaches something that depends on the outputs, or its backward pass is another function's"
        )
    return losses.detach(), force
