"""Batches of samples with their classes: what a pass yields, and what it refuses in which words."""

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from fastforget.classifier.labelled_batches import (
    RepeatableBatches,
    check_classes,
    check_logits,
    labelled_batches,
    sized_batches,
)

X, Y = torch.arange(12.0).view(6, 2), torch.arange(6) % 3
GOOD = [(X[:4], Y[:4]), ({"x": X[4:], "scale": 2.0}, Y[4:])]


@pytest.mark.parametrize("go_through", [sized_batches, labelled_batches])
def test_a_pass_yields_the_batches_themselves(go_through: Any) -> None:
    for expected, batch in zip(GOOD, go_through(iter(GOOD), "remain"), strict=True):
        assert batch[0] is expected[0]
        assert batch[1] is expected[1]


@pytest.mark.parametrize("go_through", [sized_batches, labelled_batches])
@pytest.mark.parametrize(
    ("bad", "error", "text"),
    [
        ((X, Y[:3]), ValueError, r"^`targets` must have the batch size \(6,\) first, got shape \(3,\)$"),
        ((X[:0], Y[:0]), ValueError, r"^`inputs` must not be empty, got shape \(0, 2\)$"),
        (("x", Y), TypeError, "^`inputs` must be a tensor, tuple or dict, got str$"),
    ],
)
def test_what_both_refuse(go_through: Any, bad: Any, error: type[Exception], text: str) -> None:
    """Where it stands, after the batches before it."""
    batches = go_through([*GOOD, bad], "remain")
    assert [len(next(batches)[1]) for _ in GOOD] == [4, 2]
    with pytest.raises(error, match=text):
        next(batches)


@pytest.mark.parametrize("go_through", [sized_batches, labelled_batches, RepeatableBatches])
@pytest.mark.parametrize("none", [[], iter(())])
def test_no_batch(go_through: Any, none: Any) -> None:
    with pytest.raises(ValueError, match=r"^`remain` must hold at least one batch, got none$"):
        list(go_through(none, "remain"))


@pytest.mark.parametrize(
    ("targets", "kind"),
    [
        (Y.float(), r"torch.float32 \(6,\)"),
        (Y.int(), r"torch.int32 \(6,\)"),
        (Y[:, None], r"torch.int64 \(6, 1\)"),
        (Y.double().tolist(), "a list of 6, of float"),
        (3, "int"),
    ],
)
def test_targets_that_are_no_classes(targets: Any, kind: str) -> None:
    assert len(list(sized_batches([(X, targets)], "remain"))) == 1
    with pytest.raises(TypeError, match=rf"^targets of `remain` must be torch\.int64 \[N\], got {kind}$"):
        list(labelled_batches([(X, targets)], "remain"))


def test_what_comes_once_is_kept_and_what_does_not_is_not() -> None:
    once, loader = RepeatableBatches(iter(GOOD), "remain"), DataLoader(TensorDataset(X, Y), 4, shuffle=True)
    assert len(once) == 2
    assert [len(y) for _ in range(2) for _, y in once] == [4, 2, 4, 2]
    torch.manual_seed(0)
    orders = {tuple(torch.cat([x[:, 0] for x, _ in RepeatableBatches(loader, "remain")]).tolist()) for _ in range(9)}
    assert len(orders) > 1


def test_an_order_is_drawn_when_a_pass_starts() -> None:
    """Not when its first batch is asked for: others may draw in between."""

    class Loader:
        started = 0

        def __len__(self) -> int:
            return len(GOOD)

        def __iter__(self) -> Any:
            self.started += 1
            return iter(GOOD)

    for go_through in (sized_batches, labelled_batches):
        loader = Loader()
        go_through(loader, "remain")  # type: ignore[arg-type]
        assert loader.started == 1
    assert iter(RepeatableBatches(loader, "remain"))  # type: ignore[arg-type]
    assert loader.started == 2


def test_logits_and_classes() -> None:
    assert check_logits(torch.zeros(6, 3), "remain") == 3
    check_classes(Y, 3, "remain")
    with pytest.raises(ValueError, match=r"^models must return logits \[N, C\], got shape \(6, 3, 1\)$"):
        check_logits(torch.zeros(6, 3, 1), "remain")
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"^models must return finite logits on `remain`, got NaN or infinity$"):
            check_logits(torch.tensor([[0.0, bad]]), "remain")
    for shift, values in ((1, "1 to 3"), (-1, "-1 to 1")):
        with pytest.raises(ValueError, match=rf"^targets of `remain` must be in \[0, 3\), got values from {values}$"):
            check_classes(Y + shift, 3, "remain")
