"""What an audit says of conditions and of the loss to come: known answers, and what breaks them."""

import math

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import grsd
from grsd.auditing.answers import _gains
from grsd.auditing.choices import INTERVENED, plan
from grsd.auditing.cuts import cuts
from grsd.auditing.followed import Followed
from grsd.auditing.forecasts import FARTHEST, WIDEST, forecast
from grsd.auditing.question import question
from grsd.conditions import propagation

TIMES = np.geomspace(0.1, 10.0, 14)
LAWS = {
    "power law": lambda t: t**-0.8,
    "power law that bends": lambda t: np.exp(-0.6 * np.log1p(t) - 0.05 * np.log1p(t) ** 2),
    "power law with an offset": lambda t: 0.3 * t**-0.7 + 0.05,
}


def runs(law, count=8, spread=0.05, seed=0):
    """Runs of one loss curve that differ by a factor."""
    rng = np.random.default_rng(seed)
    factors = np.exp(spread * rng.standard_normal(count))
    data = [{"loss_after": ("step", f * law(TIMES)), "time_after": ("step", TIMES)} for f in factors]
    return [Followed(number, found={"between": xr.Dataset(own)}) for number, own in enumerate(data)]


@pytest.mark.parametrize("name", LAWS)
def test_a_further_run_lies_in_the_interval(name):
    """In at least nine of ten draws, as far as the forecast goes; never wider than a factor of three."""
    law, inside, reach = LAWS[name], [], []
    for seed in range(20):
        found = forecast(runs(law, seed=seed), squared=False)
        ends = [np.log(values) for values in (found.low, found.high)]
        assert (ends[1] - ends[0] <= 2 * WIDEST + 1e-2).all()
        further = 0.05 * np.random.default_rng(1000 + seed).standard_normal() + np.log(law(np.array(found.times)))
        inside.append(((ends[0] <= further) & (further <= ends[1])).mean())
        reach.append(math.log(found.times[-1] / found.times[0]))
    assert np.mean(inside) >= 0.9
    assert max(reach) <= FARTHEST + 1e-9
    if name == "power law":
        assert min(reach) == pytest.approx(FARTHEST)
        assert found.error.value < 1e-6, "the same factor at all times"


@pytest.mark.parametrize("law", [lambda t: np.exp(-t), lambda t: 1 / (1 + (t / 4) ** 6)], ids=["exponential", "step"])
def test_a_loss_that_follows_no_power_law_has_no_forecast(law):
    line = r"^the loss does not follow the power law of the last e-fold of time in the seen part: tried on the last "
    with pytest.raises(ValueError, match=line) as caught:
        forecast(runs(law), squared=False)
    assert "\n" not in str(caught.value)


def deep(layers, width=6):
    """A plain network of so many layers, each followed by an activation."""
    parts = [nn.Linear(width, width) if k % 2 == 0 else nn.Tanh() for k in range(2 * layers)]
    return nn.Sequential(*parts, nn.Linear(width, 1))


def test_a_network_cut_after_its_first_nodes_is_that_network_at_a_depth():
    torch.manual_seed(0)
    model, inputs = deep(5), torch.randn(4, 6)
    names = propagation.nodes(model, inputs)
    found = propagation.measure(model, inputs, node=names, parameters={"seed": 0})
    parts = cuts(found)
    assert [part.attrs["depth"] for part in parts] == list(range(2, len(names) + 1))
    for part in parts[:-1]:
        depth = part.attrs["depth"]
        own = propagation.measure(model, inputs, node=names[:depth])
        for name in ("growth", "decay", "worst", "norm_growth", "lyapunov"):
            assert float(part[name]) == pytest.approx(float(own[name]), abs=1e-12)
    for name in ("growth", "decay", "worst", "norm_growth", "lyapunov"):
        assert float(parts[-1][name]) == pytest.approx(float(found[name]), abs=1e-12)


