"""Every form of samples becomes the same batches; what could be read in two ways, or in none, is named."""

from collections import UserDict
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from fastforget.classifier.data_forms import BATCH_SIZE, Batches, batches_of
from fastforget.classifier.labelled_batches import RepeatableBatches, sized_batches

N = 150
X, Y = torch.arange(2.0 * N).view(N, 2), torch.arange(N) // 40  # in the order of the classes
MASK = torch.ones(N, dtype=torch.int64)


class BatchEncoding(UserDict[str, Any]):
    """Like that of transformers: a mapping that is no dict."""


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


class Samples(Dataset[Any]):
    """Samples of a map-style data set, pairs or dicts."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> Any:
        if self.kind == "pairs":
            return X[row], int(Y[row])
        return {"x": X[row], "mask": MASK[row], self.kind: Y[row]}


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(X, Y)])


def joined(batches: Batches) -> list[Tensor]:
    """Return all inputs, one beside the other, and all targets."""
    parts = []
    for inputs, targets in batches:
        leaves = list(inputs.values()) if isinstance(inputs, dict) else [inputs]
        assert isinstance(inputs, (Tensor, dict))
        parts.append((leaves[0], targets))
    return [torch.cat(part) for part in zip(*parts, strict=True)]


FORMS: dict[str, Any] = {
    "batches": [(X[:100], Y[:100]), (X[100:], Y[100:])],
    "tuple of two batches": ((X[:100], Y[:100]), [X[100:], Y[100:]]),
    "loader": DataLoader(TensorDataset(X, Y), 40),
    "dict batches": [{"x": X[:100], "labels": Y[:100]}, {"x": X[100:], "labels": Y[100:]}],
    "BatchEncodings": [BatchEncoding(x=X[rows], mask=MASK[rows], label=Y[rows]) for rows in torch.arange(N).split(50)],
    "loader of dicts": DataLoader(Samples("labels"), 40),
    "pair": (X, Y),
    "list of both": [X, Y],
    "named pair": Pair(X, Y),
    "pair with a dict": ({"x": X, "mask": MASK}, Y),
    "pair with a BatchEncoding": (BatchEncoding(x=X, mask=MASK), Y),
    "mapping": BatchEncoding(x=X, mask=MASK, labels=Y),
    "data set": TensorDataset(X, Y),
    "data set of pairs": Samples("pairs"),
    "data set of dicts": Samples("labels"),
    "data set with label": Samples("label"),
    "stream of batches": Stream(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_samples_in_order_again_and_again(form: str) -> None:
    batches = batches_of(FORMS[form], "remain")
    for _ in range(2):
        x, y = joined(batches)
        assert torch.equal(x, X)
        assert torch.equal(y, Y)
    for inputs, _ in batches:
        assert not isinstance(inputs, dict) or list(inputs) in (["x"], ["x", "mask"])
    if form != "stream of batches":
        assert len(batches) == len(list(batches))  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["pair", "pair with a dict", "mapping", "data set", "data set of dicts"])
def test_a_whole_data_set_is_shuffled_for_training_only(form: str) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    joined(sized_batches(FORMS[form], "remain"))
    assert torch.equal(torch.get_rng_state(), state)
    training = RepeatableBatches(FORMS[form], "remain")
    orders = [joined(training) for _ in range(2)]
    assert not torch.equal(orders[0][1], orders[1][1])
    for x, y in orders:
        rows = x[:, 0].argsort()
        assert torch.equal(x[rows], X)
        assert torch.equal(y[rows], Y)
    torch.manual_seed(0)
    assert torch.equal(joined(training)[1], orders[0][1])


def test_batches_keep_their_order_in_training() -> None:
    state = torch.get_rng_state()
    assert torch.equal(joined(RepeatableBatches(FORMS["batches"], "remain"))[0], X)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("count", [1, 2, BATCH_SIZE - 1, BATCH_SIZE, BATCH_SIZE + 1, 2 * BATCH_SIZE + 1])
def test_no_batch_is_much_smaller_than_others(count: int) -> None:
    sizes = [len(y) for _, y in batches_of((X[:1].expand(count, 2), Y[:1].expand(count)), "remain")]
    assert sum(sizes) == count
    assert max(sizes) <= BATCH_SIZE
    assert max(sizes) - min(sizes) <= 1


class Endless(Dataset[Any]):
    """A map-style data set that does not say how many samples it has."""

    def __getitem__(self, row: int) -> Any:
        return X[row], Y[row]


INT = r"torch\.int64"


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (X, TypeError, r"^`remain` must be batches .*, got torch\.float32 \(150, 2\)$"),
        (3, TypeError, "^`remain` must be batches .*, got int$"),
        (None, TypeError, "^`remain` must be batches .*, got NoneType$"),
        ("xy", TypeError, "^`remain` must be batches .*, got str$"),
        (Endless(), TypeError, "^`remain` must be a data set with a length, got Endless$"),
        ((X, Y.float()), TypeError, rf"^targets of `remain` must be {INT} \[N\], got torch\.float32 \(150,\)$"),
        ((X, X), TypeError, rf"^targets of `remain` must be {INT} \[N\], got torch\.float32 \(150, 2\)$"),
        ((X, [1.0, 2.0, 0.0]), TypeError, rf"^targets of `remain` must be {INT} \[N\], got a list of 3, of float$"),
        ((X, (X, Y)), TypeError, rf"^targets of `remain` must be {INT} \[N\], got a tuple of 2$"),
        ((np.zeros((150, 2)), Y), TypeError, "^`inputs` must be a tensor, tuple or dict, got ndarray$"),
        ((X, Y[:9]), ValueError, r"^`targets` must have the batch size \(150,\) first, got shape \(9,\)$"),
        ((X[:0], Y[:0]), ValueError, "^`inputs` must not be empty"),
        (([X, X], [Y, Y]), TypeError, "^`remain` must be batches .*, got two lists: join"),
        ({"x": X}, ValueError, r"^mappings in `remain` must have either `labels` or `label`, got \['x'\]$"),
        ([{"x": X, "label": Y, "labels": Y}], ValueError, "^mappings in `remain` must have either"),
        ([Samples("labels")[0]], TypeError, rf"^`labels` of `remain` must be .* {INT} \[N\], got {INT} \(\); a Data"),
        ([{"x": [1, 2], "label": 1}], TypeError, "^`label` of `remain` must be .*, got int; a DataLoader makes"),
        ([(X, MASK, Y)], TypeError, "^`remain` must hold batches .*, got a tuple of 3$"),
        ([X, X, X], TypeError, r"^`remain` must hold batches .*, got torch\.float32 \(150, 2\)$"),
        (TensorDataset(X[:0], Y[:0]), ValueError, "^`remain` must hold at least one batch, got none$"),
    ],
)
def test_what_is_refused(data: Any, error: type[Exception], text: str) -> None:
    for go_through in (sized_batches, RepeatableBatches):
        with pytest.raises(error, match=text):
            list(go_through(data, "remain"))
