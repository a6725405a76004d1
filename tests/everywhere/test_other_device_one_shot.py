"""On another device, `one_shot` makes the same edit to the bit, and the host seldom waits."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from asserts import assert_same_bits
from everywhere.counting import counted, trials
from known_codes import TwoInputs, assert_holds, convnet, copied_tensors, mlp, model_with_codes
from simulated_device import simulated_device, to_cpu, to_device
from torch import nn

from fastforget import ForgettingError, MnemonicCodes, UnrecognisedCodesError, fingerprint, fisher_diagonal, one_shot
from fastforget.classifier.losses import ScaledCrossEntropy


@pytest.mark.parametrize(
    ("build", "cls"), [(mlp, 1), (mlp, [1, 3]), (convnet, 1), (convnet, [0, 2]), (TwoInputs, 1), (TwoInputs, [0, 2])]
)
@pytest.mark.parametrize(("rule", "widen"), [("natural", 1.0), ("natural", 3.0), ("paper", 1.0)])
def test_one_shot(
    rule: Any, widen: float, cls: int | list[int], build: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The edit is the same to the bit with codes on the CPU, and so is its undo."""
    model, codes = model_with_codes(build)
    distant, before = to_device(copy.deepcopy(model)), copied_tensors(model)
    expected = one_shot(model, codes, cls, rho=0.2, rule=rule, widen=widen)
    with simulated_device(monkeypatch) as waits:
        found = one_shot(distant, codes, cls, rho=0.2, rule=rule, widen=widen)
        here = counted(waits)
        assert found.after == expected.after
        assert dict(found.evidence) == dict(expected.evidence)
        assert found.alpha == expected.alpha
        assert found.without_undo().edits.keys() == expected.edits.keys()
        assert_holds(near_model(distant), copied_tensors(model))
        del waits[:]
        found.revert(distant)
        assert counted(waits) == {"classifier/fingerprint.py": 2}  # the model before it and after it
        assert_holds(near_model(distant), before)
        del waits[:]
        found.apply(distant)
        assert counted(waits) == {"classifier/fingerprint.py": 2, "edits/edit.py": 1}  # and whether values are finite
        assert_holds(near_model(distant), copied_tensors(model))
    leaves = len(SHAPES_OF[build])
    if rule == "natural" and isinstance(cls, list):
        # The codes, and twice for what differs in the end, of all parameters together; the rest for each class.
        assert (here["classifier/fingerprint.py"], here["codes/mnemonic_codes.py"]) == (2, leaves)
        assert here["class_forgetting/several_classes.py"] == 1
        assert here["classifier/devices.py"] == 13
        return
    # Sending the codes; what the codes tell, the Fisher's checks, evidence, for a step its size and slope, and two
    # for the output layer: which it is, and the drift. Size and slope again where more parameters are tried.
    known = {"codes/mnemonic_codes.py": leaves, "classifier/fingerprint.py": 2}
    if rule == "natural":  # whether the codes are forgotten, and what differs in its rows and in its bias
        known |= {"class_forgetting/code_batch.py": 1, "class_forgetting/stage.py": 2}
    tries, others = trials(here), here.pop("classifier/devices.py")
    assert here == known
    assert others in (4,) if rule == "paper" else others in ((7,) if widen == 1 else (7, 9))
    assert tries == 2 if rule == "paper" else 2 <= tries < (12 if widen == 1 else 40)


SHAPES_OF: dict[Any, list[int]] = {mlp: [0], convnet: [0], TwoInputs: [0, 1]}


def near_model(model: nn.Module) -> nn.Module:
    """Return a copy on the CPU."""
    moved = copy.copy(model)
    state = {name: to_cpu(value.detach()) for name, value in copied_tensors(model).items()}
    built = next(build for build in (mlp, convnet, TwoInputs) if _like(build(), moved))().eval()
    built.load_state_dict(state)
    return built


def _like(one: nn.Module, other: nn.Module) -> bool:
    return [(n, p.shape) for n, p in one.named_parameters()] == [(n, p.shape) for n, p in other.named_parameters()]


def test_one_shot_with_a_kept_fisher(monkeypatch: pytest.MonkeyPatch) -> None:
    model, codes = model_with_codes(convnet)
    loss = ScaledCrossEntropy(1e3)
    distant = to_device(copy.deepcopy(model))
    kept = fisher_diagonal(model, codes.inputs, codes.labels, loss=loss, reduction="sum")
    with simulated_device(monkeypatch) as waits:
        there = fisher_diagonal(distant, to_device(codes.inputs), to_device(codes.labels), loss=loss, reduction="sum")
        del waits[:]
        found = one_shot(distant, codes, 1, rho=0.1, fisher=there)
        here = counted(waits)
    assert found.after == one_shot(model, codes, 1, rho=0.1, fisher=kept).after
    assert trials(here) < 12
    # Two more: whether it is the sum over all codes, and over these.
    assert here == {
        "codes/mnemonic_codes.py": 1,
        "classifier/fingerprint.py": 2,
        "classifier/devices.py": 6,
        "class_forgetting/kept_fisher.py": 2,
        "class_forgetting/code_batch.py": 1,
        "class_forgetting/stage.py": 2,
    }


def test_the_floor_is_moved_there(monkeypatch: pytest.MonkeyPatch) -> None:
    model, codes = model_with_codes()
    floor = (codes.inputs, codes.labels, 0.9)
    distant = to_device(copy.deepcopy(model))
    expected = one_shot(model, codes, 1, rho=0.3, floor=floor)
    with simulated_device(monkeypatch):
        found = one_shot(distant, codes, 1, rho=0.3, floor=floor)
    assert (found.after, found.alpha) == (expected.after, expected.alpha)


def test_one_shot_refuses_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model, codes = model_with_codes()
    torch.manual_seed(0)
    strange = to_device(mlp().eval())
    with simulated_device(monkeypatch):
        before = fingerprint(strange)
        with pytest.raises(UnrecognisedCodesError, match=r"recognises .*, none of class"):
            one_shot(strange, codes, 1)
        assert fingerprint(strange) == before
        known = to_device(model)
        before = fingerprint(known)
        with pytest.raises(ForgettingError):
            one_shot(known, codes, 1, parameters=["0.weight"], output_row=True)
        assert fingerprint(known) == before


def test_codes_are_sent_without_a_look_at_them(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = MnemonicCodes.generate(3, (4,)).to(torch.float64)
    with simulated_device(monkeypatch) as waits:
        there = codes.to("meta")
        assert len(waits) == 1  # the copy
        assert there.to(torch.float64).to("meta").labels.unique().tolist() == [0, 1, 2]
        assert (there.distribution, there.seed, there.per_class) == ("normal", 0, 4)
        assert_same_bits(to_cpu(there.tensor), codes.tensor)
