"""fisher_diagonal on whole models, against the float64 batch-1 loop."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_close, assert_fisher, prepared
from cases import randn
from fisher.small_modules import Prototypes
from models import LABELS, MODELS, Bert, TransformerClassifier, TwoInputs, loss, mlp
from torch import Tensor, nn

from fastforget.fisher.compute import fisher_diagonal


@pytest.mark.parametrize("name", MODELS)
def test_model(name: str) -> None:
    build, inputs = MODELS[name]
    assert_fisher(build, inputs, LABELS, loss=loss, zero={"key.bias"})


@pytest.mark.parametrize("name", ["mlp", "resnet", "vit", "bert"])
@pytest.mark.parametrize("groups", [None, 3])
def test_sample_weights(name: str, groups: int | None) -> None:
    build, inputs = MODELS[name]
    weights = torch.tensor([[1.0, 0, 2, 0.5, 0], [0, 3, 0, 0, 0], [1, 1, 1, 1, 1]])
    weights = weights[0] if groups is None else weights
    found = assert_fisher(build, inputs, LABELS, loss=loss, weights=weights, zero={"key.bias"})
    for path, parameter in build().named_parameters():
        assert found[path].shape == (*(() if groups is None else (3,)), *parameter.shape)


def test_integer_and_bool_weights() -> None:
    build, inputs = MODELS["mlp"]
    expected = fisher_diagonal(prepared(build), inputs, LABELS, weights=torch.tensor([1.0, 0, 1, 1, 0]))
    for weights in (torch.tensor([1, 0, 1, 1, 0]), torch.tensor([True, False, True, True, False])):
        found = fisher_diagonal(prepared(build), inputs, LABELS, weights=weights)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_transformer_with_a_padding_mask() -> None:
    class Masked(TransformerClassifier):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
            return self.head(self.encoder(x, src_key_padding_mask=mask)[:, 0])

    x = MODELS["transformer"][1]
    mask = torch.arange(6)[None] >= torch.tensor([6, 5, 4, 3, 2])[:, None]
    assert_fisher(lambda: Masked(batch_first=True, norm_first=False), (x, mask), LABELS, loss=loss)


def test_tied_weights_are_one_parameter() -> None:
    build, inputs = MODELS["bert"]
    found = fisher_diagonal(prepared(build), inputs, LABELS, loss=loss)
    assert "words.weight" in found
    assert "decoder.weight" not in found


def test_results_are_not_on_a_graph() -> None:
    build, inputs = MODELS["bert"]
    found = fisher_diagonal(prepared(build), inputs, LABELS, loss=loss, with_gradient=True)
    assert found.gradient is not None
    assert not any(value.requires_grad for value in (*found.values(), *found.gradient.values(), found.losses))


@pytest.mark.parametrize("where", ["model", "loss"])
def test_a_backward_of_the_model_or_the_loss_itself(where: str) -> None:
    """Gradients that they take for their own purposes are not those of the losses."""

    class Logging(nn.Sequential):
        def forward(self, x: Tensor) -> Any:  # type: ignore[override]
            hidden = self[0](x)
            outputs = self[2](self[1](hidden))
            if where == "model":
                torch.autograd.grad(outputs.sum(), hidden, retain_graph=True)
            return hidden, outputs

    def logging_loss(outputs: Any, targets: Tensor) -> Tensor:
        if where == "loss" and outputs[0].requires_grad:
            torch.autograd.grad(outputs[1].sum(), outputs[0], retain_graph=True)
        return F.cross_entropy(outputs[1], targets, reduction="none")

    def built(container: type[nn.Sequential]) -> nn.Module:
        return prepared(lambda: container(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4)))

    x = randn(len(LABELS), 5, seed=1)
    found = fisher_diagonal(built(Logging), x, LABELS, loss=logging_loss)
    expected = fisher_diagonal(built(nn.Sequential), x, LABELS)
    assert not found.fallback
    for name, value in expected.items():
        assert_close(found[name], value)


def test_hugging_face_style_outputs() -> None:
    class Output(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp()

        def forward(self, x: Tensor) -> Any:
            return SimpleNamespace(logits=self.body(x))

    x = MODELS["mlp"][1]
    found = fisher_diagonal(prepared(Output), x, LABELS)
    expected = fisher_diagonal(prepared(mlp), x, LABELS)
    for name, value in expected.items():
        assert torch.equal(found[f"body.{name}"], value)


def test_targets_of_any_structure() -> None:
    build, inputs = MODELS["mlp"]
    soft = torch.nn.functional.one_hot(LABELS, 4).float()
    found = fisher_diagonal(
        prepared(build), inputs, {"soft": soft}, loss=lambda o, t: -(t["soft"] * o.log_softmax(1)).sum(1)
    )
    expected = fisher_diagonal(prepared(build), inputs, LABELS)
    for name, value in expected.items():
        assert_close(found[name], value)


def test_compiled_model_is_the_model_behind_it() -> None:
    build, inputs = MODELS["mlp"]
    model = prepared(build)
    found = fisher_diagonal(torch.compile(model, backend="eager"), inputs, LABELS)
    expected = fisher_diagonal(model, inputs, LABELS)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_deep_copy_and_data_parallel_give_the_same() -> None:
    build, inputs = MODELS["resnet"]
    model = prepared(build)
    expected = fisher_diagonal(model, inputs, LABELS)
    for name, value in fisher_diagonal(copy.deepcopy(model), inputs, LABELS).items():
        assert torch.equal(value, expected[name])


@pytest.mark.parametrize("name", ["mlp", "resnet", "vit", "bert", "transformer"])
def test_some_parameters(name: str) -> None:
    """Only the named ones, without falling back because the others are not watched; frozen ones too."""
    build, inputs = MODELS[name]
    model = prepared(build)
    expected = fisher_diagonal(model, inputs, LABELS, loss=loss)
    names = list(expected)
    for frozen in (False, True):
        model.requires_grad_(not frozen)
        for wanted in (names[:1], names[-1:], names[1::3]):
            found = fisher_diagonal(model, inputs, LABELS, loss=loss, parameters=iter(wanted))
            assert list(found) == wanted
            assert set(found.fallback) <= set(expected.fallback)
            for path in wanted:
                assert_close(found[path], expected[path], name=path)


def test_some_parameters_with_a_fallback() -> None:
    model = prepared(lambda: nn.Sequential(nn.Linear(9, 6), Prototypes(6, 5), nn.Linear(5, 4)))
    x = MODELS["mlp"][1]
    expected = fisher_diagonal(model, x, LABELS)
    assert set(expected.fallback) == {"1.points"}
    found = fisher_diagonal(model, x, LABELS, parameters=["1.points", "0.bias"])
    assert list(found) == ["1.points", "0.bias"]
    for name, value in found.items():
        assert_close(value, expected[name])


def test_large_fast_path_modules_do_not_escape() -> None:
    """In eval mode nn.TransformerEncoder has a fused path that no function mode could look into."""
    model = prepared(lambda: TransformerClassifier(batch_first=True, norm_first=False))
    with torch.no_grad():
        found = fisher_diagonal(model, MODELS["transformer"][1], LABELS, parameters=["head.weight"])
    assert found.fallback == {}


def test_plain_arguments_pass_through() -> None:
    x, numbers, _ = MODELS["tuple"][1]
    a = fisher_diagonal(prepared(TwoInputs), (x, numbers), LABELS)
    b = fisher_diagonal(prepared(TwoInputs), [x, numbers, 1], LABELS)
    c = fisher_diagonal(prepared(TwoInputs), {"image": x, "numbers": numbers, "power": 1}, LABELS)
    assert all(torch.equal(a[name], b[name]) and torch.equal(a[name], c[name]) for name in a)


def test_optional_tensor_arguments() -> None:
    inputs = MODELS["bert"][1]
    more = {**inputs, "token_type_ids": torch.zeros_like(inputs["input_ids"])}
    a = fisher_diagonal(prepared(Bert), inputs, LABELS, loss=loss)
    b = fisher_diagonal(prepared(Bert), more, LABELS, loss=loss)
    assert all(torch.equal(a[name], b[name]) for name in a)
