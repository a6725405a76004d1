"""`one_shot` refuses bad input by type and text, and not a bit of the model changes."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from known_codes import CLASSES, TwoInputs, convnet, digits, knowing, mlp, refused
from torch import Tensor, nn

from fastforget import ForgettingError, MnemonicCodes, UnrecognisedCodesError, one_shot
from fastforget.demo.models import small_resnet
from fastforget.demo.training import train

# Codes that the model does not know


def test_a_model_trained_without_codes() -> None:
    _, codes, data = digits()
    model = small_resnet(num_classes=10, seed=1)
    train(model, data.x_train, data.y_train, codes, epochs=2, lr=0.1, batch_size=64, seed=0, rate=0.0, progress=False)
    text = (
        r"^`mnemonic_codes` must be known to the model, but it recognises \d+% of them.*\. Train or fine-tune it with "
        r"the codes \(codes\.embed\), pass a few real images per class as codes \(MnemonicCodes\.from_tensors\), or "
        r"name the classes forgotten earlier \(forgotten=\)$"
    )
    with refused(model, UnrecognisedCodesError, text):
        one_shot(model, codes, 3)
    images = torch.stack([data.x_train[data.y_train == cls][:2] for cls in range(10)])
    assert one_shot(model, images, 3, rho=0.1).changed > 0  # the second remedy


def test_other_codes_than_those_of_training() -> None:
    model, _, _ = digits()
    with refused(model, UnrecognisedCodesError, "must be known to the model, but it recognises .*%"):
        one_shot(model, MnemonicCodes.generate(10, (1, 8, 8), per_class=4, seed=99), 3)


def test_the_class_itself_must_be_known() -> None:
    model, codes = knowing(per_class=1)
    swapped = codes.tensor.clone()
    swapped[1] = swapped[0]
    with refused(model, UnrecognisedCodesError, "it recognises 75% of them, not all of class 1. Train"):
        one_shot(model, swapped, 1)
    with refused(model, UnrecognisedCodesError, "it recognises 75% of them, not all of class 1. Train"):
        one_shot(model, swapped, [1, 2], rule="paper")


# The codes


@pytest.mark.parametrize(
    ("codes", "error", "text"),
    [
        (
            MnemonicCodes.generate(CLASSES, (7,)),
            ValueError,
            r"`mnemonic_codes` must be what .* samples of shape \(7,\)",
        ),
        (
            MnemonicCodes.generate(CLASSES, (2, 6), per_class=1),
            ValueError,
            r"one class per output .* shape \(4, 2, 4\)",
        ),
        (MnemonicCodes.generate(CLASSES, [(6,), (6,)]), ValueError, r"samples of shape \(6,\), \(6,\): .*arguments"),
        (MnemonicCodes.generate(CLASSES, {"x": (6,)}), ValueError, r"samples of shape \(6,\): .*'x'"),
        (
            MnemonicCodes.generate(5, (6,)),
            ValueError,
            r"^`mnemonic_codes` must have one class per output .*, got 5 classes x 4 codes, and .* shape \(20, 4\)$",
        ),
        (MnemonicCodes.generate(3, (6,)), ValueError, "one class per output of the model, got 3 classes x 4 codes"),
        (torch.zeros(CLASSES, 7), ValueError, r"`mnemonic_codes` must be what .* samples of shape \(7,\)"),
        (torch.zeros(CLASSES, 2, 7), ValueError, r"`mnemonic_codes` must be what .* samples of shape \(7,\)"),
        (torch.zeros(CLASSES, 2, 2, 7), ValueError, r"`mnemonic_codes` must be what .* samples of shape \(2, 7\)"),
        (torch.zeros(5, 6), ValueError, "one class per output of the model, got 5 classes x 1 codes"),
        (torch.zeros(()), ValueError, r"must be \[C, \*shape\] or \[C, M, \*shape\], got shape \(\)"),
        (torch.zeros(6), ValueError, r"must be \[C, \*shape\] or \[C, M, \*shape\], got shape \(6,\)"),
        (torch.zeros(0, 6), ValueError, r"must be \[C, \*shape\] or \[C, M, \*shape\], got shape \(0, 6\)"),
        (torch.zeros(CLASSES, 6, device="meta"), ValueError, "must hold values, got a tensor on the meta device"),
        (torch.zeros(CLASSES, 6, dtype=torch.complex64), TypeError, "codes must be real and not quantised"),
        (torch.zeros(CLASSES, 6, dtype=torch.int64), ValueError, "`mnemonic_codes` must be what .*"),
        ([[0.0] * 6] * CLASSES, TypeError, "`mnemonic_codes` must be MnemonicCodes or a tensor, got list"),
        (None, TypeError, "`mnemonic_codes` must be MnemonicCodes or a tensor, got NoneType"),
    ],
    ids=lambda value: f"{type(value).__name__}" if not isinstance(value, str) else "",
)
def test_codes(codes: Any, error: type[Exception], text: str) -> None:
    model, _ = knowing()
    with refused(model, error, text):
        one_shot(model, codes, 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_codes_that_are_not_finite(bad: float) -> None:
    model, codes = knowing()
    tensor = codes.tensor.clone()
    tensor[3, 1, 5] = bad
    with refused(model, ValueError, "codes must be finite, got NaN or infinity"):
        one_shot(model, tensor, 1)


def test_codes_beyond_the_range_of_the_models_type() -> None:
    model, codes = knowing()
    model.half()
    with refused(model, ValueError, "codes must be finite, got NaN or infinity"):
        one_shot(model, codes.tensor * 1e6, 1)


def test_one_tensor_for_a_model_with_two_inputs() -> None:
    model, _ = knowing(TwoInputs)
    with refused(model, ValueError, r"`mnemonic_codes` must be what the model's forward takes, .*missing 1 required"):
        one_shot(model, torch.zeros(CLASSES, 1, 5), 1)


# The class


@pytest.mark.parametrize(
    ("cls", "error", "text"),
    [
        (4, ValueError, r"^`cls` must lie in \[0, 4\), got \[4\]$"),
        (-1, ValueError, r"^`cls` must lie in \[0, 4\), got \[-1\]$"),
        ([0, 9], ValueError, r"^`cls` must lie in \[0, 4\), got \[0, 9\]$"),
        ([1, 1], ValueError, r"^`cls` must name each class once, got \[1, 1\]$"),
        ([0, 1, 2, 3], ValueError, "^`cls` must leave at least one of 4 classes, got all of them$"),
        ([], ValueError, "^`cls` must name at least one class, got none$"),
        ((), ValueError, "^`cls` must name at least one class, got none$"),
        (np.array([], dtype=np.int64), ValueError, "^`cls` must name at least one class, got none$"),
        (True, TypeError, "^`cls` must be an int or a sequence of ints, got True$"),
        ([0, False], TypeError, r"^`cls` must be an int or a sequence of ints, got \[0, False\]$"),
        (np.bool_(True), TypeError, "^`cls` must be an int or a sequence of ints, got "),
        (torch.tensor(True), TypeError, "^`cls` must be an int or a sequence of ints, got "),
        (1.0, TypeError, r"^`cls` must be an int or a sequence of ints, got 1\.0$"),
        ([0, 1.0], TypeError, r"^`cls` must be an int or a sequence of ints, got \[0, 1\.0\]$"),
        (np.float32(1), TypeError, "^`cls` must be an int or a sequence of ints, got "),
        (torch.tensor(1.0), TypeError, "^`cls` must be an int or a sequence of ints, got "),
        (torch.tensor([[1, 2]]), TypeError, "^`cls` must be an int or a sequence of ints, got "),
        ("1", TypeError, "^`cls` must be an int or a sequence of ints, got '1'$"),
        (None, TypeError, "^`cls` must be an int or a sequence of ints, got None$"),
    ],
    ids=repr,
)
def test_cls(cls: Any, error: type[Exception], text: str) -> None:
    model, codes = knowing()
    with refused(model, error, text):
        one_shot(model, codes, cls)


# The settings


@pytest.mark.parametrize("name", ["rho", "depth", "lambda1", "lambda2"])
@pytest.mark.parametrize("value", [0, -0.5, math.nan, math.inf, -math.inf])
def test_settings_out_of_range(name: str, value: float) -> None:
    model, codes = knowing()
    interval = r"\(0, 1\]" if name == "rho" else r"\(0, inf\)"
    with refused(model, ValueError, rf"^`{name}` must lie in {interval}, got {value}$"):
        one_shot(model, codes, 1, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["rho", "lambda1"])
@pytest.mark.parametrize("value", [True, "0.1", [0.1]])
def test_settings_of_the_wrong_type(name: str, value: Any) -> None:
    model, codes = knowing()
    with refused(model, TypeError, rf"^`{name}` must be a number, got {type(value).__name__}$"):
        one_shot(model, codes, 1, **{name: value})


def test_rho_above_one() -> None:
    model, codes = knowing()
    with refused(model, ValueError, r"^`rho` must lie in \(0, 1\], got 1\.01$"):
        one_shot(model, codes, 1, rho=1.01)


@pytest.mark.parametrize("rule", ["Natural", "", None])
def test_unknown_rule(rule: Any) -> None:
    model, codes = knowing()
    with refused(model, ValueError, rf'^`rule` must be "natural" or "paper", got {rule!r}$'):
        one_shot(model, codes, 1, rule=rule)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["0.weight", "head.weight"], "`parameters` must name parameters of the model, got 'head.weight'"),
        ([], "must "),
    ],
)
def test_parameters(names: list[str], text: str) -> None:
    model, codes = knowing()
    with refused(model, ValueError, text):
        one_shot(model, codes, 1, parameters=names)


INPUTS, TARGETS = torch.zeros(3, 6), torch.tensor([0, 2, 3])


@pytest.mark.parametrize(
    ("floor", "error", "text"),
    [
        ((INPUTS, TARGETS), TypeError, r"^`floor` must be \(inputs, targets, accuracy\), got tuple$"),
        (0.9, TypeError, r"^`floor` must be \(inputs, targets, accuracy\), got float$"),
        ((INPUTS, TARGETS, 1.5), ValueError, r"^the accuracy of `floor` must lie in \[0, 1\], got 1\.5$"),
        ((INPUTS, TARGETS, math.nan), ValueError, r"^the accuracy of `floor` must lie in \[0, 1\], got nan$"),
        ((INPUTS, TARGETS, "90%"), TypeError, "^the accuracy of `floor` must be a number, got str$"),
        ((INPUTS, TARGETS, True), TypeError, "^the accuracy of `floor` must be a number, got bool$"),
        ((INPUTS, [0, 2, 3], 0.9), TypeError, r"^the targets of `floor` must be an integer tensor \[N\]$"),
        ((INPUTS, TARGETS[:, None], 0.9), TypeError, r"^the targets of `floor` must be an integer tensor \[N\]$"),
        ((INPUTS, TARGETS.float(), 0.9), TypeError, r"^the targets of `floor` must be an integer tensor \[N\]$"),
        ((INPUTS, TARGETS[:2], 0.9), ValueError, r"^`targets` must have the batch size"),
        ((INPUTS[:0], TARGETS[:0], 0.9), ValueError, "^`inputs` must not be empty"),
        ((INPUTS * math.nan, TARGETS, 0.9), ValueError, "^`inputs` must be finite, got NaN"),
        ((INPUTS[:, :5], TARGETS, 0.9), ValueError, r"^`floor` must be what .* samples of shape \(5,\)"),
        ((INPUTS, torch.ones_like(TARGETS), 0.9), ValueError, "^`floor` must hold samples of remaining classes"),
    ],
)
def test_floor(floor: Any, error: type[Exception], text: str) -> None:
    model, codes = knowing()
    with refused(model, error, text):
        one_shot(model, codes, 1, floor=floor)


# The model


def test_train_mode() -> None:
    model, codes = knowing()
    model.train()
    with refused(model, ValueError, r"^`model` must be in eval mode, got module 'Sequential' in train mode; call mod"):
        one_shot(model, codes, 1)


def test_one_module_in_train_mode() -> None:
    model, codes = knowing(convnet)
    model.get_submodule("1").train()
    with refused(model, ValueError, "^`model` must be in eval mode, got module '1' in train mode"):
        one_shot(model, codes, 1)


@pytest.mark.parametrize("rule", ["natural", "paper"])
def test_frozen_parameter(rule: Any) -> None:
    model, codes = knowing()
    model.get_parameter("2.bias").requires_grad_(False)
    with refused(model, ValueError, r"^parameter `2\.bias` is frozen"):
        one_shot(model, codes, 1, rule=rule)


def test_mixed_types() -> None:
    model, codes = knowing()
    model.get_submodule("2").double()
    with refused(model, ValueError, r"must have one dtype, got `0\.weight` of torch\.float32 and `2\.weight` of torch"):
        one_shot(model, codes, 1)


def test_mixed_devices() -> None:
    model, codes = knowing()
    model.add_module("3", nn.Linear(4, 4, device="meta").eval())
    with pytest.raises(ValueError, match=r"must be on one device, got `0\.weight` on cpu and `3\.weight` on meta"):
        one_shot(model, codes, 1)


def test_a_device_without_kernels() -> None:
    model = mlp().to("meta").eval()
    with pytest.raises(NotImplementedError, match=r"`0\.weight` is on meta"):
        one_shot(model, knowing()[1], 1)


def test_inference_parameters() -> None:
    _, codes = knowing()
    with torch.inference_mode():
        model = mlp().eval()
    with refused(model, ValueError, r"parameter `0\.weight` must not be an inference tensor"):
        one_shot(model, codes, 1)


def test_quantised_module() -> None:
    class QuantisedLinear(nn.Linear):
        __module__ = "torch.ao.nn.quantized.modules.linear"

    model, codes = knowing()
    model.add_module("3", QuantisedLinear(4, 4).eval())
    with refused(model, ValueError, r"module `3` is quantised \(QuantisedLinear\)"):
        one_shot(model, codes, 1)


def test_script_module() -> None:
    model = torch.jit.ScriptModule.__new__(torch.jit.ScriptModule)  # to script a module is deprecated, and warns
    with pytest.raises(TypeError, match=r"^`model` must be an eager module, got a TorchScript module"):
        one_shot(model, knowing()[1], 1)


@pytest.mark.parametrize("model", [None, torch.relu, "model.pt"])
def test_not_a_module(model: Any) -> None:
    with pytest.raises(TypeError, match=r"^`model` must be a torch\.nn\.Module, got "):
        one_shot(model, knowing()[1], 1)


@pytest.mark.parametrize(("name", "bad"), [("0.weight", math.nan), ("2.bias", math.nan), ("2.weight", math.inf)])
def test_weights_that_are_not_finite(name: str, bad: float) -> None:
    model, codes = knowing()
    model.get_parameter(name).data.view(-1)[0] = bad
    with refused(model, ValueError, "^`model` must give finite logits on the codes, got NaN or infinity$"):
        one_shot(model, codes, 1)


class Strange(nn.Module):
    def __init__(self, returned: Any) -> None:
        super().__init__()
        self.head, self.returned = nn.Linear(6, 4), returned

    def forward(self, x: Tensor) -> Any:
        return self.returned(self.head(x))


def test_outputs_that_are_not_logits() -> None:
    _, codes = knowing()
    for returned, error, text in (
        (lambda y: (y,), TypeError, r"^`model` must return logits or an object with `\.logits`, got tuple$"),
        (lambda y: y.sum(1), ValueError, r"outputs of shape \(8,\)"),
        (lambda y: y * math.nan, ValueError, "^`model` must give finite logits on the codes, got NaN or infinity$"),
    ):
        model = Strange(returned).eval()
        with refused(model, error, text):
            one_shot(model, codes, 1)


# No step is found


def test_parameters_that_the_codes_do_not_depend_on() -> None:
    model, codes = knowing()
    model.register_parameter("unused", nn.Parameter(torch.ones(5)))
    with refused(model, ForgettingError, "the loss of the codes to forget must depend on the parameters that may move"):
        one_shot(model, codes, 1, parameters=["unused"])


def test_a_model_so_sure_that_float64_loses_it() -> None:
    model, codes = knowing()
    head = model.get_submodule("2")
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(1000)
    with refused(model, ForgettingError, "its gradient is zero or infinite; the model is unchanged"):
        one_shot(model, codes, 1)


def test_a_direction_that_does_not_lead_far_enough() -> None:
    class Bounded(nn.Module):
        """Log-odds of at least 1/2."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((2,), 3.0))

        def forward(self, x: Tensor) -> Tensor:
            return (
                torch.stack([torch.zeros(len(x)), 0.5 + 8 * torch.sigmoid(self.weight * x).sum(1)], 1) * x[:, :1].sign()
            )

    model = Bounded().eval()
    codes = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    with refused(model, ForgettingError, "^no step within reach forgets the codes and spares the remaining ones"):
        one_shot(model, codes, 1, rho=1.0)
