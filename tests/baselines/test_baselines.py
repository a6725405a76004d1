"""The published methods: what they leave alone, and that they do what they are for."""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from asserts import assert_same_bits
from known_codes import assert_holds, copied_tensors
from learners import CLASS, FORGET, FRESH, REMAIN, REST, accuracy, attack_area, batches, learner, untrained
from torch import nn

from fastforget import Receipt, baselines

Method = Callable[..., Receipt]
METHODS: dict[str, Method] = {name: getattr(baselines, name) for name in baselines.__all__}
METHODS["retrain"] = partial(baselines.retrain, epochs=2)
METHODS["lotus"] = partial(baselines.lotus, unseen=batches(FRESH))
DRAWS_NOTHING = {"assd", "class_svd", "lfssd", "ssd"}


# What all of them keep


def bystanders(model: nn.Module) -> list[Any]:
    """What an edit must leave alone beside the values."""
    return [
        [(name, p.requires_grad, p.data_ptr(), p.grad) for name, p in model.named_parameters()],
        [(name, module.training, len(module._forward_hooks)) for name, module in model.named_modules()],
        torch.get_rng_state().tolist(),
    ]


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    found = []
    for state, seed in ((1, 0), (2, 0), (3, 1)):
        model = learner()
        model[3].train()  # its own mode comes back
        torch.manual_seed(state)
        before = bystanders(model)
        METHODS[name](model, FORGET, REMAIN, **({} if name in DRAWS_NOTHING else {"seed": seed}))
        assert bystanders(model) == before
        found.append(copied_tensors(model))
    for key, value in found[0].items():
        assert_same_bits(value, found[1][key])
    if name in DRAWS_NOTHING:
        return
    assert any(not torch.equal(value, found[2][key]) for key, value in found[0].items())
    original = copied_tensors(learner())
    assert any(not torch.equal(value, original[key]) for key, value in found[0].items())


@pytest.mark.parametrize("name", METHODS)
def test_after_an_error_the_model_is_what_it_was(name: str) -> None:
    x, y = FORGET[0]
    bad = [(x * math.nan, y)]
    model = learner()
    before, around = copied_tensors(model), bystanders(model)
    with pytest.raises(ValueError, match=r"finite|NaN"):
        METHODS[name](model, [*FORGET, *bad], [*REMAIN, *bad])
    assert_holds(model, before)
    assert bystanders(model) == around


@pytest.mark.parametrize("name", METHODS)
def test_the_receipt_undoes_and_repeats_it(name: str) -> None:
    """Statistics of batch norms move too."""
    model = learner()
    original = copied_tensors(model)
    receipt = METHODS[name](model, FORGET, REMAIN, **({"alpha": 1.0} if name in {"lfssd", "ssd"} else {}))
    edited = copied_tensors(model)
    assert receipt.rule == name
    assert receipt.settings.keys() >= {"seed"}
    assert receipt.changed
    receipt.revert(model)
    assert_holds(model, original)
    receipt.apply(model)
    assert_holds(model, edited)


@pytest.mark.parametrize("name", METHODS)
def test_no_batches(name: str) -> None:
    model = learner()
    before = copied_tensors(model)
    with pytest.raises(ValueError, match=r"^`(forget|remain)` must hold at least one batch, got none$"):
        METHODS[name](model, [], [])
    assert_holds(model, before)


