import torch
from torch.func import functional_call, jacrev

from grsd.tangents import Network, linear_factors, linear_uses


def network(model):
    return Network(model, torch.float64, torch.device("cpu"))


def test_factors_give_the_jacobian(case):
    """sum_t delta a^T is the dense Jacobian of the parameters each factor names."""
    model, inputs, _ = case
    net = network(model)
    outputs = net.outputs(inputs)
    samples, classes = inputs.shape[0], outputs.numel() // inputs.shape[0]
    dense = jacrev(lambda p: functional_call(model, p, (inputs,)).reshape(samples, classes))(net.parameters)
    seen = dict.fromkeys(net.parameters, 0)
    for factor in linear_factors(net, inputs):
        jacobian = torch.einsum("cntq,ntp->ncqp", factor.backprops, factor.features)
        for name in factor.names:
            found = jacobian[..., -1] if name.endswith("bias") else jacobian[..., : dense[name].shape[-1]]
            assert torch.allclose(found, dense[name], atol=1e-13)
            seen[name] += 1
    assert set(seen.values()) == {1}


def test_uses_are_seen_and_missed_parameters_named():
    class Mixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.gain = torch.nn.Linear(5, 3), torch.nn.Parameter(torch.ones(3))

        def forward(self, x):
            return self.gain * self.layer(x)

    uses, shapes, missed = linear_uses(network(Mixed()), torch.randn(6, 5, dtype=torch.float64))
    assert [(use.weight, use.bias) for use in uses] == [("layer.weight", "layer.bias")]
    assert [tuple(shape) for shape in shapes] == [(6, 3)]
    assert missed == {"gain"}


def test_the_module_is_never_written_to(case):
    model, inputs, targets = case
    before = {name: value.clone() for name, value in model.state_dict().items()}
    net = network(model)
    net.pullback_and_rate(inputs, torch.ones_like(targets), net.pullback(inputs, targets))
    for tensor in net.parameters.values():
        tensor.add_(1.0)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
