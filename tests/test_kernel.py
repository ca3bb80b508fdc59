from dataclasses import replace

import pytest
import torch
from models import CASES, SOME_CASES, ZOO, dense, differences
from torch import nn

import grsd
from grsd.jacobian import ParameterGroup, Route, RowMethod, exact_derivatives
from grsd.jacobian import rows as differentiation
from grsd.jacobian import trace as tracing
from grsd.kernel.computation import KernelComputation
from grsd.kernel.jacobian_rate import jacobian_rate_kernel
from grsd.kernel.plan import Pass, Plan, Problem, make_plan
from grsd.kernel.products import KernelAccumulator
from grsd.kernel.tiles import tile_pairs


@pytest.fixture
def as_large(monkeypatch):
    """The routes of problems that are large, on the small ones of the table."""
    monkeypatch.setattr("grsd.jacobian.size.FEW_CALLS", 0)
    monkeypatch.setattr("grsd.jacobian.size.GRAMS_AT_ONCE", 0)
    monkeypatch.setattr("grsd.jacobian.size.HELD_ROWS", 0)


@pytest.fixture
def as_wide(as_large, monkeypatch):
    """The routes of layers with many channels as well."""
    monkeypatch.setattr("grsd.jacobian.size.PER_CALL", 0)
    monkeypatch.setattr("grsd.jacobian.size.NARROW", 0)


def relative(found, expected):
    return float((found - expected).norm() / expected.norm().clamp(min=1e-300))


def test_kernel_against_one_dense_jacobian(any_case):
    m = dense(*any_case)[0]
    kernel, rate = grsd.tangent_kernel_and_rate(*any_case)
    assert relative(kernel, m) < 1e-13
    assert relative(grsd.tangent_kernel(*any_case[:2]), kernel) < 1e-14
    assert torch.equal(kernel, kernel.T)
    assert torch.equal(rate, rate.T)


def test_rate_by_forward_mode_of_the_dense_kernel(case):
    _, rate, _ = dense(*case)
    found = grsd.tangent_kernel_and_rate(*case)[1]
    assert relative(found, rate) < 1e-12 or float(rate.norm()) == 0


@SOME_CASES
@pytest.mark.parametrize("size", ["as_large", "as_wide"])
def test_large_problems_against_one_dense_jacobian(any_case, size, request):
    request.getfixturevalue(size)
    m = dense(*any_case)[0]
    assert relative(grsd.tangent_kernel(*any_case[:2]), m) < 1e-13
    kernel, rate = grsd.tangent_kernel_and_rate(*any_case)
    assert relative(kernel, m) < 1e-13
    assert torch.equal(rate, rate.T)


@SOME_CASES
def test_rate_against_differences_of_the_dense_kernel(any_case):
    """Fourth order, along the straight line theta + h theta', where M' is the first derivative."""
    m, _, along = dense(*any_case)
    found = grsd.tangent_kernel_and_rate(*any_case)[1]
    h = 2e-4 * min(1.0, float(m.norm() / found.norm().clamp(min=1e-300)))
    difference = differences(along, h)
    assert float((found - difference).norm()) <= 1e-8 * float(found.norm()) + 1e-14 * float(m.norm()) / h


@SOME_CASES
def test_parameter_kernels_add_up(any_case):
    """Each is the kernel of the model with all other parameters frozen."""
    model, inputs, _ = any_case
    shares = grsd.parameter_kernels(model, inputs)
    assert relative(sum(shares.values()), grsd.tangent_kernel(model, inputs)) < 1e-13
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert set(shares) <= set(trainable)
    name = trainable[-1] if trainable[-1] in shares else next(iter(shares))
    model.requires_grad_(False).get_parameter(name).requires_grad_(True)
    assert relative(shares[name], grsd.tangent_kernel(model, inputs)) < 1e-12


def test_unused_parameters_have_no_share():
    model, inputs, _ = next(case for case in ZOO if case.name == "raw parameters").make()
    assert set(dict(model.named_parameters())) - set(grsd.parameter_kernels(model, inputs)) == {"unused"}


