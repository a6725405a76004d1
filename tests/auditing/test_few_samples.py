"""A few samples of each class are the first ones, whatever the inputs are."""

import torch
from asserts import assert_same_bits

from fastforget.auditing.few_samples import first_of_each, samples_of


def test_the_first_of_each_class_in_one_batch() -> None:
    x, y = torch.arange(12.0)[:, None], torch.tensor([0, 1, 0, 0, 2, 1, 1, 0, 2, 2, 2, 1])
    ((inputs, targets),) = first_of_each(zip(x.split(5), y.split(5), strict=True), 2)
    assert inputs.squeeze(1).tolist() == [0, 1, 2, 4, 5, 8]
    assert targets.tolist() == [0, 1, 0, 2, 1, 2]


def test_structures_and_lengths_stay() -> None:
    """Texts of other lengths, and other plain values, are batches of their own."""
    batches = [
        ({"text": torch.ones(2, length), "scale": scale}, torch.tensor([0, 1]))
        for length, scale in ((3, 1.0), (5, 1.0), (3, 2.0), (3, 1.0))
    ]
    found = first_of_each(batches, 10)
    assert [(len(targets), inputs["text"].shape[1], inputs["scale"]) for inputs, targets in found] == [
        (4, 3, 1.0),
        (2, 5, 1.0),
        (2, 3, 2.0),
    ]


def test_samples_of_some_classes() -> None:
    x, y = torch.arange(6.0), torch.tensor([0, 1, 2, 0, 0, 0])
    found = samples_of(list(zip(x.split(3), y.split(3), strict=True)), [1, 2])
    assert len(found) == 1
    assert_same_bits(found[0][0], torch.tensor([1.0, 2.0]))
