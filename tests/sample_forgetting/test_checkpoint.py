"""Interrupted work continues to the same bits, and only the same work does."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from known_codes import assert_holds, copied_tensors, refused
from learners import FORGET, FRESH, MEMBERS, OTHERS, RANDOM, REMAIN, accuracy, batches, learner
from sample_forgetting.calls import ADAM, attacks
from torch.utils.data import DataLoader, Subset, TensorDataset

from fastforget import learn_to_unlearn
from fastforget.files import checkpoint_file


class Interrupted(Exception):  # noqa: N818 (it is no error)
    pass


def interrupt(at: int) -> Any:
    def callback(number: int, _: dict[str, float]) -> None:
        if number == at:
            raise Interrupted

    return callback


@pytest.mark.parametrize("optimizer", [None, partial(torch.optim.SGD, lr=1e-3, momentum=0.9)])
@pytest.mark.parametrize("unseen", [None, batches(OTHERS)])
@pytest.mark.parametrize("at", [3, 4, 7])
def test_interrupted_work_goes_on_to_the_same_bits(optimizer: Any, unseen: Any, at: int, tmp_path: Path) -> None:
    data = TensorDataset(*MEMBERS)
    rows = [part.nonzero().squeeze(1).tolist() for part in (RANDOM, ~RANDOM)]
    forget, remain = (DataLoader(Subset(data, part), batch_size=25, shuffle=True) for part in rows)
    settings: dict[str, Any] = {"attacks": attacks(), "steps": 9, "optimizer": optimizer, "every": 2}
    work = partial(learn_to_unlearn, forget=forget, remain=remain, unseen=unseen, **settings)
    straight, model = learner(), learner()
    expected = work(straight)
    before, file = copied_tensors(model), tmp_path / "work"
    with pytest.raises(Interrupted):
        work(model, checkpoint=file, callback=interrupt(at))
    assert_holds(model, before)
    assert file.exists()
    torch.manual_seed(123)
    receipt = work(model, checkpoint=file)
    assert_holds(model, copied_tensors(straight))
    assert receipt.evidence == expected.evidence
    assert not file.exists()


def test_more_steps_than_before(tmp_path: Path) -> None:
    file, model, straight = tmp_path / "work", learner(), learner()
    with pytest.raises(Interrupted):
        learn_to_unlearn(
            model, FORGET, REMAIN, optimizer=ADAM, steps=4, every=4, checkpoint=file, callback=interrupt(4)
        )
    learn_to_unlearn(model, FORGET, REMAIN, optimizer=ADAM, steps=6, checkpoint=file)
    learn_to_unlearn(straight, FORGET, REMAIN, optimizer=ADAM, steps=6)
    assert_holds(model, copied_tensors(straight))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"lr": 0.5}, "its `lr` is 0.002, not 0.5"),
        ({"optimizer": partial(torch.optim.SGD, lr=0.1)}, "its `optimizer` is .NormalizedDescent .* not .SGD "),
        ({"unseen": batches(OTHERS)}, "its `support` is 'random', not 'counterfactual'"),
        ({"attacks": ()}, "its `attacks` is .*, not ''"),
        ({"attacks": attacks()[:2]}, "its `attacks` is"),
        ({"parameters": ["0.weight"]}, "its `parameters` is '0.weight 0.bias .*', not '0.weight'"),
        ({"floor": (*FRESH, 0.1)}, "its `floor` is 0.0, not 0.1"),
        ({"steps": 5}, "its `optimizer` is .NormalizedDescent .*4.* not .NormalizedDescent .*5"),
        ({"model": 1}, "it is of a model with fingerprint"),
        ({"file": b"nothing"}, "not a complete safetensors file"),
    ],
)
def test_other_work_is_not_gone_on_with(change: dict[str, Any], text: str, tmp_path: Path) -> None:
    file, model = tmp_path / "work", learner()
    given: dict[str, Any] = {"attacks": attacks(), "steps": 4, "every": 1, "checkpoint": file}
    with pytest.raises(Interrupted):
        learn_to_unlearn(model, FORGET, REMAIN, callback=interrupt(2), **given)
    if "file" in change:
        file.write_bytes(change.pop("file"))
    if change.pop("model", None):
        with torch.no_grad():
            model[0].weight[0, 0] += 1
    with refused(model, ValueError, f"cannot be gone on from: {text}.*; remove it to start anew$"):
        learn_to_unlearn(model, FORGET, REMAIN, **{**given, **change})
    assert file.exists()


def test_a_floor_goes_back_to_what_the_checkpoint_had(tmp_path: Path) -> None:
    """Where the first step after an interruption falls below it."""
    file, model, straight = tmp_path / "work", learner(), learner()
    harsh: dict[str, Any] = {"attacks": attacks(), "target": "zero", "lr": 0.003, "steps": 30}
    free = learner()
    learn_to_unlearn(free, FORGET, REMAIN[:1], **harsh)
    limit = (accuracy(learner(), batches(FRESH)) + accuracy(free, batches(FRESH))) / 2
    harsh["floor"] = (*FRESH, limit)
    expected = learn_to_unlearn(straight, FORGET, REMAIN[:1], **harsh)
    last = int(expected.evidence["steps"])
    with pytest.raises(Interrupted):
        learn_to_unlearn(model, FORGET, REMAIN[:1], checkpoint=file, every=1, callback=interrupt(last), **harsh)
    found = learn_to_unlearn(model, FORGET, REMAIN[:1], checkpoint=file, **harsh)
    assert found.evidence == expected.evidence
    assert_holds(model, copied_tensors(straight))


FORGED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"step": 2**62}, {}, "and 4 are asked for"),
    ({"step": 0}, {}, "it is of 0 steps"),
    ({}, {"generator": None}, "must hold the state of a random generator"),
    ({}, {"generator": torch.zeros(3)}, "must hold the state of a random generator"),
    ({}, {"generator": torch.full((5056,), 255, dtype=torch.uint8)}, "must hold the state of a random generator"),
    ({}, {"optimizer/x/step": torch.zeros(())}, "must hold state of 6 parameters, got 'optimizer/x/step'"),
    ({}, {"optimizer/99/step": torch.zeros(())}, "must hold state of 6 parameters"),
    ({}, {"optimizer/0/exp_avg": torch.zeros(3)}, "'optimizer/0/exp_avg' must have shape"),
    ({}, {"parameter/0.bias": None}, "must hold the parameters"),
    ({}, {"parameter/9.bias": torch.zeros(3)}, "must hold the parameters"),
    ({}, {"parameter/0.bias": torch.zeros(96, dtype=torch.float64)}, "must hold parameter `0.bias` of torch.float32"),
]


@pytest.mark.parametrize(("description", "tensors", "text"), FORGED)
def test_forged_checkpoints(description: dict[str, Any], tensors: dict[str, Any], text: str, tmp_path: Path) -> None:
    """With a checksum that fits, which anybody can compute."""
    file, model = tmp_path / "work", learner()
    given: dict[str, Any] = {"attacks": attacks(), "steps": 4, "every": 1, "checkpoint": file}
    with pytest.raises(Interrupted):
        learn_to_unlearn(model, FORGET, REMAIN, callback=interrupt(2), **given)
    was, held = checkpoint_file.read(file)
    changed = {key: value for key, value in {**held, **tensors}.items() if value is not None}
    checkpoint_file.write(file, {**was, **description}, changed)
    with refused(model, ValueError, text):
        learn_to_unlearn(model, FORGET, REMAIN, **given)
