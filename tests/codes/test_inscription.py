"""`inscribe`: codes for a model that was trained without them."""

import copy
import math
from typing import Any

import pytest
import torch
from class_forgetting.one_shot_cases import accuracies
from known_codes import assert_holds, convnet, copied_tensors, digits, refused
from torch import Tensor, nn

from fastforget import MnemonicCodes, UnrecognisedCodesError, inscribe, one_shot
from fastforget.demo.models import small_resnet
from fastforget.demo.training import train

CODES = MnemonicCodes.generate(4, (2, 4, 4), per_class=2)


def data(batches: int = 30, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(16, 2, 4, 4, generator=generator), torch.randint(4, (16,), generator=generator))
        for _ in range(batches)
    ]


def test_a_network_that_never_saw_codes_learns_them_and_forgets() -> None:
    _, codes, images = digits()
    model = small_resnet(num_classes=10, seed=1)
    train(model, images.x_train, images.y_train, codes, epochs=5, lr=0.1, batch_size=64, seed=0, rate=0.0)
    whole = accuracies(model, images, [])[1]
    with pytest.raises(UnrecognisedCodesError):
        one_shot(model, codes, 3)
    batches = list(zip(images.x_train.split(64), images.y_train.split(64), strict=True))
    assert inscribe(model, codes, batches, epochs=5, progress=False) == 1
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert accuracies(model, images, [])[1] >= whole - 0.01
    one_shot(model, codes, 3)
    forget, remain = accuracies(model, images, [3])
    assert forget == 0
    assert remain >= whole - 0.02


def test_same_seed_same_bits_and_modes_come_back() -> None:
    model = convnet()
    model[1].eval()
    model[0].train()
    other = copy.deepcopy(model)
    modes = [module.training for module in model.modules()]
    for one in (model, other):
        inscribe(one, CODES, iter(data()), progress=False)  # an iterator has no length
    assert_holds(model, copied_tensors(other))
    assert [module.training for module in model.modules()] == modes
    third = convnet()
    inscribe(third, CODES, data(), seed=1, progress=False)
    assert not torch.equal(next(third.parameters()), next(model.parameters()))


def test_more_training_teaches_more() -> None:
    torch.manual_seed(0)
    model = convnet()
    first = inscribe(copy.deepcopy(model), CODES, data(2), progress=False)
    assert first < inscribe(model, CODES, data(), epochs=10, rate=0.9, progress=False) == 1


def test_a_last_step_that_goes_too_far() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 4)).eval()
    batch = (torch.full((2, 2, 4, 4), 1e30), torch.tensor([0, 1]))
    with refused(model, ValueError, "^the parameters must stay finite: use a smaller `lr`$"):
        inscribe(model, CODES, [batch], lr=1e20, rate=1e-9, progress=False)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"data": []}, ValueError, "^`data` must hold at least one batch, got none$"),
        ({"data": iter([])}, ValueError, "^`data` must hold at least one batch, got none$"),
        ({"codes": CODES.tensor}, TypeError, "^`codes` must be MnemonicCodes, got Tensor$"),
        ({"epochs": 0}, ValueError, "^`epochs` must be at least 1, got 0$"),
        ({"epochs": 1.0}, TypeError, "^`epochs` must be an integer, got float$"),
        ({"rate": 0}, ValueError, r"^`rate` must lie in \(0, 1\], got 0$"),
        ({"rate": 1.1}, ValueError, r"^`rate` must lie in \(0, 1\], got 1.1$"),
        ({"lr": -1}, ValueError, r"^`lr` must lie in \(0, inf\), got -1$"),
        ({"lr": math.inf}, ValueError, r"^`lr` must lie in \(0, inf\), got inf$"),
        ({"lr": "1"}, TypeError, "^`lr` must be a number, got str$"),
        (
            {"data": [(torch.full((2, 2, 4, 4), math.nan), torch.zeros(2).long())]},
            ValueError,
            "^the loss must stay finite, got nan: use a smaller `lr`$",
        ),
        ({"data": [(torch.randn(3, 2, 4, 4), torch.tensor([0, 1, 4]))]}, ValueError, r"^`targets` must be in \[0, 4\)"),
    ],
)
def test_bad_arguments_leave_the_model_alone(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    model = convnet().eval()
    given = {"codes": CODES, "data": data(), "progress": False} | arguments
    with refused(model, error, text):
        inscribe(model, given.pop("codes"), given.pop("data"), **given)
    assert all(not isinstance(module, nn.BatchNorm2d) or not module.training for module in model.modules())
