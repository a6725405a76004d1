"""The layer that produces the logits is found by what it does, and its features are gradients of the logits."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_close
from cases import randn
from known_codes import edits_values_only
from torch import Tensor, nn

from fastforget import fisher_diagonal
from fastforget.classifier.output_layer import OutputLayer, find_output_layer, look_for_output_layer
from fastforget.classifier.running import run_isolated

C, D, N = 4, 6, 5


class Model(nn.Module):
    """Computes logits from x by a function of its parts."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def _rows() -> nn.Parameter:
    return nn.Parameter(torch.randn(C, D))


def _bias() -> nn.Parameter:
    return nn.Parameter(torch.randn(C))


def _table() -> nn.Module:
    return nn.Linear(D, D)


def _twice(head: nn.Module) -> nn.Module:
    return Model(lambda m, x: m.again(x), head=head, again=head)


VECTORS, IMAGES, TOKENS = randn(N, D, seed=1), randn(N, D, 3, 3, seed=1), randn(N, 7, D, seed=1)
LENGTHS = torch.tensor([6, 0, 3, 2, 5])
Found = tuple[str, str | None, float]
FOUND: dict[str, tuple[Callable[[], nn.Module], Tensor, Found]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, C)), VECTORS, ("2.weight", "2.bias", 1)),
    "without bias": (lambda: nn.Sequential(_table(), nn.Linear(D, C, bias=False)), VECTORS, ("1.weight", None, 1)),
    "one layer": (lambda: nn.Linear(D, C), VECTORS, ("weight", "bias", 1)),
    "convolution before pooling": (
        lambda: nn.Sequential(nn.Conv2d(D, C, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        IMAGES,
        ("0.weight", "0.bias", 1),
    ),
    "convolution after pooling": (
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(D, C, 1), nn.Flatten()),
        IMAGES,
        ("1.weight", "1.bias", 1),
    ),
    "sum over positions": (
        lambda: Model(lambda m, x: m.head(x).sum(1), head=nn.Linear(D, C)),
        TOKENS,
        ("head.weight", "head.bias", 7),
    ),
    "matmul": (
        lambda: Model(lambda m, x: torch.tanh(x) @ m.rows.T, rows=_rows()),
        VECTORS,
        ("rows", None, 1),
    ),
    "F.linear": (
        lambda: Model(lambda m, x: F.linear(m.body(x), m.rows, m.shift), rows=_rows(), shift=_bias(), body=_table()),
        VECTORS,
        ("rows", "shift", 1),
    ),
    "bias added later": (
        lambda: Model(lambda m, x: torch.mm(x, m.rows.t()) + m.shift, shift=_bias(), rows=_rows()),
        VECTORS,
        ("rows", "shift", 1),
    ),
    "a module of two names": (
        lambda: _twice(nn.Linear(D, C)),
        VECTORS,
        ("head.weight", "head.bias", 1),
    ),
    "temperature": (
        lambda: Model(lambda m, x: m.head(x) / 2.5, head=nn.Linear(D, C)),
        VECTORS,
        ("head.weight", "head.bias", 0.4),
    ),
    "one token of many": (
        lambda: Model(
            lambda m, x: m.head(m.body(x))[torch.arange(len(x)), LENGTHS[: len(x)]],
            body=_table(),
            head=nn.Linear(D, C),
        ),
        TOKENS,
        ("head.weight", "head.bias", 1),
    ),
    "features divided by their length": (
        lambda: Model(lambda m, x: m.head(F.normalize(x)), head=nn.Linear(D, C)),
        VECTORS,
        ("head.weight", "head.bias", 1),
    ),
    "hidden layers of as many rows": (
        lambda: nn.Sequential(nn.Linear(D, C), nn.Tanh(), nn.LayerNorm(C), nn.Linear(C, C), nn.Tanh(), nn.Linear(C, C)),
        VECTORS,
        ("5.weight", "5.bias", 1),
    ),
}  # fmt: skip


