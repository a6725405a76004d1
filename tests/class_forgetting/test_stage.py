"""Stages: a step is tried on copies, and its difference to the model is what is written."""

from types import SimpleNamespace

import pytest
import torch
from asserts import assert_close, assert_same_bits
from known_codes import TwoInputs, assert_holds, convnet, copied_tensors, edits_values_only, model_with_codes
from torch import Tensor, nn

from fastforget import ops
from fastforget.class_forgetting.stage import DenseStage, SparseStage, Stage
from fastforget.classifier.running import forward, logits_of, run_isolated
from fastforget.edits.edit import write_edits


def staged(model: nn.Module, kind: type[Stage]) -> Stage:
    generator = torch.Generator().manual_seed(3)
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    directions, scores = ([torch.randn(p.shape, generator=generator) for p in parameters.values()] for _ in range(2))
    if kind is DenseStage:
        return DenseStage(model, parameters, directions)
    return sparse(model, directions, scores, 30)


def sparse(model: nn.Module, directions: list[Tensor], scores: list[Tensor], k: int) -> SparseStage:
    indices, counts = ops.select_indices(ops.select(scores, k)[0], scores, k)
    parts = zip(directions, indices.split(counts.tolist()), strict=True)
    chosen = torch.cat([direction.view(-1)[at] for direction, at in parts])
    parameters = dict(model.named_parameters())
    return SparseStage(model, parameters, parameters, indices, counts, chosen)


@pytest.mark.parametrize("kind", [DenseStage, SparseStage])
def test_steps_are_from_the_original_and_leave_the_model_alone(kind: type[Stage]) -> None:
    model, codes = model_with_codes(convnet)
    before = copied_tensors(model)
    with edits_values_only(model):
        stage = staged(model, kind)
        for alpha in (0.3, -7.0, 0.3, 0.0):
            stage.move(alpha)
            again = staged(model, kind)
            again.move(alpha)
            for name, value in stage.parameters.items():
                assert_same_bits(value, again.parameters[name])
            assert torch.equal(stage.outputs(codes.inputs), again.outputs(codes.inputs))
    for name, value in stage.parameters.items():
        assert_same_bits(value, before[name])
    with torch.no_grad():
        assert_close(stage.outputs(codes.inputs), forward(model, codes.inputs))
    assert_holds(model, before)


@pytest.mark.parametrize("kind", [DenseStage, SparseStage])
def test_edits_are_the_difference(kind: type[Stage]) -> None:
    model, codes = model_with_codes(convnet)
    model.to(memory_format=torch.channels_last)
    before = copied_tensors(model)
    stage = staged(model, kind)
    stage.move(0.5)
    edits, expected = stage.edits(), {name: value.clone() for name, value in stage.parameters.items()}
    outputs = stage.outputs(codes.inputs)
    assert sum(len(edit.new) for edit in edits.values()) == (30 if kind is SparseStage else 684)
    stage.move(9.0)  # what was returned is no view of the stage
    write_edits(model, edits, old=False)
    for name, value in expected.items():
        assert_same_bits(copied_tensors(model)[name], value)
    with torch.no_grad():  # whose convolution adds in another order
        assert_close(outputs, forward(model, codes.inputs), 1e-4)
    write_edits(model, edits, old=True)
    assert_holds(model, before)


def test_selection_takes_the_largest_scores_over_all_tensors() -> None:
    model = nn.Linear(2, 2)
    scores = [torch.tensor([[1.0, 5.0], [3.0, 3.0]]), torch.tensor([4.0, 3.0])]
    directions = [torch.full((2, 2), 2.0), torch.full((2,), -1.0)]
    stage = sparse(model, directions, scores, 3)
    stage.move(10.0)
    moved = {name: stage.parameters[name] - p.detach() for name, p in model.named_parameters()}
    assert_close(moved["weight"], torch.tensor([[0.0, 20.0], [20.0, 0.0]]))  # the first of the equal ones
    assert_close(moved["bias"], torch.tensor([-10.0, 0.0]))
    assert {name: edit.indices.tolist() for name, edit in stage.edits().items() if edit.indices is not None} == {
        "weight": [1, 2],
        "bias": [0],
    }


def test_untouched_tensors_have_no_edit() -> None:
    model = nn.Linear(2, 2)
    scores = [torch.ones(2, 2), torch.zeros(2)]
    stage = sparse(model, scores, scores, 2)
    assert list(stage.edits()) == ["weight"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types_are_rounded_once(dtype: torch.dtype) -> None:
    """In the direction's type first: many small steps are not lost one by one."""
    model = nn.Linear(4, 4).to(dtype)
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    directions = [torch.full(p.shape, 1.0) for p in parameters.values()]
    for stage in (
        DenseStage(model, parameters, directions),
        sparse(model, directions, directions, 20),
    ):
        stage.move(1e-3)
        for name, parameter in parameters.items():
            assert_same_bits(stage.parameters[name], (parameter.detach().float() + 1e-3).to(dtype))


def test_run_takes_what_the_model_takes() -> None:
    model, codes = model_with_codes(TwoInputs)
    inputs = codes.inputs
    assert isinstance(inputs, tuple)
    expected = model(*inputs).detach()
    assert torch.equal(run_isolated(model, inputs), expected)
    assert torch.equal(run_isolated(model, dict(zip(("image", "text"), inputs, strict=True))), expected)
    assert not run_isolated(model, inputs).requires_grad
    doubled = {"head.bias": model.get_parameter("head.bias").detach() + 1}
    assert_close(run_isolated(model, inputs, doubled), expected + 1)


def test_logits_of() -> None:
    logits = torch.zeros(2, 3)
    assert logits_of(logits) is logits
    assert logits_of(SimpleNamespace(logits=logits)) is logits
    for outputs in ((logits,), {"logits": logits}, None, SimpleNamespace(logits=None)):
        with pytest.raises(TypeError, match=r"^`model` must return logits or an object with `\.logits`, got "):
            logits_of(outputs)
