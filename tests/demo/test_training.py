"""The demo's network has the size it claims, and training follows its arguments."""

import pytest
import torch
from torch import Tensor, nn

from fastforget.codes.mnemonic_codes import MnemonicCodes
from fastforget.demo.models import small_resnet
from fastforget.demo.results import class_accuracies, split_accuracy
from fastforget.demo.training import confusion, train

CODES = MnemonicCodes.generate(3, (4,), per_class=1, seed=1)


def blobs(count: int = 300) -> tuple[Tensor, Tensor]:
    """Return samples of three well separated classes."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(count) % 3
    return torch.randn(count, 4, generator=generator) + 6 * nn.functional.one_hot(y, 4), y


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))


def trained(seed: int = 0, rate: float = 0.3, exclude: tuple[int, ...] = ()) -> nn.Module:
    model = linear()
    x, y = blobs()
    train(model, x, y, CODES, epochs=8, lr=0.1, batch_size=25, seed=seed, rate=rate, exclude=exclude, progress=False)
    return model


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize(("width", "parameters"), [(8, 19810), (16, 77754)])
def test_resnet_size_and_shapes(width: int, parameters: int) -> None:
    model = small_resnet(width=width, num_classes=10)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    for size in (4, 8, 9, 28):
        assert model(torch.rand(2, 1, size, size)).shape == (2, 10)


def test_resnet_follows_its_seed_and_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    same, again, other = (weights(small_resnet(seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(same, again)
    assert not torch.equal(same, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_learns_the_data_and_the_codes() -> None:
    model = trained()
    assert not model.training
    assert split_accuracy(confusion(model, *blobs(), 3), 0) == pytest.approx((1, 1), abs=0.02)
    assert model(CODES.inputs).argmax(1).tolist() == [0, 1, 2]


def test_an_excluded_class_is_never_shown_neither_samples_nor_codes() -> None:
    assert class_accuracies(confusion(trained(exclude=(1,)), *blobs(), 3))[1] == 0
    assert trained(rate=1.0, exclude=(1,))(CODES.inputs).argmax(1).tolist() != [0, 1, 2]


def test_training_is_deterministic_by_seed() -> None:
    assert torch.equal(weights(trained(seed=5)), weights(trained(seed=5)))
    assert not torch.equal(weights(trained(seed=5)), weights(trained(seed=6)))


def test_too_few_samples_for_a_batch() -> None:
    model = linear()
    before = weights(model)
    x, y = blobs(9)
    with pytest.raises(ValueError, match=r"`batch_size` must be at most the number of samples \(6\), got 7"):
        train(model, x, y, CODES, epochs=1, lr=0.1, batch_size=7, seed=0, exclude=[0])
    assert torch.equal(weights(model), before)


def test_confusion_counts_every_sample_once() -> None:
    x = torch.eye(3)[[0, 0, 1, 2, 2]]
    matrix = confusion(nn.Identity(), x, torch.tensor([0, 1, 1, 2, 0]), 3, batch_size=2)
    assert matrix.tolist() == [[1, 0, 1], [1, 1, 0], [0, 0, 1]]


def test_accuracies_of_a_known_matrix() -> None:
    matrix = torch.tensor([[3, 1, 0], [0, 2, 2], [1, 0, 9]])
    assert class_accuracies(matrix) == pytest.approx([0.75, 0.5, 0.9])
    assert split_accuracy(matrix, 1) == pytest.approx((0.5, 12 / 14))
