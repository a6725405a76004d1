"""Where weights lie in ONNX models."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

onnx = pytest.importorskip("onnx")

import numpy as np  # noqa: E402 (after onnx is known to be there)

from fastforget.serving.engines import onnx_weights  # noqa: E402
from fastforget.serving.engines.onnx_weights import Place, find_places, load, missing_parameters, patched  # noqa: E402

Network = Callable[..., nn.Module]


def model_with(**initializers: Tensor) -> bytes:
    """An ONNX model with these initializers."""
    arrays = [onnx.numpy_helper.from_array(value.detach().numpy(), name) for name, value in initializers.items()]
    graph = onnx.helper.make_graph([], "graph", [], [], arrays)
    return bytes(onnx.helper.make_model(graph).SerializeToString())


def initializers(content: bytes) -> dict[str, np.ndarray]:
    return {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load_model_from_string(content).graph.initializer}


def test_by_name_and_by_values() -> None:
    model, edited = nn.Linear(3, 2), nn.Linear(3, 2)
    weight, bias = model.weight, model.bias
    transposed = weight.T.contiguous()
    for content, places in (
        (model_with(weight=weight, bias=bias), [Place("bias", "bias", False), Place("weight", "weight", False)]),
        (
            model_with(weight=transposed, val_1=bias[None]),
            [Place("weight", "weight", True), Place("val_1", "bias", False)],
        ),
        (
            model_with(val_0=transposed, val_1=bias, val_2=torch.ones(2)),
            [Place("val_0", "weight", True), Place("val_1", "bias", False)],
        ),
    ):
        assert find_places(content, model) == places
        before, after = initializers(content), initializers(patched(content, places, edited))
        assert before.keys() == after.keys()
        for place in places:
            values = dict(edited.named_parameters())[place.weight].detach().numpy()
            assert after[place.initializer].shape == before[place.initializer].shape
            assert np.array_equal(after[place.initializer].ravel(), (values.T if place.transposed else values).ravel())
        for name in before.keys() - {place.initializer for place in places}:
            assert np.array_equal(before[name], after[name])
        assert find_places(patched(content, places, edited), edited) == places


def test_what_does_not_fit() -> None:
    model = nn.Linear(3, 2)
    close = torch.nextafter(model.weight, torch.tensor(torch.inf))
    for weight in ({}, {"weight": close}, {"weight": model.weight.half()}, {"weight": model.weight[:1]}):
        places = find_places(model_with(bias=model.bias, **weight), model)
        assert places == [Place("bias", "bias", False)]
        assert missing_parameters(places, model) == ["weight"]
    with pytest.raises(ValueError, match=r"^weights must be of a type that numpy has, got torch.bfloat16$"):
        find_places(model_with(weight=model.weight), nn.Linear(3, 2).bfloat16())
    both = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    both.load_state_dict({name: torch.ones_like(value) for name, value in both.state_dict().items()})
    with pytest.raises(
        ValueError, match=r"^initializer `val_0` must hold the values of one parameter, got those of `0.b"
    ):
        find_places(model_with(val_0=torch.ones(2)), both)


def test_tied_weights_have_two_names() -> None:
    model = nn.ModuleList([nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)])
    model[1].weight = model[0].weight
    for names in (["0.weight"], ["1.weight"], ["0.weight", "1.weight"]):
        content = model_with(**dict.fromkeys(names, model[0].weight))
        places = find_places(content, model)
        assert [place.initializer for place in places] == names
        assert missing_parameters(places, model) == []


def test_load(exported: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = initializers(exported)
    whole = onnx.load_model_from_string(exported)
    (tmp_path / "inside.onnx").write_bytes(exported)
    beside = tmp_path / "beside.onnx"
    onnx.save_model(whole, beside, save_as_external_data=True, location="weights", size_threshold=0)
    assert len(beside.read_bytes()) < len(exported)
    for given in (exported, onnx.load_model_from_string(exported), tmp_path / "inside.onnx", beside, str(beside)):
        found = initializers(load(given))
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    with pytest.raises(TypeError, match=r"^`model` must be a path, bytes or onnx.ModelProto, got Linear$"):
        load(nn.Linear(2, 2))
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "missing.onnx")
    with pytest.raises(ValueError, match=r"^`model` must be an ONNX model: "):
        load(b"nonsense")
    monkeypatch.setattr(onnx_weights, "LIMIT", 1000)
    with pytest.raises(ValueError, match=r"^`model` must be smaller than 2 GB, got 0.0 GB of weights$"):
        load(exported)
