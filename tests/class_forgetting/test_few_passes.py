"""No pass over the codes is made twice, and what is not run again is what a run would say."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from asserts import assert_close, assert_same_bits
from class_forgetting.kept_fisher_cases import keep
from class_forgetting.one_shot_cases import FREE, RHO
from known_codes import convnet, model_with_codes
from torch import Tensor, nn

from fastforget import MnemonicCodes, one_shot
from fastforget.class_forgetting.code_batch import CodeBatch
from fastforget.class_forgetting.stage import Stage, Standstill
from fastforget.class_forgetting.step_length import _first_sparing
from fastforget.classifier.losses import log_odds
from fastforget.classifier.output_layer import OutputLayer
from fastforget.classifier.running import IsolatedModel, run_isolated


def test_all_codes_are_run_for_their_fisher_and_after_the_step() -> None:
    model, codes = model_with_codes(per_class=3)
    sizes = list[int]()
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    receipt = one_shot(model, codes, 1, rho=RHO, spill=FREE)
    assert receipt.evidence["disconnected"] == 1
    assert (sizes[0], sizes[-1]) == (12, 12)
    assert set(sizes[1:-1]) == {3}


def test_a_code_that_is_left_out_takes_another_forward() -> None:
    model, codes = model_with_codes(per_class=3)
    mixed = codes.tensor.clone()
    mixed[1, 2] = codes.tensor[0, 0]
    sizes = list[int]()
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    receipt = one_shot(model, MnemonicCodes.from_tensors(mixed), 1, rho=RHO, spill=FREE)
    assert receipt.evidence["forget_codes_used"] == 2
    assert (sizes[:2], sizes[-1]) == ([12, 11], 11)


@pytest.mark.parametrize("settings", [{}, {"batch_size": 5}, {"level": "output"}, {"fisher": "kept"}], ids=str)
@pytest.mark.parametrize("build", [None, convnet])
def test_the_evidence_is_what_the_edited_model_says(
    build: Callable[[], nn.Module] | None, settings: dict[str, Any]
) -> None:
    """The logits after the output row are computed from the features; the model agrees."""
    model, codes = model_with_codes(per_class=3) if build is None else model_with_codes(build, per_class=3)
    if settings.get("fisher") == "kept":
        settings = {"fisher": keep(model, codes)}
    receipt = one_shot(model, codes, 1, rho=RHO, **settings)
    assert receipt.evidence["disconnected"] == 1
    with torch.no_grad():
        logits = model(codes.inputs).double()
    own = codes.labels == 1
    others = logits[own].index_fill(1, torch.tensor([1]), -math.inf).logsumexp(1)
    assert float((others - logits[own, 1]).mean()) == pytest.approx(receipt.evidence["output_depth"], abs=1e-3)
    if "remain_log_odds_after" in receipt.evidence:
        after = log_odds(logits, codes.labels)[~own].mean()
        assert float(after) == pytest.approx(receipt.evidence["remain_log_odds_after"], abs=1e-3)


def staged() -> tuple[Stage, Tensor]:
    model, codes = model_with_codes(per_class=3)
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    assert isinstance(codes.inputs, Tensor)
    return Standstill(model, parameters), codes.inputs


def test_an_examined_stage_computes_what_a_change_of_the_output_layer_does() -> None:
    stage, inputs = staged()
    found = stage.examine(inputs)
    layer = found.layer
    assert isinstance(layer, OutputLayer)
    assert layer.bias is not None
    before = stage.outputs(inputs)
    stage.overlay(layer.weight, lambda weight: weight[2].mul_(-3.0))
    stage.overlay(layer.bias, lambda bias: bias.add_(torch.arange(4.0)))
    runs = _count_runs(stage)
    after = stage.outputs(inputs)
    assert not runs
    assert_close(after, run_isolated(stage.model, inputs, stage.values))
    assert not torch.allclose(before, after)
    with stage.step_alone():
        assert_same_bits(stage.outputs(inputs), before)
    assert not runs


def test_a_change_of_another_parameter_is_run() -> None:
    stage, inputs = staged()
    assert isinstance(stage.examine(inputs).layer, OutputLayer)
    first = next(iter(stage.parameters))
    stage.overlay(first, lambda weight: weight.mul_(0.5))
    runs = _count_runs(stage)
    assert_close(stage.outputs(inputs), run_isolated(stage.model, inputs, stage.values))
    assert len(runs) == 1


def _count_runs(stage: Stage) -> list[int]:
    runs, run = list[int](), stage.run

    def counted(inputs: Any) -> Tensor:
        runs.append(len(inputs))
        return run(inputs)

    stage.run = counted  # type: ignore[method-assign]
    return runs


class Losing(Stage):
    """A stage on which the remaining code loses any function of the step."""

    def __init__(self, loss: Callable[[float], float]) -> None:
        super().__init__(nn.Identity(), {})
        self.loss, self.length, self.tried = loss, math.nan, list[float]()

    def move(self, length: float) -> None:
        self.length = length
        self.tried.append(length)

    def outputs(self, inputs: object, **_: bool) -> Tensor:  # noqa: ARG002 - a curve has none
        return torch.tensor([[0.0, 0.0, 0.0], [0.0, 7.0 - self.loss(self.length), 0.0]], dtype=torch.float64)


CODES = CodeBatch(torch.zeros(2, 1), torch.tensor([0, 1]), torch.tensor([7.0, 7.0]), class_rows=((0,),))
LENGTHS = [0.8**place for place in range(60)]


@pytest.mark.parametrize(
    "loss",
    [lambda a: 5 * a, lambda a: 90 * a**3, lambda a: 3 * a**0.2, lambda a: math.inf if a > 0.1 else a, lambda _: 5.0],
    ids=["line", "cube", "root", "infinite", "never"],
)
def test_the_longest_step_that_spares_the_rest_is_found_in_few_trials(loss: Callable[[float], float]) -> None:
    expected = next((place for place, length in enumerate(LENGTHS) if loss(length) <= 2), None)
    stage = Losing(loss)
    found = _first_sparing(stage, CODES, LENGTHS, (0, loss(1.0)), 2.0)
    assert found == expected
    assert len(stage.tried) <= 10
    assert found is None or stage.length == LENGTHS[found]


class Counting(nn.Module):
    """Writes to its buffer at each forward, in a way that leaves no trace, and keeps its last input."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([2.0]))
        self.register_buffer("calls", torch.zeros(1))
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls.data.add_(1)
        self.last = x
        return x * self.scale + self.calls


def test_each_run_of_an_isolated_model_starts_from_the_model_as_it_is() -> None:
    model = Counting()
    isolated, x = IsolatedModel(model), torch.ones(2, 1)
    other = {"scale": torch.tensor([5.0])}
    assert [isolated.run(x, values)[0].item() for values in (None, other, None)] == [3.0, 6.0, 3.0]
    assert (model.calls.item(), model.last, model.scale.item()) == (0.0, None, 2.0)
    with torch.no_grad():
        model.calls.fill_(10.0)
        model.scale.fill_(1.0)
    assert isolated.run(x)[0].item() == 12.0


def test_an_isolated_model_is_put_back_after_a_fault() -> None:
    model = copy.deepcopy(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)))
    before, isolated = dict(model.named_parameters()), IsolatedModel(model)
    with pytest.raises(RuntimeError):
        isolated.run(torch.ones(1, 3), {"0.weight": torch.ones(2, 2), "1.bias": torch.ones(2)})
    assert all(value is before[name] for name, value in model.named_parameters())
