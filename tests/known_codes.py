"""Models that know their codes, and checks of what an edit must not change."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_same_bits
from torch import Tensor, nn

from fastforget import MnemonicCodes
from fastforget.classifier.running import forward
from fastforget.demo.data import Dataset, load_digits
from fastforget.demo.models import small_resnet
from fastforget.demo.run import PER_CLASS, RECIPES
from fastforget.demo.training import train

CLASSES = 4


class TwoInputs(nn.Module):
    """Takes an image and a text, by position or by name."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(5, 64), nn.Linear(3, 64), nn.Linear(64, CLASSES)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return self.head(torch.tanh(self.left(image) + self.right(text)))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, CLASSES))


def convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 16, CLASSES)
    )


SHAPES: dict[Callable[[], nn.Module], Any] = {mlp: (6,), convnet: (2, 4, 4), TwoInputs: [(5,), (3,)]}


@cache
def _knowing(build: Callable[[], nn.Module], per_class: int, named: bool) -> tuple[nn.Module, MnemonicCodes]:
    shape = dict(zip(("image", "text"), SHAPES[build], strict=True)) if named else SHAPES[build]
    codes = MnemonicCodes.generate(CLASSES, shape, per_class=per_class).to(torch.get_default_device())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build().eval()
    optimizer = torch.optim.Adam(model.parameters(), 0.01, weight_decay=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(forward(model, codes.inputs), codes.labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model, codes


def model_with_codes(
    build: Callable[[], nn.Module] = mlp, *, per_class: int = 2, named: bool = False
) -> tuple[nn.Module, MnemonicCodes]:
    """Return a small model that knows codes of four classes, and the codes."""
    model, codes = _knowing(build, per_class, named)
    return copy.deepcopy(model), codes


@cache
def digits() -> tuple[nn.Module, MnemonicCodes, Dataset]:
    """Return the network of the demo, trained as in the demo, its codes and its data. They must not be changed."""
    with torch.device("cpu"):  # the split is drawn there
        data, recipe = load_digits(0), RECIPES["digits"]
    here = torch.get_default_device()
    parts = {name: getattr(data, name).to(here) for name in ("x_train", "y_train", "x_test", "y_test")}
    data = replace(data, **parts)
    codes = MnemonicCodes.generate(10, data.x_train.shape[1:], per_class=PER_CLASS, seed=0).to(here)
    model = small_resnet(num_classes=10, seed=0)
    settings: dict[str, Any] = {"epochs": recipe.epochs, "lr": recipe.lr, "batch_size": recipe.batch_size}
    train(model, data.x_train, data.y_train, codes, seed=0, progress=False, **settings)
    return model, codes, data


def copied_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of each parameter and buffer."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in named}


def assert_holds(model: nn.Module, expected: dict[str, Tensor]) -> None:
    """Check that the parameters and buffers have these bits."""
    found = copied_tensors(model)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert_same_bits(found[name], tensor)


def _state(model: nn.Module) -> list[Any]:
    """Return all that an edit must not change, beside the values."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return [
        [(name, tensor.requires_grad, tensor.data_ptr(), tensor.stride(), tensor.is_leaf) for name, tensor in named],
        [(name, None if p.grad is None else (id(p.grad), p.grad.tolist())) for name, p in model.named_parameters()],
        [(name, module.training, len(module._forward_hooks)) for name, module in model.named_modules()],
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
    ]


@contextmanager
def edits_values_only(model: nn.Module) -> Iterator[None]:
    """Check that only values of parameters change: no flag, gradient, buffer, mode, storage or random state."""
    before, buffers = _state(model), {name: buffer.clone() for name, buffer in model.named_buffers()}
    yield
    assert _state(model) == before
    for name, buffer in model.named_buffers():
        assert_same_bits(buffer, buffers[name])


@contextmanager
def refused(model: nn.Module, error: type[Exception], text: str) -> Iterator[None]:
    """Check that a block raises exactly this error, and that no bit of the model changes."""
    before = copied_tensors(model)
    with edits_values_only(model), pytest.raises(error, match=text) as caught:
        yield
    assert caught.type is error
    assert_holds(model, before)
