"""Inputs, outputs and refusals of the engines for ONNX models."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from asserts import assert_same_bits
from torch import Tensor, nn

from fastforget.serving.engines import OnnxRuntime, OpenVINO
from fastforget.serving.engines.onnx_engine import OnnxEngine

Export = Callable[..., bytes]


def onnx_runtime(model: bytes, example: Any) -> OnnxEngine:
    pytest.importorskip("onnxruntime")
    return OnnxRuntime(model, example=example)


def openvino(model: bytes, example: Any) -> OnnxEngine:
    pytest.importorskip("openvino")
    return OpenVINO(model, example=example, settings={"INFERENCE_PRECISION_HINT": "f32"})


Make = Callable[[bytes, Any], OnnxEngine]
both = pytest.mark.parametrize("make", [onnx_runtime, openvino])


@both
def test_folded_weights_are_refused(
    make: Make, onnx_model: Export, network: Callable[..., nn.Module], images: Tensor
) -> None:
    engine = make(onnx_model(optimize=True), images)
    with pytest.raises(
        ValueError, match=r"got none for \['0.weight', '0.bias', '1.weight', '1.bias'\].*optimize=False"
    ):
        engine.check(network())


@both
def test_transposed_weights_are_found(make: Make, onnx_model: Export, images: Tensor) -> None:
    """Without BatchNorm an optimised export can be used: weights that it transposes have no name."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(2), nn.Linear(64, 10), nn.ReLU(), nn.Flatten(), nn.Linear(10, 3)).eval()

    first, edited = model(), model()
    engine = make(onnx_model(first, optimize=True), images)
    engine.check(first)
    assert any(place.transposed for place in engine._places)
    engine.stage(edited)()
    with torch.no_grad():
        assert float((engine(images) - edited(images)).abs().max()) <= 1e-5


class TwoInputs(nn.Module):
    """Named inputs and outputs, a layer that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.numbers, self.spare = nn.Linear(6, 4), nn.Linear(2, 4), nn.Linear(9, 9)

    def forward(self, image: Tensor, numbers: Tensor) -> dict[str, Any]:
        inside = self.image(image)
        return {"logits": inside * self.numbers(numbers).sigmoid(), "more": [inside]}


@both
def test_inputs_and_outputs(make: Make, onnx_model: Export) -> None:
    model, example = TwoInputs().eval(), {"numbers": torch.rand(3, 2), "image": torch.rand(3, 6)}
    engine = make(onnx_model(model, (example["image"], example["numbers"])), example)
    engine.check(model)
    found = engine(**example)
    assert found.keys() == {"logits", "more"}
    with torch.no_grad():
        expected = model(**example)
    assert float((found["logits"] - expected["logits"]).abs().max()) <= 1e-5
    assert float((found["more"][0] - expected["more"][0]).abs().max()) <= 1e-5
    for again in (
        engine(example["image"], example["numbers"]),
        engine(example["image"], numbers=example["numbers"]),
        engine(example["image"].numpy(), example["numbers"].numpy()),
    ):
        assert_same_bits(again["logits"], found["logits"])
    for args, kwargs in (((example["image"],), {}), (tuple(example.values()), example), ((), {"image": 1, "x": 2})):
        with pytest.raises(ValueError, match=r"^inputs must be \['image', 'numbers'\], got"):
            engine(*args, **kwargs)
    with pytest.raises(TypeError, match=r"^input `numbers` must be a tensor or an array, got int$"):
        engine(example["image"], 2)


class Odd(nn.Linear):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), None


def test_outputs_must_be_tensors(onnx_model: Export) -> None:
    model, example = Odd(4, 3).eval(), torch.rand(2, 4)
    with pytest.raises(ValueError, match=r"^outputs of the model must be tensors, got NoneType among them$"):
        onnx_runtime(onnx_model(model, example), example).check(model)
