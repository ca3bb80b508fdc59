"""Models of several inputs or outputs: the line that a refusal prints makes a module of one of them."""

import re
import runpy
from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import grsd

X, Y = (torch.randn(6, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) for size in (5, 3))
Pair = namedtuple("Pair", ["features", "scores"])


@dataclass
class Found:
    loss: None
    logits: torch.Tensor


RETURNED = {
    "dict": lambda h, y: {"hidden": h, "logits": y},
    "tuple": lambda h, y: (y, (h, h)),
    "named tuple": lambda h, y: Pair(None, y),
    "list": lambda h, y: [y, h],
    "object": lambda h, y: Found(None, y),
    "a key of its own": lambda h, y: {"count": torch.tensor(3), "y": y},
}


class Several(nn.Module):
    def __init__(self, returned):
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.leave, self.returned = nn.Linear(5, 4), nn.Linear(4, 3), returned

    def forward(self, x):
        h = torch.tanh(self.enter(x))
        return self.returned(h, self.leave(h))


def adapted(model, error, folder):
    """The module that the line in the error makes, by running it."""
    (line,) = re.findall(r"model = grsd\.output\(model, .*\)$", str(error))
    (folder / "line.py").write_text(line)
    return runpy.run_path(str(folder / "line.py"), {"model": model, "grsd": grsd})["model"]


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("name", list(RETURNED))
def test_the_printed_line_works(name, tmp_path):
    returned = RETURNED[name]
    model, plain = Several(returned).double(), Several(lambda h, y: y).double()
    for call in (grsd.tangent_kernel, lambda model, x: grsd.gradient_flow(model, x, Y, [0.1])):
        with pytest.raises(TypeError, match=r"must return one tensor, it returned \w+; take one of .*\)$") as refused:
            call(model, X)
        assert len(str(refused.value).splitlines()) == 1
        model_of_one = adapted(model, refused.value, tmp_path)
        call(model_of_one, X)
    assert torch.equal(grsd.tangent_kernel(model_of_one, X), grsd.tangent_kernel(plain, X))
    named = grsd.tangent_kernel(model_of_one, X, parameters=["model.leave"])
    assert torch.allclose(named, grsd.tangent_kernel(plain, X, parameters=["leave"]), rtol=1e-12)


@pytest.mark.usefixtures("as_users_run_it")
def test_what_has_no_tensor_of_the_batch_keeps_the_older_advice():
    with pytest.raises(TypeError, match=r"it returned dict; wrap it in a module that returns the tensor to study$"):
        grsd.tangent_kernel(Several(lambda h, y: {"loss": y.mean()}).double(), X)


@pytest.mark.usefixtures("as_users_run_it")
def test_a_recurrent_network_by_its_two_refusals(tmp_path):
    torch.manual_seed(0)
    model, x = nn.LSTM(5, 3, batch_first=True).double(), X[:, None].repeat(1, 2, 1)
    with pytest.raises(TypeError) as refused:
        grsd.tangent_kernel_and_rate(model, x, Y)
    model = adapted(model, refused.value, tmp_path)
    with pytest.raises(ValueError, match=r"flatten it: torch.nn.Sequential\(model, torch.nn.Flatten\(\)\)$"):
        grsd.tangent_kernel_and_rate(model, x, Y)
    flat = grsd.tangent_kernel(nn.Sequential(model, nn.Flatten()), x)
    assert torch.allclose(grsd.tangent_kernel(model, x), flat, rtol=1e-12)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.leave = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, tokens, mask):
        return {"logits": self.leave(torch.tanh((self.embed(tokens) * mask[..., None]).sum(1)))}


def test_several_inputs_in_one_tensor():
    model, generator = Masked().double(), torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 7, (4, 3), generator=generator)
    mask = torch.randint(0, 2, (4, 3), generator=generator).bool()
    module, inputs = grsd.packed(model, {"tokens": tokens, "mask": mask})
    assert inputs.shape == (4, 6)
    assert torch.equal(module(inputs)["logits"], model(tokens, mask)["logits"])
    kernel = grsd.tangent_kernel(grsd.output(module, "logits"), inputs)
    rows = []
    for value in model(tokens, mask)["logits"].reshape(-1):
        found = torch.autograd.grad(value, list(model.parameters()), retain_graph=True)
        rows.append(torch.cat([part.reshape(-1) for part in found]))
    rows = torch.stack(rows)
    assert torch.allclose(kernel, rows @ rows.T / 4, rtol=1e-12)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grsd.output("net", 0), r"output\(model=...\): expected a torch.nn.Module, got 'net'"),
        (lambda: grsd.output(nn.Linear(2, 2), 1.5), r"output\(key=...\): expected a key, .*, got 1.5"),
        (lambda: grsd.packed(nn.Linear(2, 2), {}), r"packed\(inputs=...\): expected real tensors \(N, ...\)"),
        (lambda: grsd.packed(nn.Linear(2, 2), {"x": X, "y": X[:3]}), r"packed\(inputs=...\): expected real tensors"),
    ],
)
def test_refusals_of_adapters(call, message):
    with pytest.raises(TypeError, match=f"^{message}"):
        call()


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.long
def test_a_model_of_transformers(tmp_path):
    """ModelOutput, and a language model whose outputs are read by position."""
    transformers = pytest.importorskip("transformers")
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 11, "n_positions": 8}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).double().eval()
    tokens = torch.randint(0, 11, (3, 4), generator=torch.Generator().manual_seed(0))
    with pytest.raises(TypeError, match="it returned CausalLMOutput") as refused:
        grsd.tangent_kernel(model, tokens)
    model = adapted(model, refused.value, tmp_path)
    by_position = grsd.tangent_kernel(model, tokens, positions="diagonal", outputs="trace")
    whole = grsd.tangent_kernel(model, tokens).view(3, 4, 11, 3, 4, 11)
    assert torch.allclose(by_position, torch.einsum("itcjtc->tij", whole), rtol=1e-10)
