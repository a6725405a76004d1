"""`one_shot` refuses models that it cannot edit, and not a bit of them changes."""

import math
from typing import Any

import pytest
import torch
from known_codes import convnet, mlp, model_with_codes, refused
from torch import Tensor, nn

from fastforget import ForgettingError, one_shot

# The model


def test_train_mode() -> None:
    model, codes = model_with_codes()
    model.train()
    with refused(model, ValueError, r"^`model` must be in eval mode, got module 'Sequential' in train mode; call mod"):
        one_shot(model, codes, 1)


def test_one_module_in_train_mode() -> None:
    model, codes = model_with_codes(convnet)
    model.get_submodule("1").train()
    with refused(model, ValueError, "^`model` must be in eval mode, got module '1' in train mode"):
        one_shot(model, codes, 1)


@pytest.mark.parametrize("rule", ["natural", "paper"])
def test_frozen_parameter(rule: Any) -> None:
    model, codes = model_with_codes()
    model.get_parameter("2.bias").requires_grad_(False)
    with refused(model, ValueError, r"^parameter `2\.bias` is frozen"):
        one_shot(model, codes, 1, rule=rule)


def test_mixed_types() -> None:
    model, codes = model_with_codes()
    model.get_submodule("2").double()
    with refused(model, ValueError, r"must have one dtype, got `0\.weight` of torch\.float32 and `2\.weight` of torch"):
        one_shot(model, codes, 1)


def test_mixed_devices() -> None:
    model, codes = model_with_codes()
    model.add_module("3", nn.Linear(4, 4, device="meta").eval())
    with pytest.raises(ValueError, match=r"must be on one device, got `0\.weight` on cpu and `3\.weight` on meta"):
        one_shot(model, codes, 1)


def test_a_device_without_kernels() -> None:
    model = mlp().to("meta").eval()
    with pytest.raises(NotImplementedError, match=r"`0\.weight` is on meta"):
        one_shot(model, model_with_codes()[1], 1)


def test_inference_parameters() -> None:
    _, codes = model_with_codes()
    with torch.inference_mode():
        model = mlp().eval()
    with refused(model, ValueError, r"parameter `0\.weight` must not be an inference tensor"):
        one_shot(model, codes, 1)


def test_quantised_module() -> None:
    class QuantisedLinear(nn.Linear):
        __module__ = "torch.ao.nn.quantized.modules.linear"

    model, codes = model_with_codes()
    model.add_module("3", QuantisedLinear(4, 4).eval())
    with refused(model, ValueError, r"module `3` is quantised \(QuantisedLinear\)"):
        one_shot(model, codes, 1)


def test_script_module() -> None:
    model = torch.jit.ScriptModule.__new__(torch.jit.ScriptModule)  # to script a module is deprecated, and warns
    with pytest.raises(TypeError, match=r"^`model` must be an eager module, got a TorchScript module"):
        one_shot(model, model_with_codes()[1], 1)


@pytest.mark.parametrize("model", [None, torch.relu, "model.pt"])
def test_not_a_module(model: Any) -> None:
    with pytest.raises(TypeError, match=r"^`model` must be a torch\.nn\.Module, got "):
        one_shot(model, model_with_codes()[1], 1)


@pytest.mark.parametrize(("name", "bad"), [("0.weight", math.nan), ("2.bias", math.nan), ("2.weight", math.inf)])
def test_weights_that_are_not_finite(name: str, bad: float) -> None:
    model, codes = model_with_codes()
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
    _, codes = model_with_codes()
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
    model, codes = model_with_codes()
    model.register_parameter("unused", nn.Parameter(torch.ones(5)))
    with refused(model, ForgettingError, "the loss of the codes to forget must depend on the parameters that may move"):
        one_shot(model, codes, 1, parameters=["unused"])


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
