import pytest
import torch

from grsd.networks import LAYERS, Perceptron


@pytest.mark.parametrize("activation", LAYERS)
def test_forms_differ_in_the_skip_only(activation):
    plain = Perceptron(5, 3, width=8, depth=4, activation=activation, seed=3)
    skip = Perceptron(5, 3, width=8, depth=4, activation=activation, seed=3, residual=True)
    for (name, p), (other, q) in zip(plain.named_parameters(), skip.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(p, q)
    x = torch.randn(6, 5)
    assert plain(x).shape == (6, 3)
    assert not torch.allclose(plain(x), skip(x))


def test_residual_forward_by_hand():
    net = Perceptron(5, 2, width=4, depth=3, residual=True, branch_scale=0.3)
    x = torch.randn(6, 5)
    h = torch.tanh(net.hidden[0](x))
    for layer in net.hidden[1:]:
        h = h + 0.3 * torch.tanh(layer(h))
    assert torch.allclose(net(x), net.readout(h))


def test_initial_scale_and_seed():
    net = Perceptron(400, 10, width=300, depth=3, weight_scale=1.5, seed=1)
    assert net.hidden[0].weight.std().item() == pytest.approx(1.5 / 20, rel=0.02)
    assert net.hidden[2].weight.std().item() == pytest.approx(1.5 / 300**0.5, rel=0.02)
    assert net.readout.weight.std().item() == pytest.approx(1 / 300**0.5, rel=0.05)
    torch.manual_seed(99)
    same = Perceptron(400, 10, width=300, depth=3, weight_scale=1.5, seed=1)
    assert torch.equal(net.hidden[1].weight, same.hidden[1].weight)
    other = Perceptron(400, 10, width=300, depth=3, weight_scale=1.5, seed=2)
    assert not torch.equal(net.hidden[1].weight, other.hidden[1].weight)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, r"Perceptron\(depth=...\): expected a whole number of at least 1, got 0"),
        ({"width": 2.5}, r"Perceptron\(width=...\): expected a whole number of at least 1, got 2.5"),
        ({"activation": "sine"}, r"Perceptron\(activation=...\): expected one of .*'tanh'.*got 'sine'"),
        ({"weight_scale": -1.0}, r"Perceptron\(weight_scale=...\): expected a positive finite number, got -1.0"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Perceptron(5, 3, **{"width": 8, "depth": 2} | arguments)
