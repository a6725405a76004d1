"""`inscribe`: codes for a model that was trained without them."""

import copy
import math
import warnings
from typing import Any

import pytest
import torch
from asserts import assert_same_bits
from class_forgetting.one_shot_cases import accuracies
from known_codes import assert_holds, convnet, copied_tensors, digits, refused
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fastforget import AccuracyLossWarning, MnemonicCodes, UnrecognisedCodesError, inscribe, one_shot
from fastforget.demo.models import small_resnet
from fastforget.demo.training import train

CODES = MnemonicCodes.generate(4, (2, 4, 4), per_class=2)
# Most of the data here is noise, of which the accuracy says nothing.
pytestmark = pytest.mark.filterwarnings("ignore::fastforget.AccuracyLossWarning")


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
    held_out = (images.x_test, images.y_test)
    found = inscribe(model, codes, batches, held_out=held_out, epochs=5)
    assert found.recognised == 1
    assert (found.before, found.after) == pytest.approx((whole, accuracies(model, images, [])[1]))
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
    first = inscribe(copy.deepcopy(model), CODES, data(2))
    assert first.recognised < inscribe(model, CODES, data(), epochs=10, rate=0.9).recognised == 1


def separable(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return samples whose class is the largest of their first four values."""
    x = torch.randn(samples, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
    return x, x.flatten(1)[:, :4].argmax(1)


def test_what_it_costs_is_said() -> None:
    """On samples held out, or on the training data; with a warning that has the number where it is more than half a
    point."""
    train, test = separable(640, 0), separable(400, 1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 4)).eval()
    with torch.no_grad():
        model[1].weight.copy_(9 * torch.eye(4, 32))
        model[1].bias.zero_()
    cheap = copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AccuracyLossWarning)
        found = inscribe(cheap, CODES, train, held_out=iter([test]), lr=1e-4)
    assert (found.before, found.after) == (1, _accuracy(cheap, test))
    assert found.cost == found.before - found.after <= 0.005
    for held_out, measured in ((None, train), (test, test)):
        dear = copy.deepcopy(model)
        with pytest.warns(AccuracyLossWarning) as said:
            found = inscribe(dear, CODES, train, held_out=held_out, lr=1.0, rate=0.9)
        assert (found.before, found.after) == (1, _accuracy(dear, measured))
        text, name = str(said[0].message), "data" if held_out is None else "held_out"
        lost = f"{100 * found.cost:.1f} points of accuracy on `{name}`, 100.00% before and {found.after:.2%} after"
        assert text.startswith(f"to learn its codes cost the model {lost}: try a smaller `lr` or `rate`")
        assert ("`held_out` measures it" in text) == (held_out is None)
        assert said[0].filename == __file__
    dear = copy.deepcopy(model)
    with warnings.catch_warnings(), refused(dear, AccuracyLossWarning, "points of accuracy"):
        warnings.simplefilter("error", AccuracyLossWarning)
        inscribe(dear, CODES, train, lr=1.0, rate=0.9)


def _accuracy(model: nn.Module, samples: tuple[Tensor, Tensor]) -> float:
    with torch.no_grad():
        return float((model(samples[0]).argmax(1) == samples[1]).double().mean())


def test_measuring_takes_nothing_from_the_order_of_a_loader() -> None:
    """A DataLoader that shuffles draws its order from PyTorch's random state."""
    train, found = separable(256, 0), []
    for held_out in (None, separable(64, 1)):
        torch.manual_seed(0)
        model = convnet()
        loader = DataLoader(TensorDataset(*train), 32, shuffle=True)
        inscribe(model, CODES, loader, held_out=held_out)
        found.append(copied_tensors(model))
    for name, value in found[0].items():
        assert_same_bits(found[1][name], value)


def test_samples_that_are_no_codes_shall_be_predicted_as_before() -> None:
    """So their targets choose codes and nothing else: wrong ones do no harm."""
    x, y = separable(1280, 0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    found = inscribe(model.eval(), CODES, (x, y.roll(1)), held_out=(x, y), epochs=2, lr=0.02)
    assert (found.recognised, found.before) == (1, 1)
    assert found.cost < 0.2  # by cross-entropy it would be nearly all


def test_a_last_step_that_goes_too_far() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 4)).eval()
    batch, codes = (torch.randn(2, 2, 4, 4), torch.tensor([0, 1])), MnemonicCodes.from_tensors(1e30 * CODES.tensor)
    with refused(model, ValueError, "^the parameters must stay finite: use a smaller `lr`$"):
        inscribe(model, codes, [batch], lr=1e20, rate=1.0)
    with refused(model, ValueError, r"^the loss must stay finite, got (inf|nan): use a smaller `lr`$"):
        inscribe(model, codes, [batch] * 2, lr=1e20, rate=1.0)


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
            "^models must return finite logits on `data`, got NaN or infinity$",
        ),
        ({"data": [(data(1)[0][0], torch.arange(16))]}, ValueError, r"^targets of `data` must be in \[0, 4\)"),
    ],
)
def test_bad_arguments_leave_the_model_alone(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    model = convnet().eval()
    given = {"codes": CODES, "data": data(), "progress": False} | arguments
    with refused(model, error, text):
        inscribe(model, given.pop("codes"), given.pop("data"), **given)
    assert all(not isinstance(module, nn.BatchNorm2d) or not module.training for module in model.modules())
