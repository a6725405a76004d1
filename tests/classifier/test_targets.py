"""Classes in lists and arrays: taken wherever a tensor of them is."""

import copy
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from asserts import assert_same_bits
from cases import randn
from torch import Tensor, nn

import fastforget
from fastforget.classifier.labelled_batches import joined
from fastforget.classifier.targets import as_classes, kind_of

N, CLASSES = 24, 4
Y = torch.arange(N) % CLASSES
X = randn(N, 6, seed=1) + 3 * torch.eye(CLASSES, 6)[Y]

FORMS: dict[str, Callable[[Tensor], Any]] = {
    "a list": Tensor.tolist,
    "a tuple": lambda y: tuple(y.tolist()),
    "an array": lambda y: y.numpy(),
    "a narrow array": lambda y: y.numpy().astype(np.int16),
    "an unsigned array": lambda y: y.numpy().astype(np.uint32),
    "an array backwards in memory": lambda y: y.flip(0).numpy()[::-1],
    "numbers of NumPy": lambda y: list(y.numpy()),
    "tensors": list,
}
NO_CLASSES: dict[str, Callable[[Tensor], Any]] = {
    "fractions": lambda y: y.double().tolist(),
    "truth values": lambda y: (y > 0).tolist(),
    "words": lambda y: [str(value) for value in y.tolist()],
    "an array of fractions": lambda y: y.double().numpy(),
    "a table": lambda y: np.stack([y.numpy()] * 2, 1),
    "narrow tensor": Tensor.int,
}


@cache
def trained() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
    return model.eval()


def network() -> nn.Module:
    return copy.deepcopy(trained())


CALLS: dict[str, Callable[[Any], Any]] = {
    "fisher_diagonal": lambda y: fastforget.fisher_diagonal(network(), X, y)["0.weight"],
    "samples": lambda y: edited(lambda m: fastforget.one_shot(m, None, 3, samples=(X, y))),
    "floor": lambda y: edited(lambda m: fastforget.one_shot(m, None, 3, samples=(X, Y), floor=(X, y, 0.0))),
    "learn_to_unlearn": lambda y: edited(lambda m: fastforget.learn_to_unlearn(m, (X, y), [(X, y), (X, y)], steps=1)),
    "embed": lambda y: fastforget.MnemonicCodes.generate(CLASSES, (6,)).embed(
        X, y, generator=torch.Generator().manual_seed(3)
    ),
    "a mapping": lambda y: joined({"x": X, "labels": y}, "data")[1],
    "batches": lambda y: joined([(X, y), (X, y)], "data")[1],
}


def edited(edit: Callable[[nn.Module], object]) -> Tensor:
    model = network()
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what fell short of its goal
        edit(model)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("call", CALLS)
def test_the_same_as_of_a_tensor(call: str, form: str) -> None:
    assert_same_bits(CALLS[call](FORMS[form](Y)), CALLS[call](Y))


@pytest.mark.parametrize("form", NO_CLASSES)
@pytest.mark.parametrize("call", CALLS.keys() - {"floor", "batches"})
def test_others_are_refused_by_what_they_are(call: str, form: str) -> None:
    given = NO_CLASSES[form](Y)
    if call == "a mapping" and isinstance(given, Tensor):
        pytest.skip("what takes the batches refuses it")
    with pytest.raises(TypeError, match=r"torch\.int64.*, got ") as caught:
        CALLS[call](given)
    assert kind_of(given) in str(caught.value)


def test_two_classes_are_no_batch() -> None:
    """A pair of two inputs and of two classes, which has the form of two batches."""
    inputs, targets = joined(((X[:2], X[:2]), [0, 1]), "data")
    assert isinstance(inputs, tuple)
    assert targets.tolist() == [0, 1]


def test_the_number_of_classes() -> None:
    with pytest.raises(ValueError, match=r"`targets` must have the batch size \(24,\) first, got shape \(23,\)"):
        fastforget.fisher_diagonal(network(), X, Y.tolist()[1:])


def test_what_a_loss_of_ones_own_takes_is_left_alone() -> None:
    seen: list[Any] = []

    def loss(outputs: Tensor, targets: Any) -> Tensor:
        seen.append(targets)
        return outputs.square().sum(1)

    fastforget.fisher_diagonal(network(), X, Y.tolist(), loss=loss)
    assert seen == [Y.tolist()] * len(seen)


def test_descriptions() -> None:
    assert kind_of([1, "a"]) == "a list of 2, of int and str"
    assert kind_of(np.zeros((2, 3))) == "ndarray float64 (2, 3)"
    assert as_classes(copy.copy([])) == []
