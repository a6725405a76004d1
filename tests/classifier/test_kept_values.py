"""Models that keep something of a parameter in eval mode: they answer with the parameters that they have."""

import copy
from typing import Any

import pytest
import torch
from asserts import assert_close, assert_same_bits
from torch import Tensor, nn

from fastforget import MnemonicCodes, audit, baselines, fisher_diagonal, learn_to_unlearn, one_shot
from fastforget.serving import LiveModel

WIDTH, TOKENS, CLASSES = 8, 5, 4


class Attention(nn.Module):
    """Biases gathered once in eval mode and kept, as in LeViT."""

    keeps = True

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.biases = nn.Parameter(torch.randn(TOKENS))
        places = (torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)[None]).abs()
        self.register_buffer("places", places, persistent=False)
        self.kept: dict[str, Tensor] = {}

    def bias(self) -> Tensor:
        if self.training or not self.keeps:
            return self.biases[self.places]
        if "cpu" not in self.kept:
            self.kept["cpu"] = self.biases[self.places]
        return self.kept["cpu"]

    def forward(self, x: Tensor) -> Tensor:
        return (self.query(x) @ x.transpose(1, 2) / WIDTH**0.5 + self.bias()).softmax(-1) @ x


class Attribute(Attention):
    """The same in an attribute that is None at first."""

    def __init__(self) -> None:
        super().__init__()
        self.bias_kept: Tensor | None = None

    def bias(self) -> Tensor:
        computed = self.biases[self.places] * 1.5  # its numbers are not the parameter's
        if not self.keeps:
            return computed
        if self.bias_kept is None:
            self.bias_kept = computed
        return self.bias_kept


def network(layer: type[Attention] = Attention, *, keeps: bool = True) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(layer(), layer(), nn.Flatten(), nn.Linear(TOKENS * WIDTH, CLASSES)).eval()
    for module in model[:2]:
        module.keeps = keeps
    return model


X, Y = torch.randn(6, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1)), torch.arange(6) % CLASSES


def predicted(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(X)
    return found


@pytest.fixture(scope="module")
def trained() -> tuple[dict[str, Tensor], MnemonicCodes]:
    codes = MnemonicCodes.generate(CLASSES, (TOKENS, WIDTH), per_class=4, seed=0)
    model = network(keeps=False)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(400):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(codes.inputs), codes.labels).backward()
        optimizer.step()
    return model.state_dict(), codes


@pytest.mark.parametrize("samples", [1, 6])
@pytest.mark.parametrize("before", ["nothing", "a prediction", "a Fisher"])
@pytest.mark.parametrize("layer", [Attention, Attribute])
def test_fisher(layer: type[Attention], before: str, samples: int) -> None:
    model = network(layer)
    expected = fisher_diagonal(network(layer, keeps=False), X[:samples], Y[:samples])
    if before == "a prediction" and layer is Attribute:
        predicted(model)
        with pytest.raises(ValueError, match=r"must use parameter `0\.biases`, but reads `bias_kept` of the same"):
            fisher_diagonal(model, X[:samples], Y[:samples])
        return
    if before == "a prediction":
        predicted(model)
    if before == "a Fisher":
        fisher_diagonal(model, X, Y)
    kept = [{**vars(module)} for module in model[:2]]
    found = fisher_diagonal(model, X[:samples], Y[:samples])
    for name, value in expected.items():
        assert_close(found[name], value)
    for module, attributes in zip(model[:2], kept, strict=True):
        assert vars(module).keys() == attributes.keys()
        assert all(vars(module)[name] is value for name, value in attributes.items())


def test_an_attribute_of_parameters_that_are_left_out() -> None:
    model = network(Attribute)
    predicted(model)
    found = fisher_diagonal(model, X, Y, parameters=["3.weight"])
    assert_close(found["3.weight"], fisher_diagonal(network(Attribute, keeps=False), X, Y)["3.weight"])


def _edited(model: nn.Module, how: str, codes: MnemonicCodes) -> None:
    batches: Any = [(codes.inputs, codes.labels)]
    forget = codes.labels == 2
    parts: Any = [[(codes.inputs[rows], codes.labels[rows])] for rows in (forget, ~forget)]
    if how == "one_shot":
        one_shot(model, codes, 2, rho=0.3)
    elif how == "learn_to_unlearn":
        learn_to_unlearn(model, *parts, steps=2)
    elif how == "LiveModel":
        live = LiveModel(model, codes)
        live(codes.inputs)
        live.forget(2, rho=0.3)
    elif how == "scrub":
        baselines.scrub(model, *parts)
    elif how == "neg_grad":
        baselines.neg_grad(model, *parts)
    elif how == "salun":
        baselines.salun(model, *parts)
    else:
        audit(model, *parts, batches, original=copy.deepcopy(model))


