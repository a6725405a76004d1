"""Learning to Unlearn: what it does, that it repeats, and that it comes back."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from asserts import assert_same_bits
from known_codes import assert_holds, copied_tensors, edits_values_only
from learners import (
    CLASS,
    CLASSES,
    FORGET,
    FRESH,
    MEMBERS,
    OTHERS,
    RANDOM,
    REMAIN,
    REST,
    SIZE,
    accuracy,
    attack_area,
    batches,
    learner,
)
from sample_forgetting.calls import ADAM, attacks, few_steps
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fastforget import Receipt, learn_to_unlearn

# What it is for


@pytest.mark.parametrize("share", [1.0, 0.3, 0.1])
def test_random_samples(share: float) -> None:
    """They look to an attack as unseen ones do, and no longer as members; what remains is still known."""
    model = learner()
    rows = (~RANDOM).nonzero().squeeze(1)
    rows = rows[: round(share * len(rows))]
    before = accuracy(model, REMAIN), attack_area(model, FORGET, batches(FRESH)), accuracy(model, batches(FRESH))
    learn_to_unlearn(model, FORGET, batches(MEMBERS, rows), attacks=attacks(), steps=80, lr=0.003)
    assert before[1] > 0.75
    assert abs(attack_area(model, FORGET, batches(FRESH)) - 0.5) < 0.1
    assert accuracy(model, REMAIN) > before[0] - (0.05 if share == 1 else 0.3)
    assert accuracy(model, batches(FRESH)) > before[2] - (0.1 if share == 1 else 0.2)


@pytest.mark.parametrize("share", [1.0, 0.3, 0.1, 0.03])
@pytest.mark.parametrize("with_attacks", [True, False])
def test_random_samples_like_their_unseen_twins(share: float, with_attacks: bool) -> None:
    """They are right as often as unseen ones, and cannot be told from them; what remains is still known."""
    model = learner()
    rows = (~RANDOM).nonzero().squeeze(1)
    remain = batches(MEMBERS, rows[: round(share * len(rows))])
    before = accuracy(model, REMAIN), accuracy(model, batches(FRESH))
    assert accuracy(model, FORGET) > before[1] + 0.3
    assert attack_area(model, FORGET, batches(FRESH)) > 0.75
    given = attacks() if with_attacks else ()
    receipt = learn_to_unlearn(model, FORGET, remain, unseen=batches(OTHERS), attacks=given)
    assert {receipt.settings[name] for name in ("support", "target")} == {"counterfactual"}
    assert abs(accuracy(model, FORGET) - before[1]) < 0.1
    assert abs(attack_area(model, FORGET, batches(FRESH)) - 0.5) < 0.07
    assert accuracy(model, REMAIN) > before[0] - (0.1 if share == 1 else 0.25)
    assert accuracy(model, batches(FRESH)) > before[1] - 0.1


def test_whole_classes_need_no_unseen_samples() -> None:
    model = learner()
    known = accuracy(model, REST)
    receipt = learn_to_unlearn(model, CLASS, REST)
    assert receipt.settings["support"] == "counterfactual"
    assert accuracy(model, CLASS) < 0.02
    assert accuracy(model, REST) > known - 0.05


def test_a_part_of_a_class() -> None:
    """Some samples of one class, as of a person among many: the class stays."""
    model = learner()
    chosen = torch.zeros(400, dtype=torch.bool)
    chosen[(MEMBERS[1] == 2).nonzero().squeeze(1)[:30]] = True
    rest = batches(FRESH, FRESH[1] == 2)
    known = accuracy(model, rest)
    learn_to_unlearn(model, batches(MEMBERS, chosen), batches(MEMBERS, ~chosen), unseen=batches(OTHERS))
    assert abs(accuracy(model, batches(MEMBERS, chosen)) - known) < 0.15
    assert abs(accuracy(model, rest) - known) < 0.15


def test_what_the_attacks_say_of_unseen_samples_is_far_enough() -> None:
    """Pushed to where they are strangers for sure, samples stand out again, on the other side."""
    found = {}
    for target in ("unseen", "zero"):
        model = learner()
        learn_to_unlearn(model, FORGET, REMAIN, attacks=attacks(), steps=80, lr=0.003, target=target)  # type: ignore[arg-type]
        found[target] = attack_area(model, FORGET, batches(FRESH))
    assert found["zero"] < 0.4
    assert abs(found["unseen"] - 0.5) < 0.1


@pytest.mark.parametrize("classes", [[1], [0, 2]])
@pytest.mark.parametrize("meta", [True, False])
def test_whole_classes(classes: Sequence[int], meta: bool) -> None:
    model, inside = learner(), torch.isin(MEMBERS[1], torch.tensor(classes))
    forget, remain = batches(MEMBERS, inside), batches(MEMBERS, ~inside)
    known = accuracy(model, remain)
    learn_to_unlearn(model, forget, remain, attacks=attacks(), target="zero", meta=meta, steps=80)
    assert accuracy(model, forget) < 0.2
    assert accuracy(model, remain) > known - 0.05


@pytest.mark.parametrize("support", ["random", "uniform", "ascent"])
@pytest.mark.parametrize("order", [1, 2])
def test_it_needs_no_attack(support: Any, order: Any) -> None:
    model = learner()
    known = accuracy(model, FORGET)
    receipt = learn_to_unlearn(model, FORGET, REMAIN, support=support, order=order, steps=40)
    assert accuracy(model, FORGET) < known - 0.1
    assert not any("forget" in name for name in receipt.evidence)


def test_every_switch_matters() -> None:
    """Each gives another result; none alone is without effect."""
    switches: list[dict[str, Any]] = [
        {},
        {"attacks": ()},
        {"meta": False},
        {"order": 2},
        {"tune": 0.0},
        {"tune": 0.0, "project": "none"},
        {"tune": 0.0, "project": "remain"},
        {"tune": 0.0, "scope": "tensor"},
        {"target": "zero"},
        {"support": "uniform"},
        {"weight": 3.0},
        {"trial": 0.1},
        {"queries": 2},
        {"unseen": batches(OTHERS)},
        {"unseen": batches(OTHERS), "target": "unseen"},
        {"unseen": batches(OTHERS), "support": "random"},
        {"unseen": batches(OTHERS), "attacks": ()},
        {"steps": 5},
        {"lr": 0.02},
        {"seed": 1},
        {"optimizer": partial(torch.optim.AdamW, lr=1e-3)},
    ]
    found = set()
    for switch in switches:
        model = learner()
        found.add(few_steps(model, FORGET, REMAIN, **{"attacks": attacks(), **switch}).after)
    assert len(found) == len(switches)


# Care


@pytest.mark.parametrize("optimizer", [None, partial(torch.optim.SGD, lr=1e-3), partial(torch.optim.RMSprop, lr=1e-4)])
def test_only_values_change_and_come_back(optimizer: Any, tmp_path: Path) -> None:
    model, other = learner(), learner()
    before = copied_tensors(model)
    with edits_values_only(model):
        receipt = few_steps(model, FORGET, REMAIN, attacks=attacks(), optimizer=optimizer)
    assert (receipt.rule, receipt.classes, receipt.evidence["steps"]) == ("learn_to_unlearn", (), 4)
    assert receipt.settings["support"] == "random"
    assert set(receipt.edits) == {name for name, _ in model.named_parameters()}
    receipt.save(tmp_path / "receipt")
    read = Receipt.load(tmp_path / "receipt")
    read.apply(other)
    assert_holds(other, copied_tensors(model))
    read.revert(model)
    assert_holds(model, before)
    assert not few_steps(model, FORGET, REMAIN, undo=False).reversible


def test_the_same_seed_gives_the_same_bits() -> None:
    """Also where the loader shuffles; whatever the random state is, which stays as it is."""
    found = set()
    for state in range(2):
        torch.manual_seed(state)
        loader = DataLoader(TensorDataset(*MEMBERS), batch_size=50, shuffle=True)
        with edits_values_only(model := learner()):
            few_steps(model, FORGET, loader, attacks=attacks())
        found.add(tuple(value.sum().item() for value in copied_tensors(model).values()))
    assert len(found) == 1


def test_only_the_named_parameters_move() -> None:
    model = learner()
    before = copied_tensors(model)
    model[4].weight.requires_grad_(requires_grad=False)
    receipt = few_steps(model, FORGET, REMAIN, attacks=attacks(), parameters=["4.weight", "0.bias"])
    assert set(receipt.edits) == {"4.weight", "0.bias"}
    receipt.revert(model)
    assert_holds(model, before)


def test_tied_parameters() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE), nn.Linear(SIZE, CLASSES)
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.two(torch.tanh(self.one(x)))))

    torch.manual_seed(0)
    model = Tied().eval()
    receipt = few_steps(model, FORGET, REMAIN, order=2)
    assert model.one.weight is model.two.weight
    assert "one.weight" in receipt.edits
    assert "two.weight" not in receipt.edits


def test_a_compiled_model_is_that_behind_it() -> None:
    model, plain = learner(), learner()
    few_steps(torch.compile(model, backend="eager"), FORGET, REMAIN)  # type: ignore[arg-type]
    few_steps(plain, FORGET, REMAIN)
    assert_holds(model, copied_tensors(plain))


def test_callbacks_see_every_step_and_can_end_it() -> None:
    seen: list[tuple[int, dict[str, float]]] = []

    def callback(number: int, losses: dict[str, float]) -> bool:
        seen.append((number, losses))
        return number == 3

    receipt = learn_to_unlearn(learner(), FORGET, REMAIN, attacks=attacks(), callback=callback)
    assert [number for number, _ in seen] == [1, 2, 3]
    assert receipt.evidence["steps"] == 3
    for name in ("remember_tune", "remember_test", "forget_tune", "forget_test"):
        assert receipt.evidence[f"{name}_first"] == seen[0][1][name]
        assert receipt.evidence[f"{name}_last"] == seen[2][1][name]


def test_a_floor_ends_it_in_time() -> None:
    inputs, targets = FRESH
    given = (inputs, targets)
    model, free = learner(), learner()
    known = accuracy(model, [given])
    harsh: dict[str, Any] = {"attacks": attacks(), "target": "zero", "optimizer": ADAM, "steps": 30}
    learn_to_unlearn(free, FORGET, REMAIN[:1], **harsh)
    limit = (known + accuracy(free, [given])) / 2
    assert limit < known - 0.02
    receipt = learn_to_unlearn(model, FORGET, REMAIN[:1], floor=(inputs, targets, limit), **harsh)
    assert accuracy(model, [given]) >= limit
    assert 1 <= receipt.evidence["steps"] < 30
    again = learner()
    learn_to_unlearn(again, FORGET, REMAIN[:1], **{**harsh, "steps": int(receipt.evidence["steps"])})
    assert_holds(again, copied_tensors(model))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_a_floor_of_other_integers(dtype: torch.dtype) -> None:
    inputs, targets = FRESH
    found = []
    for given in (targets, targets.to(dtype)):
        model = learner()
        limit = accuracy(model, [FRESH]) - 0.05
        harsh: dict[str, Any] = {"attacks": attacks(), "target": "zero", "optimizer": ADAM, "steps": 30}
        receipt = learn_to_unlearn(model, FORGET, REMAIN[:1], floor=(inputs, given, limit), **harsh)
        found.append((receipt.after, receipt.evidence["steps"]))
    assert found[0] == found[1]


def test_under_no_grad() -> None:
    model, other = learner(), learner()
    with torch.no_grad():
        few_steps(model, FORGET, REMAIN)
    few_steps(other, FORGET, REMAIN)
    assert_holds(model, copied_tensors(other))


def test_what_can_be_gone_through_once_is_kept() -> None:
    model, other = learner(), learner()
    learn_to_unlearn(model, iter(FORGET), (batch for batch in REMAIN), steps=12)
    learn_to_unlearn(other, FORGET, REMAIN, steps=12)
    for name, value in copied_tensors(model).items():
        assert_same_bits(value, copied_tensors(other)[name])