@SOME_CASES
@pytest.mark.parametrize(("batch", "tile", "passes"), [(1, 2, 2)])
def test_batches_groups_and_tiles_change_nothing(any_case, request, monkeypatch, batch, tile, passes):
    """Any plan gives the same matrices, by the routes of large problems too; slices of a few numbers too."""
    model, inputs, targets = any_case
    expected = grsd.tangent_kernel_and_rate(model, inputs, targets)
    request.getfixturevalue("as_large")

    def cut(groups, samples):
        size = -(-len(groups) // passes)
        packs = [tuple(groups[i : i + size]) for i in range(0, len(groups), size)]
        return Plan(tuple(Pass(pack, tile or samples, batch) for pack in packs), workspace=7)

    monkeypatch.setattr("grsd.kernel.computation.single_pass_plan", cut)
    if type(model).__name__ == "Branches" and batch <= 4 < len(inputs):
        return
    for part, one in zip(grsd.tangent_kernel_and_rate(model, inputs, targets), expected, strict=True):
        assert relative(part, one) < 1e-12 or float(one.norm()) == 0


@pytest.mark.usefixtures("as_wide")
@pytest.mark.parametrize(("tile", "batch"), [(7, 7), (3, 2)])
def test_weighted_products_of_channel_groups_in_tiles(tile, batch, monkeypatch):
    """Of whole batches and of pairs of tiles, with the rate, J' J'^T, parts of M and the shares of parameters."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.Tanh(), nn.Conv2d(4, 6, 3, stride=2), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(24, 3)).double()
    inputs, targets = torch.randn(7, 2, 6, 6).double(), torch.randn(7, 3).double()
    m = dense(model, inputs, targets)[0]
    taken = []

    def cut(groups, samples):
        taken.extend(group.route for group in groups)
        return Plan((Pass(tuple(groups), tile, batch),), workspace=40)

    monkeypatch.setattr("grsd.kernel.computation.single_pass_plan", cut)
    kernel, rate = grsd.tangent_kernel_and_rate(model, inputs, targets)
    assert relative(kernel, m) < 1e-13
    assert relative(grsd.tangent_kernel(model, inputs), m) < 1e-13
    assert relative(sum(grsd.parameter_kernels(model, inputs).values()), m) < 1e-13
    by_output = m.view(7, 3, 7, 3)
    assert relative(grsd.tangent_kernel(model, inputs, outputs="trace"), torch.einsum("icjc->ij", by_output)) < 1e-13
    both = jacobian_rate_kernel(model, inputs, targets)
    for part, one in zip(both, (kernel, rate, both[2].T), strict=True):
        assert relative(part, one) < 1e-12
    assert Route.WEIGHTED in taken


def test_every_route_is_taken(request):
    """The table reaches each route, or the tests above would say nothing about it."""
    routes = set()
    for fixture in (None, "as_large", "as_wide"):
        if fixture:
            request.getfixturevalue(fixture)
        for case in CASES + ZOO:
            with exact_derivatives():
                computation = KernelComputation("computation", *case.make(), torch.float64, None, None, rate=True)
            routes |= {group.route if group.uses else "generic" for group in computation.groups} | {
                computation.strategy.row_method
            }
            routes |= {"rows of everything"} if not computation.strategy.factored else set()
    assert routes == {
        Route.GRAM,
        Route.ROWS,
        Route.SLICES,
        Route.WEIGHTED,
        "generic",
        RowMethod.PER_SAMPLE,
        RowMethod.WHOLE_BATCH,
        "rows of everything",
    }


@SOME_CASES
def test_without_vmap(any_case, monkeypatch):
    """What torch.vmap cannot batch (for one sample alone the backward pass of PReLU) is done one by one."""
    model, inputs, targets = any_case
    expected = grsd.tangent_kernel_and_rate(model, inputs, targets)
    batched_or_not = tracing.gradients

    def without(*args, batched=True, **options):
        if batched:
            raise RuntimeError("no vmap today")
        return batched_or_not(*args, batched=False, **options)

    monkeypatch.setattr(differentiation, "gradients", without)
    for part, one in zip(grsd.tangent_kernel_and_rate(model, inputs, targets), expected, strict=True):
        assert relative(part, one) < 1e-12 or float(one.norm()) == 0


def test_order_of_samples_and_precision():
    model = grsd.Perceptron(5, 3, width=16, depth=3, residual=True)
    x = torch.randn(7, 5, dtype=torch.float64)
    kernel = grsd.tangent_kernel(model, x).view(7, 3, 7, 3)
    order = torch.randperm(7)
    shuffled = grsd.tangent_kernel(model, x[order]).view(7, 3, 7, 3)
    assert torch.allclose(shuffled, kernel[order][:, :, order], rtol=1e-12)
    single = grsd.tangent_kernel(model, x, dtype=torch.float32)
    assert single.dtype == torch.float32
    assert relative(single.double(), kernel.reshape(21, 21)) < 1e-5
    assert next(model.parameters()).dtype == torch.float32


class Couples(nn.Module):
    """Samples see each other's mean."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x):
        y = self.layer(x)
        return torch.tanh(y - y.mean(0))


class Twice(nn.Module):
    """Uses a layer's weight outside the layer too."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x):
        return self.layer(x) + x @ self.layer.weight.T**2


class Folds(nn.Module):
    """Folds samples into one row before its layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(10, 6)

    def forward(self, x):
        return self.layer(x.reshape(-1, 10)).reshape(-1, 3)


def test_weights_also_used_outside_their_layer():
    model = Twice().double()
    x, y = torch.randn(6, 5, dtype=torch.float64), torch.zeros(6, 3, dtype=torch.float64)
    assert relative(grsd.tangent_kernel(model, x), dense(model, x, y)[0]) < 1e-13


@pytest.mark.parametrize("model", [Couples(), Folds()])
def test_coupled_samples_are_refused(model):
    message = r"tangent_kernel\(model, ...\): the output of a sample changes with the other samples of its batch"
    with pytest.raises(ValueError, match=message):
        grsd.tangent_kernel(model, torch.randn(6, 5))
    with pytest.raises(ValueError, match="other samples of its batch"):
        grsd.tangent_kernel_and_rate(model, torch.randn(2, 5), torch.zeros(2, 3))


@pytest.mark.usefixtures("as_large")
@pytest.mark.parametrize("which", [0, 1])
def test_self_check_sees_a_wrong_matrix(monkeypatch, which):
    """One part of one layer left out of M, or of M'."""
    seen = []

    def spoil(name):
        right = getattr(KernelAccumulator, name)

        def spoiled(self, target, *rest):
            mine = target.data_ptr() == self.matrices[which].data_ptr()
            if mine and self not in seen:
                seen.append(self)
            else:
                right(self, target, *rest)

        monkeypatch.setattr(KernelAccumulator, name, spoiled)

    spoil("_put")
    spoil("_add")
    spoil("_multiply")
    model, x = grsd.Perceptron(5, 3, width=8, depth=2), torch.randn(6, 5)
    what = ("M", "M'")[which]
    with pytest.raises(
        RuntimeError, match=rf"tangent_kernel_and_rate\(model, ...\): self-check failed, v\^T {what} v = "
    ):
        grsd.tangent_kernel_and_rate(model, x, torch.zeros(6, 3))


def test_a_network_that_depends_on_its_batch_size_is_refused_in_parts(as_large, monkeypatch):
    class Depends(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(5, 3)

        def forward(self, x):
            return self.layer(x) * (2 if len(x) == 2 else 1)

    monkeypatch.setattr(
        "grsd.kernel.computation.single_pass_plan", lambda groups, samples: Plan((Pass(tuple(groups), samples, 2),))
    )
    with pytest.raises(RuntimeError, match="outputs of a part of the batch differ by"):
        grsd.tangent_kernel(Depends(), torch.randn(6, 5))


def test_memory_limit():
    model, x = grsd.Perceptron(5, 3, width=8, depth=2), torch.randn(60, 5)
    need = grsd.memory_estimate(model, x)
    assert need >= 2 * 180**2 * 8
    assert grsd.memory_estimate(model, x, rate=True) > need
    grsd.tangent_kernel(model, x, memory_limit=need)
    for limit in (2 * 180**2 * 8, "100 KiB", "0.1MB"):
        with pytest.raises(MemoryError, match=r"D = 180 needs about .* raise the limit, take fewer samples"):
            grsd.tangent_kernel(model, x, memory_limit=limit)
    for wrong in ("much", "4 TB", True):
        with pytest.raises(ValueError, match=r"memory_limit=...\): expected bytes or text such as '4GiB'"):
            grsd.tangent_kernel(model, x, memory_limit=wrong)


def allocated(function):
    """The most bytes that torch held on the CPU during the call, as its profiler counts them."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    now = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


METERED = [case.name for case in ZOO if case.name not in {"looks at values", "branches on shapes"}]


SLOW = {"transformer, norms last", "transformer, tied output"}  # half a minute together


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        pytest.param(name, number % 2 == 0, marks=[pytest.mark.long] if name in SLOW or number % 5 else [])
        for number, name in enumerate(METERED)
    ],
)
def test_the_estimate_is_what_is_held(name, rate, monkeypatch):
    """Within 20 %, for a hundred samples; the two models left out cannot be measured on few samples.

    Every other model with its rate. The matrices by torch, whose profiler does not see what NumPy allocates.
    """
    monkeypatch.setattr("grsd.kernel.products.zeros", lambda size, dtype, _: torch.zeros(size, size, dtype=dtype))
    case = next(case for case in ZOO if case.name == name)
    model, x, y = replace(case, inputs=(100, *case.inputs[1:]), outputs=(100, *case.outputs[1:])).make()
    estimate = grsd.memory_estimate(model, x, rate=rate)

    def compute(limit=2**40):
        if rate:
            return grsd.tangent_kernel_and_rate(model, x, y, memory_limit=limit)
        return grsd.tangent_kernel(model, x, memory_limit=limit)

    assert allocated(compute) == pytest.approx(estimate, rel=0.2)
    limit = int(0.75 * estimate)
    try:
        less = grsd.memory_estimate(model, x, rate=rate, memory_limit=limit)
        held = allocated(lambda: compute(limit))
    except MemoryError:
        return
    assert held == pytest.approx(less, rel=0.2)
    assert held <= 1.05 * limit


@pytest.mark.long
def test_a_tight_limit_costs_repetitions_and_changes_nothing():
    """Through the planner itself: passes, tiles and batches, on a network of convolutions."""
    case = next(case for case in ZOO if case.name == "resnet")
    model, x, y = replace(case, inputs=(12, *case.inputs[1:]), outputs=(12, *case.outputs[1:])).make()
    free = grsd.tangent_kernel_and_rate(model, x, y)
    plans = []
    for share in (1.5, 0.1):
        limit = int(share * grsd.memory_estimate(model, x, rate=True))
        with exact_derivatives():
            computation = KernelComputation(
                "computation", model, x, y, torch.float64, None, limit, rate=True, refuse=False
            )
            plans.append(computation.plan)
            for part, one in zip(computation.total(), free, strict=True):
                assert relative(part, one) < 1e-12
    assert len(plans[0].passes) == 1
    assert plans[0].passes[0].batch == 12
    assert any(len(plan.passes) > 1 for plan in plans)
    assert any(one_pass.tile < 12 for plan in plans for one_pass in plan.passes)


def test_a_matrix_larger_than_the_device_is_collected_on_the_host():
    problem = Problem(
        samples=1000,
        classes=10,
        width=8,
        rate=False,
        matrices=1,
        device=torch.device("cuda"),
        before=0,
        groups=[ParameterGroup(("weight",))],
        work=lambda groups, count: [((torch.zeros(10, count, 3),), None) for _ in groups],
    )
    assert make_plan(problem, 10**9).host
    assert make_plan(problem, 10**9).peak < 10**9
    assert not make_plan(problem, 10**10).host


@pytest.mark.parametrize("room", [2**20, 2**12])
@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("classes", [1, 10])
@pytest.mark.parametrize("samples", [1, 7, 64, 300])
def test_every_pair_of_samples_is_visited_once(samples, classes, blocked, room):
    cpu = torch.device("cpu")
    count = torch.zeros(samples, samples, dtype=torch.int64)
    for mine, others in tile_pairs(cpu, classes, samples, None, room, blocked=blocked):
        count[mine, others] += 1
        sizes = [samples.stop - samples.start for samples in (mine, others)]
        assert not blocked or classes * sizes[0] * sizes[1] <= room
    assert (count.triu() == torch.ones(samples, samples).triu()).all()
    assert int(count.sum()) <= 0.5 * samples**2 + max(40, 160 / classes) * samples
    count = torch.zeros(samples, 50, dtype=torch.int64)
    for mine, others in tile_pairs(cpu, classes, samples, 50, room, blocked=blocked):
        count[mine, others] += 1
    assert (count == 1).all()