def growing(factor, layers, seed):
    """A linear network whose gradients grow by ``factor`` per layer."""
    torch.manual_seed(seed)
    model = nn.Sequential(*(nn.Linear(6, 6, bias=False) for _ in range(layers)), nn.Linear(6, 1))
    with torch.no_grad():
        for part in model[:-1]:
            part.weight.copy_(factor * torch.linalg.qr(torch.randn(6, 6))[0])
    return propagation.measure(model, torch.randn(3, 6), node=r"\d", parameters={"seed": seed})


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "holds"), (1.5, "fails"), (0.7, "holds")])
def test_gradients_of_a_deep_network_are_judged(factor, verdict):
    """Rotations keep gradients, a factor above one makes them grow; their decay is not refused."""
    answer = _gains([growing(factor, 6, seed) for seed in range(4)])
    assert answer.verdict == verdict
    assert answer.why.startswith("cut after 2 to 7 of its nodes (0, 1, 2, 3, 4, 5, ...): ")
    assert answer.number.runs == 4


@pytest.mark.parametrize(
    ("layers", "seeds", "said"),
    [
        (2, 4, "there are 3 nodes (0, 1, 2), and cutting the network at 3 depths takes 4"),
        (6, 3, "there are 3 seeds, and a"),
    ],
)
def test_gradients_of_few_layers_or_seeds_are_not_judged_but_told_how(layers, seeds, said):
    answer = _gains([growing(1.5, layers, seed) for seed in range(seeds)])
    assert answer.verdict == "not judged"
    assert said in answer.why
    assert "grsd.conditions.judge_models('propagation', make, inputs, targets, depths=[4, 8, 16])" in answer.why


def asked(width, **changed):
    """The plan for perceptrons on 64 samples with ten outputs."""
    inputs, targets = torch.randn(64, 32), torch.randn(64, 10)

    def make():
        return nn.Sequential(nn.Linear(32, width), nn.ReLU(), nn.Linear(width, 10))

    given = dict.fromkeys(("checkpoints", "key", "samples", "device", "name"))
    given |= {
        "inputs": inputs,
        "targets": targets,
        "seeds": 8,
        "loss": "mse",
        "budget": 2.0,
        "fall": 3.0,
        "shell_width": 0.7,
        "conditions": True,
    }
    return plan(question(make, **given | {"method": "auto"} | changed))


@pytest.mark.parametrize(
    ("inputs", "line"),
    [
        (
            {"x": torch.zeros(64, 32)},
            "a dict of x; take grsd.packed(make(0), inputs)[1] for inputs, and for the model ",
        ),
        (
            {"x": torch.zeros(9, 4), "edges": torch.zeros(2, 12)},
            "a dict of x, edges; one tensor (N, ...) of N samples: ",
        ),
        ([[0.0]], "a list; one tensor (N, ...) of N samples: pad sequences to one length, graphs to dense adjacency "),
        (np.zeros((64, 32)), "ndarray of shape (64, 32) and float64; use torch.as_tensor(inputs)"),
    ],
)
def test_inputs_that_are_no_tensor_are_told_how_to_become_one(inputs, line):
    with pytest.raises(TypeError) as caught:
        asked(8, inputs=inputs)
    assert str(caught.value).startswith(f"audit(inputs=...): expected a torch.Tensor, got {line}")


def test_closure_is_measured_by_default_and_a_larger_budget_is_named_where_it_is_not():
    planned = asked(64)
    assert planned.interventions
    assert planned.samples >= 16
    (said,) = [choice for choice in planned.choices if choice.what == "closure"]
    assert said.chosen == f"energies are changed by hand in at most {INTERVENED} shells, wider than the others"
    poor = asked(256, budget=0.1)
    assert not poor.interventions
    (said,) = [choice for choice in poor.choices if choice.what == "closure"]
    room = float(said.why.split("a budget of ")[1].split()[0])
    assert asked(256, budget=room).interventions, "the budget that it names has room"
    assert not asked(256, budget=0.8 * room).interventions, "and is the least"


@pytest.mark.long
def test_closure_of_an_audit_is_an_answer():
    """Of a network that is trained here: R^2 with its interval, or why there is none."""
    data = grsd.digits(24, task="parity")
    found = grsd.audit(
        lambda: nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 1)),
        data.inputs, data.targets, seeds=8, samples=24, fall=1.0, progress=False,
    )  # fmt: skip
    (answer,) = [one for one in found.document["conditions"] if one["condition"] == "interventions"]
    assert answer["verdict"] in ("holds", "fails", "inconclusive")
    assert answer["number"]["low"] <= answer["number"]["value"] <= answer["number"]["high"] <= 1