def _build(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


@pytest.mark.parametrize("name", FOUND)
def test_it_is_found_and_its_features_are_gradients(name: str) -> None:
    make, inputs, (weight, bias, scale) = FOUND[name]
    model = _build(make).double()
    inputs = inputs.double()
    layer = find_output_layer(model, inputs)
    assert layer is not None
    assert (layer.weight, layer.bias) == (weight, bias)
    assert layer.scale == pytest.approx(scale, rel=1e-12)
    features, logits = layer.examine(model, inputs)
    named = dict(model.named_parameters())
    for n in range(N):
        for c in range(C):
            (gradient,) = torch.autograd.grad(model(inputs)[n, c], named[weight])
            expected = torch.zeros(C, D if name != "hidden layers of as many rows" else C).double()
            expected[c] = features[n]
            assert_close(gradient.flatten(1), expected, 1e-12)
    rest = logits - features @ named[weight].detach().flatten(1).T
    if bias is not None:
        rest = rest - scale * named[bias].detach()
    assert rest.std(0).max() < 1e-12
    assert_close(logits, model(inputs).detach(), 1e-14)


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_in_other_types(name: str, dtype: torch.dtype) -> None:
    make, inputs, (weight, bias, scale) = FOUND[name]
    layer = find_output_layer(_build(make).to(dtype), inputs.to(dtype))
    assert layer is not None
    assert (layer.weight, layer.bias) == (weight, bias)
    assert layer.scale == pytest.approx(scale, rel=4 * torch.finfo(dtype).eps)


def _tied(run: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    model = Model(run, first=nn.Linear(C, C), second=nn.Linear(C, C))
    model.second.weight = model.first.weight
    return model


TIED = r"the weights that produce the logits, {}, serve elsewhere too \(tied weights\)"
NONE = "no parameter with a row for each class produces the logits by a product with features"
REFUSED: dict[str, tuple[Callable[[], nn.Module], Tensor, str]] = {
    "two names": (
        lambda: _tied(lambda m, x: m.second(torch.tanh(m.first(x)))),
        VECTORS[:, :C],
        TIED.format("`first.weight` and `second.weight`"),
    ),
    "one name, two products": (
        lambda: Model(lambda m, x: torch.tanh(x @ m.rows.T) @ m.rows.T, rows=nn.Parameter(torch.randn(C, C))),
        VECTORS[:, :C],
        TIED.format("`rows`"),
    ),
    "the table of an embedding": (
        lambda: Model(lambda m, x: torch.tanh(m.words(x).mean(1)) @ m.words.weight.T, words=nn.Embedding(C, D)),
        torch.arange(2 * N).view(N, 2) % C,
        TIED.format("`words.weight`"),
    ),
    "cosines": (
        lambda: Model(lambda m, x: F.normalize(x) @ F.normalize(m.rows).T, rows=_rows()),
        VECTORS,
        NONE,
    ),
    "log_softmax": (lambda: nn.Sequential(nn.Linear(D, C), nn.LogSoftmax(1)), VECTORS, NONE),
    "logits against their mean": (
        lambda: Model(lambda m, x: m.head(x) - m.head(x).mean(1, keepdim=True), head=nn.Linear(D, C)),
        VECTORS,
        NONE,
    ),
    "a bounded head": (lambda: nn.Sequential(nn.Linear(D, C), nn.Tanh()), VECTORS, NONE),
    "a rectified head": (lambda: nn.Sequential(nn.Linear(D, C), nn.ReLU()), VECTORS, NONE),
    "a scale for each class": (
        lambda: Model(lambda m, x: m.head(x) * m.scale, head=nn.Linear(D, C), scale=nn.Parameter(torch.rand(C) + 0.5)),
        VECTORS,
        NONE,
    ),
    "several values for each class": (
        lambda: Model(lambda m, x: m.head(x), head=nn.Linear(D, C)),
        TOKENS,
        r"the model returns 3 dimensions, not logits \[N, C\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_none_and_why(name: str, dtype: torch.dtype) -> None:
    make, inputs, reason = REFUSED[name]
    model = _build(make).to(dtype)
    inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
    found = look_for_output_layer(model, inputs)
    assert isinstance(found, str)
    assert re.fullmatch(reason, found), found
    assert find_output_layer(model, inputs) is None


class Restless(nn.Module):
    """Draws random numbers and counts its calls, also in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.norm = nn.Linear(D, C), nn.BatchNorm1d(D)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.get_buffer("calls").add_(1)
        return self.head(self.norm(x) + 0.1 * torch.randn_like(x))


def _find(model: nn.Module) -> tuple[OutputLayer | None, Tensor]:
    layer = find_output_layer(model, VECTORS)
    assert layer is not None
    return layer, layer.features(model, VECTORS)


def test_the_model_is_left_as_it_was() -> None:
    model = _build(Restless)
    model.get_parameter("head.weight").requires_grad_(False)
    model.get_parameter("norm.weight").grad = torch.ones(D)
    with edits_values_only(model):
        layer, _ = _find(model)
    assert layer == OutputLayer("head.weight", "head.bias", 1.0)
    model.train()
    with edits_values_only(model):
        assert _find(model)[0] == layer


def test_a_module_of_two_names_keeps_its_parameters() -> None:
    """They are there once: what a run puts in their place under the one name must not stay under the other."""
    model = _build(FOUND["a module of two names"][0])
    named = dict(model.named_parameters(remove_duplicate=False))
    _find(model)
    fisher_diagonal(model, VECTORS, torch.zeros(N, dtype=torch.int64))
    run_isolated(model, VECTORS, {name: torch.zeros_like(value) for name, value in named.items()})
    found = dict(model.named_parameters(remove_duplicate=False))
    assert found.keys() == named.keys()
    assert all(found[name] is value for name, value in named.items())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode], ids=lambda c: c.__name__)
def test_where_gradients_are_switched_off(context: Any) -> None:
    model = _build(FOUND["linear"][0])
    layer, features = _find(model)
    with context():
        other, found = _find(model)
    assert other == layer
    assert torch.equal(found, features)


def test_values_in_place_of_parameters_and_small_batches() -> None:
    model = _build(FOUND["linear"][0])
    layer = find_output_layer(model, VECTORS)
    assert layer is not None
    moved = {"0.weight": 2 * model.get_parameter("0.weight").detach()}
    features, logits = layer.examine(model, VECTORS, moved, batch_size=2)
    with torch.no_grad():
        expected = torch.relu(F.linear(VECTORS, moved["0.weight"], model.get_parameter("0.bias")))
        assert_close(features, expected)
        assert_close(logits, model[2](expected))  # type: ignore[index]


def test_features_as_a_function_of_the_parameters() -> None:
    model = _build(FOUND["temperature"][0])
    layer = find_output_layer(model, VECTORS)
    assert layer is not None
    body = nn.Linear(D, D)
    x = body(VECTORS)
    features, logits = layer.run(model, x)
    assert_close(features.detach(), x.detach() / 2.5)
    features.sum().backward()
    assert_close(body.bias.grad, torch.full((D,), N / 2.5))  # type: ignore[arg-type]
    assert_close(logits.detach(), model(x).detach())