@pytest.mark.parametrize("how", ["one_shot", "learn_to_unlearn", "LiveModel", "scrub", "neg_grad", "salun", "audit"])
def test_edits(how: str, trained: tuple[dict[str, Tensor], MnemonicCodes]) -> None:
    """After any edit the model answers as one that keeps nothing."""
    state, codes = trained
    models = [network(), network(keeps=False)]
    for model in models:
        model.load_state_dict(state)
        predicted(model)
        _edited(model, how, codes)
    for name, value in models[0].state_dict().items():
        assert_close(value, models[1].state_dict()[name])
    fresh = network(keeps=False)
    fresh.load_state_dict(models[0].state_dict())
    assert_same_bits(predicted(models[0]), predicted(fresh))


def test_a_receipt_for_a_replica_that_has_predicted(trained: tuple[dict[str, Tensor], MnemonicCodes]) -> None:
    state, codes = trained
    source, replica = network(keeps=False), network()
    for model in (source, replica):
        model.load_state_dict(state)
    before = predicted(replica)
    receipt = one_shot(source, codes, 2, rho=0.3)
    receipt.apply(replica)
    assert_same_bits(predicted(replica), predicted(source))
    receipt.revert(replica)
    assert_same_bits(predicted(replica), before)


def test_an_attribute_that_cannot_be_emptied_is_named(trained: tuple[dict[str, Tensor], MnemonicCodes]) -> None:
    state, codes = trained
    source, replica = network(keeps=False), network()
    for model in (source, replica):
        model.load_state_dict(state)
    receipt = one_shot(source, codes, 2, rho=0.3, output_row=False)
    replica[0].query.shown = replica[0].query.weight.detach()[:2].clone()
    before = copy.deepcopy(replica.state_dict())
    with pytest.raises(ValueError, match=r"^`0\.query\.shown` holds values of a parameter that is to change"):
        receipt.apply(replica)
    for name, value in before.items():
        assert_same_bits(replica.state_dict()[name], value)


def test_what_is_no_parameter_s_stays() -> None:
    """A table of constants, a list of the user's, a module's own state."""
    model = network()
    nn.init.ones_(model[3].bias)
    model[3].table = {"scale": torch.tensor(1.0), "two": torch.tensor([0.0, -1.0])}
    model.seen = [torch.ones(2)]
    model.register_forward_hook(lambda m, _, out: out * m[3].table["scale"])
    fisher_diagonal(model, X, Y)
    assert set(model[3].table) == {"scale", "two"}
    assert len(model.seen) == 1


class Constant(nn.Module):
    """A parameter that nothing uses, beside a tensor that is no buffer; what may change that differs by ``kind``."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.layer, self.unused = kind, nn.Linear(TOKENS * WIDTH, CLASSES), nn.Parameter(torch.randn(3))
        self.scale = torch.linspace(0.5, 1.5, TOKENS * WIDTH)
        if kind == "written to":
            self.scale[0] = 2
        if kind == "hook":
            self.register_forward_pre_hook(lambda *_: None)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1) * self.scale)


class Assigned(Constant):
    def recompute(self) -> None:
        self.scale = self.unused.detach().repeat(14)[: TOKENS * WIDTH]


class AssignedByName(Constant):
    def recompute(self) -> None:
        setattr(self, "sca" + "le", self.unused.detach().repeat(14)[: TOKENS * WIDTH])


class AssignedOutside(nn.Module):
    """What another module assigns."""

    def __init__(self, child: Constant) -> None:
        super().__init__()
        self.child = child

    def forward(self, x: Tensor) -> Tensor:
        if self.child.kind == "never":
            self.child.scale = self.child.unused.detach()
        return self.child(x)


@pytest.mark.parametrize("samples", [1, 6])
def test_a_constant_beside_an_unused_parameter(samples: int) -> None:
    found = fisher_diagonal(Constant("plain").eval(), X[:samples], Y[:samples])
    assert not found["unused"].any()
    assert found["layer.weight"].any()


NO_CONSTANTS = {
    "written to": lambda: Constant("written to"),
    "a hook": lambda: Constant("hook"),
    "assigned": lambda: Assigned("plain"),
    "assigned by name": lambda: AssignedByName("plain"),
    "assigned by another module": lambda: AssignedOutside(Constant("plain")),
}


@pytest.mark.parametrize("kind", NO_CONSTANTS)
def test_what_may_change_is_no_constant(kind: str) -> None:
    with pytest.raises(ValueError, match=r"must use parameter `(child\.)?unused`, but reads `scale` of the same"):
        fisher_diagonal(NO_CONSTANTS[kind]().eval(), X, Y)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_keep_their_parameters(kind: type[nn.Module]) -> None:
    """In the list that they run with, in which PyTorch's `functional_call` leaves the tensors that it was given."""
    model = nn.Sequential(kind(WIDTH, 6, batch_first=True))
    before = [id(weight) for weight in model[0]._flat_weights]
    fisher_diagonal(model, X, Y, loss=lambda outputs, _: outputs[0].square().sum((1, 2)))
    assert [id(weight) for weight in model[0]._flat_weights] == before
    model(X)[0].sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
