"""A bad `batch_size`, or a failure in a micro-batch, leaves the model alone."""

from typing import Any

import pytest
from class_forgetting.kept_fisher_cases import Fragile, keep
from class_forgetting.micro_batch_cases import request
from known_codes import CLASSES, mlp, model_with_codes, refused
from torch import Tensor, nn

from fastforget import MnemonicCodes, UnrecognisedCodesError, one_shot


@pytest.mark.parametrize(
    ("batch_size", "error", "text"),
    [
        ("8", TypeError, r"^`batch_size` must be an int or None, got str$"),
        (8.0, TypeError, r"^`batch_size` must be an int or None, got float$"),
        (True, TypeError, r"^`batch_size` must be an int or None, got bool$"),
        (0, ValueError, r"^`batch_size` must be at least 1, got 0$"),
        (-3, ValueError, r"^`batch_size` must be at least 1, got -3$"),
    ],
)
def test_what_it_must_not_be(batch_size: Any, error: type[Exception], text: str) -> None:
    model, codes = model_with_codes()
    model.register_forward_pre_hook(lambda *_: pytest.fail("the model was run"))
    with refused(model, error, text):
        one_shot(model, codes, 1, batch_size=batch_size)


class Pooled(nn.Module):
    """One row of logits, or one number, for any number of samples."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.inside, self.dims = mlp(), dims

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x).mean(self.dims)


@pytest.mark.parametrize(("dims", "shape"), [((0,), r"\(4,\)"), ((0, 1), r"\(\)")])
def test_outputs_that_do_not_fit(dims: tuple[int, ...], shape: str) -> None:
    model, codes = Pooled(dims).eval(), model_with_codes()[1]
    with refused(model, ValueError, rf"^`mnemonic_codes` must have one class per output .* outputs of shape {shape}$"):
        one_shot(model, codes, 1, batch_size=3)


def test_codes_that_do_not_fit_the_model() -> None:
    model, codes = model_with_codes()
    other = MnemonicCodes.generate(CLASSES, (7,), per_class=2)
    text = r"^`mnemonic_codes` must be what the model's forward takes, got samples of shape \(7,\)"
    with refused(model, ValueError, text):
        one_shot(model, other, 1, batch_size=3)
    with refused(model, ValueError, text):
        one_shot(model, other, 1, fisher=keep(model, codes), batch_size=1)
    samples = other.inputs, other.labels, 0.5
    with refused(model, ValueError, r"^`floor` must be what the model's forward takes, got samples of shape \(7,\)"):
        one_shot(model, codes, 1, floor=samples, batch_size=3)


def test_codes_that_the_model_does_not_know() -> None:
    model, _ = model_with_codes()
    strangers = MnemonicCodes.generate(CLASSES, (6,), per_class=2, seed=99)
    with refused(model, UnrecognisedCodesError, "`mnemonic_codes` must be known to the model, but it recognises"):
        one_shot(model, strangers, 1, batch_size=3)


@pytest.mark.parametrize("name", ["natural", "several classes", "paper", "kept, updated"])
def test_a_failure_at_any_forward_leaves_the_model_alone(name: str) -> None:
    inside, codes = model_with_codes()
    model = Fragile(inside).eval()
    settings = request(name, model, codes) | {"batch_size": 3}
    model.calls = 0
    one_shot(model, codes, **settings).revert(model)
    calls, settings = model.calls, request(name, model, codes) | {"batch_size": 3}
    for failing in range(1, calls + 1):
        model.calls, model.failing = 0, failing
        with refused(model, OSError, "in the middle"):
            one_shot(model, codes, **settings)
    assert calls > 3