@pytest.mark.parametrize("name", METHODS)
def test_settings_that_make_no_sense(name: str) -> None:
    """Each of them, before anything is done."""
    function, model = getattr(baselines, name), learner()
    before = copied_tensors(model)
    of_retrain = {"epochs"} if name == "retrain" else set[str]()
    parameters = inspect.signature(function).parameters.values()
    settings = (
        {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {"everything", "square", "unseen"} - of_retrain
    )
    assert settings
    for setting in settings:
        for value in (-1, math.nan, math.inf, True, "1"):
            of_type = rf"must be (an integer|a number), got {type(value).__name__}"
            of_value = rf"must (be at least \d+|lie in [\[(]\d+, (inf|\d+)[\])]), got {value}"
            with pytest.raises((TypeError, ValueError), match=rf"^`{setting}` ({of_type}|{of_value})$"):
                METHODS[name](model, FORGET, REMAIN, **{setting: value})
    assert_holds(model, before)


@pytest.mark.parametrize("name", METHODS)
def test_what_can_be_gone_through_once_is_kept(name: str) -> None:
    if name in {"assd", "lfssd", "ssd"}:
        pytest.skip("go through their data once")
    model, other = learner(), learner()
    METHODS[name](model, (batch for batch in FORGET), (batch for batch in REMAIN))
    METHODS[name](other, FORGET, REMAIN)
    assert_holds(model, copied_tensors(other))


def test_remaining_batches_that_come_once_are_there_in_every_epoch() -> None:
    model, other = learner(), learner()
    baselines.bad_teacher(model, FORGET, (batch for batch in REMAIN), epochs=2)
    baselines.bad_teacher(other, FORGET, REMAIN, epochs=2)
    assert_holds(model, copied_tensors(other))


def test_buffers_that_are_not_saved_come_back_and_gradients_are_no_obstacle() -> None:
    model = learner()
    model.register_buffer("counter", torch.zeros(()), persistent=False)
    model.register_forward_pre_hook(lambda module, _: module.counter.add_(1) and None)
    x, y = FORGET[0]
    with pytest.raises(ValueError, match="finite"):
        baselines.fine_tune(model, [], [(x, y), (x * math.nan, y)])
    assert model.counter == 0
    with torch.no_grad():
        baselines.fine_tune(model, [], FORGET, epochs=1)


def test_a_frozen_head_stays() -> None:
    model = learner()
    model[4].requires_grad_(requires_grad=False)
    before = copied_tensors(model)
    baselines.boundary_expand(model, FORGET, [], lr=0.1)
    assert_same_bits(model[4].weight, before["4.weight"])
    assert not torch.equal(model[0].weight, before["0.weight"])


def test_a_compiled_model_is_that_behind_it() -> None:
    model, plain = learner(), learner()
    baselines.random_labels(torch.compile(model, backend="eager"), FORGET, REMAIN)  # type: ignore[arg-type]
    baselines.random_labels(plain, FORGET, REMAIN)
    assert_holds(model, copied_tensors(plain))


# What they are for

FORGETS_A_CLASS: dict[str, dict[str, Any]] = {
    "bad_teacher": {"epochs": 60, "lr": 1e-2, "share": 1.0},
    "boundary_expand": {"lr": 0.02},
    "boundary_shrink": {"lr": 0.005, "epsilon": 0.5},
    "class_svd": {},
    "delete": {"lr": 0.005},
    "jit": {},
    "neg_grad": {"lr": 0.005},
    "neg_grad_plus": {"alpha": 0.9},
    "random_labels": {"epochs": 20, "lr": 5e-3},
    "salun": {},
    "scrub": {"epochs": 10, "max_epochs": 6, "lr": 2e-3},
    "ssd": {"alpha": 2.0},
    "unsir": {},
}


@pytest.mark.parametrize("name", FORGETS_A_CLASS)
def test_a_class_is_forgotten_and_the_rest_known(name: str) -> None:
    """With epochs and rates for 400 samples; the papers' are for networks of images."""
    model = learner()
    METHODS[name](model, CLASS, REST, **FORGETS_A_CLASS[name])
    forget, remain = accuracy(model, CLASS), accuracy(model, REST)
    assert forget < 0.5
    assert remain > max(0.6, forget + 0.3)


def test_retraining() -> None:
    torch.manual_seed(0)
    model = untrained()
    baselines.retrain(model, [], REMAIN, epochs=30, lr=0.1)
    model.eval()
    assert accuracy(model, REMAIN) > 0.95
    assert abs(attack_area(model, FORGET, batches(FRESH)) - 0.5) < 0.1
