"""A class leaves the features: on samples that the dispersal never saw, and at no cost to the others."""

import copy
from collections.abc import Callable
from functools import cache

import pytest
import torch
from asserts import assert_same_bits
from known_codes import TwoInputs, edits_values_only, refused
from torch import Tensor, nn

from fastforget.class_forgetting.dispersal import Dispersal, disperse
from fastforget.classifier.inputs import Inputs
from fastforget.classifier.output_layer import OutputLayer, find_output_layer
from fastforget.classifier.running import forward
from fastforget.errors import ForgettingError

CLASSES, SIZE = 6, 12


def points(per_class: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return noisy samples of six classes."""
    means = 1.5 * torch.randn(CLASSES, SIZE, generator=torch.Generator().manual_seed(9))
    y = torch.arange(CLASSES).repeat(per_class)
    return means[y] + torch.randn(len(y), SIZE, generator=torch.Generator().manual_seed(seed)), y


GIVEN, UNSEEN = points(16, 1), points(100, 2)


class Tokens(nn.Module):
    """Takes integer tokens: the class is the commonest group of two."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inside, self.head = nn.Embedding(2 * CLASSES, 24), nn.Linear(24, 24), nn.Linear(24, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inside(self.table(tokens).mean(1))))


def layered() -> nn.Module:
    return nn.Sequential(
        nn.Linear(SIZE, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(32, 24),
        nn.ReLU(),
        nn.Linear(24, 6),
    )


def fit(model: nn.Module, inputs: Inputs, targets: Tensor) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(forward(model, inputs), targets).backward()
        optimizer.step()
    model.zero_grad()
    return model.eval()


@cache
def _trained() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return fit(layered(), *points(100, 3))


def trained() -> nn.Module:
    return copy.deepcopy(_trained())


def run(
    model: nn.Module, classes: list[int], inputs: Inputs = GIVEN[0], targets: Tensor = GIVEN[1], **settings: int
) -> Dispersal:
    return disperse(
        model, dict(model.named_parameters()), layer_of(model, inputs), inputs, targets, classes, **settings
    )


def layer_of(model: nn.Module, inputs: Inputs) -> OutputLayer:
    layer = find_output_layer(model, inputs)
    assert layer is not None
    return layer


def moved(model: nn.Module, found: Dispersal) -> nn.Module:
    other = copy.deepcopy(model)
    other.load_state_dict({**other.state_dict(), **found.parameters})
    return other


def recognised(model: nn.Module, classes: list[int]) -> float:
    """Return the share of unseen samples of classes whose nearest class mean, of the samples given, is their own."""
    layer = layer_of(model, GIVEN[0])
    means = torch.stack([layer.features(model, GIVEN[0][GIVEN[1] == cls]).mean(0) for cls in range(CLASSES)])
    on = torch.isin(UNSEEN[1], torch.tensor(classes))
    nearest = torch.cdist(layer.features(model, UNSEEN[0][on]), means).argmin(1)
    return float((nearest == UNSEEN[1][on]).double().mean())


def accuracy(model: nn.Module, classes: list[int]) -> float:
    """Return the accuracy on all other classes where these are no answer."""
    keep = ~torch.isin(UNSEEN[1], torch.tensor(classes))
    with torch.no_grad():
        logits = model(UNSEEN[0][keep]).index_fill(1, torch.tensor(classes), -torch.inf)
    return float((logits.argmax(1) == UNSEEN[1][keep]).double().mean())


@pytest.mark.parametrize("classes", [[2], [0, 4], [1, 2, 3]])
def test_unseen_samples_of_the_classes_are_no_longer_recognised(classes: list[int]) -> None:
    model = trained()
    found = run(model, classes)
    after = moved(model, found)
    assert recognised(model, classes) > 0.95
    assert recognised(after, classes) < 0.8
    assert accuracy(after, classes) > accuracy(model, classes) - 0.02


def test_evidence_is_what_the_samples_given_show() -> None:
    model = trained()
    found = run(model, [2])
    after, evidence = moved(model, found), found.evidence
    layer, kept = layer_of(model, GIVEN[0]), GIVEN[1] != 2
    old, new = (layer.features(m, GIVEN[0][kept]).double() for m in (model, after))
    spread = old.var(0, correction=0).sum()
    assert evidence["remaining_moved"] == pytest.approx(float(((new - old).square().sum(1).mean() / spread).sqrt()))
    with torch.no_grad():
        then, now = (m(GIVEN[0][kept]).double()[:, [0, 1, 3, 4, 5]].log_softmax(1) for m in (model, after))
    divergence = (then.exp() * (then - now)).sum(1).mean()
    assert evidence["remaining_divergence"] == pytest.approx(float(divergence), rel=1e-3)
    for m, key in ((model, "own_mean_before"), (after, "own_mean_after")):
        h = layer.features(m, GIVEN[0]).double()
        right = []
        for n in (GIVEN[1] == 2).nonzero()[:, 0].tolist():
            rest = torch.arange(len(h)) != n
            means = torch.stack([h[rest & (GIVEN[1] == cls)].mean(0) for cls in range(CLASSES)])
            right.append(int((means - h[n]).norm(dim=1).argmin()) == 2)
        assert evidence[key] == sum(right) / len(right)
    assert evidence["own_mean_after"] < evidence["own_mean_before"]
    assert evidence["distance_after"] < 0.5 * evidence["distance_before"]


def test_the_model_its_output_layer_and_the_random_state_stay() -> None:
    model = trained()
    with edits_values_only(model):
        found = run(model, [1])
    before = dict(_trained().named_parameters())
    for name, parameter in model.named_parameters():
        assert_same_bits(parameter, before[name])
        assert torch.equal(found.parameters[name], parameter) == name.startswith("6."), name


def test_only_named_parameters_move_from_the_values_given() -> None:
    model = trained()
    values = {"4.weight": model.get_parameter("4.weight").detach() * 1.01}
    found = disperse(model, values, layer_of(model, GIVEN[0]), *GIVEN, [3])
    assert list(found.parameters) == ["4.weight"]
    still = disperse(model, values, layer_of(model, GIVEN[0]), *GIVEN, [3], proximity=1e9)
    torch.testing.assert_close(still.parameters["4.weight"], values["4.weight"], rtol=1e-3, atol=1e-4)


def test_bits_are_the_same_twice() -> None:
    first, again = (run(trained(), [5]) for _ in range(2))
    for name, value in first.parameters.items():
        assert_same_bits(again.parameters[name], value)


def test_a_hook_that_starts_a_graph_changes_nothing() -> None:
    """That of transformers for gradient checkpointing is such a one."""
    model = trained()
    model.get_submodule("0").register_forward_hook(lambda *call: call[-1].requires_grad_())
    expected = run(trained(), [3]).parameters
    for name, value in run(model, [3]).parameters.items():
        assert_same_bits(value, expected[name])


def test_batches_change_rounding_alone() -> None:
    model = trained().double()
    inputs = GIVEN[0].double()
    whole, parts = (run(model, [5], inputs, batch_size=size, iterations=5) for size in (None, 7))
    for name, value in whole.parameters.items():
        torch.testing.assert_close(parts.parameters[name], value, rtol=1e-6, atol=1e-9)


def test_numbers_of_samples_may_differ() -> None:
    number = torch.tensor([3, 40, 1, 5, 2, 9])
    x, y = points(40, 4)
    chosen = torch.cat([(y == cls).nonzero()[: number[cls], 0] for cls in range(CLASSES)])
    for classes in ([1], [2], [1, 5]):  # class 1 alone has more samples than all others
        found = run(trained(), classes, x[chosen], y[chosen])
        assert found.evidence["distance_after"] < 0.7 * found.evidence["distance_before"]


def _two_inputs() -> tuple[nn.Module, Inputs, Tensor]:
    inputs = {"image": GIVEN[0][:, :5], "text": GIVEN[0][:, 5:8]}
    return TwoInputs(), inputs, GIVEN[1] % 4


def _tokens() -> tuple[nn.Module, Inputs, Tensor]:
    generator = torch.Generator().manual_seed(6)
    own = torch.rand(len(GIVEN[1]), 8, generator=generator) < 0.7
    other = torch.randint(2 * CLASSES, own.shape, generator=generator)
    return Tokens(), torch.where(own, 2 * GIVEN[1][:, None] + other % 2, other), GIVEN[1]


@pytest.mark.parametrize("case", [_two_inputs, _tokens])
def test_dicts_and_tokens(case: Callable[[], tuple[nn.Module, Inputs, Tensor]]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model, inputs, targets = case()
        fit(model, inputs, targets)
    found = run(model, [3], inputs, targets)
    assert found.evidence["own_mean_after"] < found.evidence["own_mean_before"] - 0.3


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    model = trained().to(dtype)
    found = run(model, [3], GIVEN[0].to(dtype))
    assert {value.dtype for value in found.parameters.values()} == {dtype}
    assert found.evidence["own_mean_after"] < found.evidence["own_mean_before"] - 0.2


def test_bad_samples_are_refused() -> None:
    model = trained()
    x, y = GIVEN
    with refused(model, ValueError, r"^`samples` must hold samples of class 3, which is to be forgotten, got none$"):
        run(model, [2, 3], x[y != 3], y[y != 3])
    with refused(model, ValueError, r"^`samples` must hold samples of at least two remaining classes, got 1$"):
        run(model, [0, 1, 2, 3, 4])
    with refused(model, ValueError, r"^`parameters` must name more than the output layer .* got nothing else$"):
        output = {name: model.get_parameter(name) for name in ("6.weight", "6.bias")}
        disperse(model, output, layer_of(model, x), x, y, [2])
    with refused(model, ForgettingError, r"^the features could not be dispersed: the loss went from nan to nan; .*$"):
        holed = x.index_fill(0, torch.tensor([7]), torch.nan)
        disperse(model, dict(model.named_parameters()), layer_of(model, x), holed, y, [2])
