"""Learning to Unlearn: what it does, that it repeats, goes on, comes back, and every refusal."""

import math
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from asserts import assert_same_bits
from known_codes import assert_holds, contents, edits_values_only, refused
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
    batches,
    caught,
    learner,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler, TensorDataset

from fastforget import ForgettingError, Receipt, learn_to_unlearn
from fastforget.files import checkpoint_file
from fastforget.membership import MembershipModel, train_membership_model


@cache
def attacks(count: int = 3) -> tuple[MembershipModel, ...]:
    names = ("loss", "confidences", "logits")
    return tuple(
        train_membership_model(learner(), batches(MEMBERS), batches(OTHERS), features=name, hidden=(16,), seed=seed)
        for seed, name in enumerate(names[:count])
    )


ADAM = partial(torch.optim.Adam, lr=3e-3)
few_steps = partial(learn_to_unlearn, steps=4)


# What it is for


@pytest.mark.parametrize("share", [1.0, 0.3, 0.1])
def test_random_samples(share: float) -> None:
    """They look to an attack as unseen ones do, and no longer as members; what remains is still known."""
    model = learner()
    rows = (~RANDOM).nonzero().squeeze(1)
    rows = rows[: round(share * len(rows))]
    before = accuracy(model, REMAIN), caught(model, FORGET, batches(FRESH)), accuracy(model, batches(FRESH))
    learn_to_unlearn(model, FORGET, batches(MEMBERS, rows), attacks=attacks(), steps=80, lr=0.003)
    assert before[1] > 0.75
    assert abs(caught(model, FORGET, batches(FRESH)) - 0.5) < 0.1
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
    assert caught(model, FORGET, batches(FRESH)) > 0.75
    given = attacks() if with_attacks else ()
    receipt = learn_to_unlearn(model, FORGET, remain, unseen=batches(OTHERS), attacks=given)
    assert {receipt.settings[name] for name in ("support", "target")} == {"counterfactual"}
    assert abs(accuracy(model, FORGET) - before[1]) < 0.1
    assert abs(caught(model, FORGET, batches(FRESH)) - 0.5) < 0.07
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
        found[target] = caught(model, FORGET, batches(FRESH))
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
    before = contents(model)
    with edits_values_only(model):
        receipt = few_steps(model, FORGET, REMAIN, attacks=attacks(), optimizer=optimizer)
    assert (receipt.rule, receipt.classes, receipt.evidence["steps"]) == ("learn_to_unlearn", (), 4)
    assert receipt.settings["support"] == "random"
    assert set(receipt.edits) == {name for name, _ in model.named_parameters()}
    receipt.save(tmp_path / "receipt")
    read = Receipt.load(tmp_path / "receipt")
    read.apply(other)
    assert_holds(other, contents(model))
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
        found.add(tuple(value.sum().item() for value in contents(model).values()))
    assert len(found) == 1


def test_only_the_named_parameters_move() -> None:
    model = learner()
    before = contents(model)
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
    assert_holds(model, contents(plain))


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
    assert_holds(again, contents(model))


# Going on


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
    before, file = contents(model), tmp_path / "work"
    with pytest.raises(Interrupted):
        work(model, checkpoint=file, callback=interrupt(at))
    assert_holds(model, before)
    assert file.exists()
    torch.manual_seed(123)
    receipt = work(model, checkpoint=file)
    assert_holds(model, contents(straight))
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
    assert_holds(model, contents(straight))


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
    assert_holds(model, contents(straight))


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


# Refusals

X, Y = FORGET[0]


def of_other_classes() -> MembershipModel:
    found = MembershipModel("loss", 7)
    found.unseen = 0.5
    return found


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"forget": []}, ValueError, "^`forget` must hold at least one batch"),
    ({"remain": []}, ValueError, "^`remain` must hold at least one batch"),
    ({"remain": iter(())}, ValueError, "^`remain` must hold at least one batch"),
    ({"forget": REMAIN}, ValueError, "^`forget` and `remain` must not be the same object"),
    ({"forget": [(X, Y + CLASSES)]}, ValueError, r"^targets of `forget` must be in \[0, 4\), got values from 4"),
    ({"remain": [(X, Y - 9)]}, ValueError, r"^targets of `remain` must be in \[0, 4\)"),
    ({"remain": [(X, Y.float())]}, TypeError, "^targets of `remain` must be torch.int64, got torch.float32"),
    ({"remain": [(X, 3)]}, TypeError, "^targets of `remain` must be torch.int64, got int"),
    ({"remain": [(X, Y[:3])]}, ValueError, "^`targets` must have the batch size"),
    ({"forget": [(X * math.nan, Y)]}, ValueError, "^`model` must return finite logits on `forget`"),
    ({"remain": [*REMAIN, (X * math.nan, Y)], "steps": 20}, ValueError, "^the losses must stay finite"),
    ({"unseen": []}, ValueError, "^`unseen` must hold at least one batch"),
    ({"unseen": [(X, Y + CLASSES)]}, ValueError, r"^targets of `unseen` must be in \[0, 4\)"),
    ({"unseen": [(X[Y != 1], Y[Y != 1])]}, ValueError, "^`unseen` must hold samples of every class .* got none of 1$"),
    ({"support": "counterfactual"}, ValueError, "^`unseen` must hold samples of every class"),
    ({"target": "counterfactual"}, ValueError, "^`unseen` must hold samples of every class"),
    ({"lr": 1e30}, ValueError, "must stay finite"),
    ({"steps": 0}, ValueError, "^`steps` must be positive, got 0"),
    ({"steps": 2.0}, TypeError, "^`steps` must be an integer, got 2.0"),
    ({"every": 0}, ValueError, "^`every` must be positive"),
    ({"queries": 0}, ValueError, "^`queries` must be positive"),
    ({"seed": -1}, ValueError, "^`seed` must be at least 0"),
    ({"lr": math.nan}, ValueError, "^`lr` must be positive, got nan"),
    ({"trial": -1}, ValueError, "^`trial` must be positive"),
    ({"weight": math.inf}, ValueError, "^`weight` must be at least 0"),
    ({"tune": -1}, ValueError, "^`tune` must be at least 0"),
    ({"target": 0}, ValueError, "^`target` must be one of"),
    ({"lr": "0.1"}, TypeError, "^`lr` must be a number"),
    ({"meta": 1}, TypeError, "^`meta` must be a bool"),
    ({"order": 3}, ValueError, r"^`order` must be one of \[1, 2\], got 3"),
    ({"support": "noise"}, ValueError, "^`support` must be one of"),
    ({"project": "all"}, ValueError, "^`project` must be one of"),
    ({"scope": "layer"}, ValueError, "^`scope` must be one of"),
    ({"attacks": [nn.Linear(1, 1)]}, TypeError, "^`attacks` must be membership models, got Linear"),
    ({"attacks": [of_other_classes().to("meta")]}, ValueError, "^`attacks` must be on the model's device"),
    ({"attacks": [MembershipModel("loss", 4)]}, ValueError, "^`attacks` must be trained, got one that says nan"),
    ({"attacks": [of_other_classes()]}, ValueError, r"^`logits` must be \[N, 7\]"),
    ({"checkpoint": "/nowhere/at/all/file"}, ValueError, "^`checkpoint` must be in a folder that is there"),
    ({"optimizer": lambda _: None}, TypeError, "^`optimizer` must return a torch.optim.Optimizer"),
    ({"parameters": ["5.weight"]}, ValueError, "^`parameters` must name parameters"),
    ({"floor": 0.5}, TypeError, "^`floor` must be"),
    ({"floor": (X, Y, 1.5)}, ValueError, "^the accuracy of `floor` must lie in"),
    ({"floor": (X, Y, "1")}, TypeError, "^the accuracy of `floor` must be a number"),
    ({"floor": (X, Y.float(), 0.5)}, TypeError, "^the targets of `floor`"),
    ({"floor": (X, (Y + 1) % CLASSES, 0.9)}, ValueError, "^`floor` must be at most the accuracy before"),
    ({"floor": (X, Y, 0.99), "lr": 10.0}, ForgettingError, "^the first step falls below the floor already"),
]


@pytest.mark.parametrize(("change", "error", "text"), REFUSED)
def test_refused(change: dict[str, Any], error: type[Exception], text: str) -> None:
    given = {"forget": FORGET, "remain": REMAIN, "steps": 3, **change}
    model = learner()
    with refused(model, error, text):
        learn_to_unlearn(model, **given)


def test_a_model_in_train_mode() -> None:
    model = learner()
    model[3].train()
    with refused(model, ValueError, "^`model` must be in eval mode"):
        learn_to_unlearn(model, FORGET, REMAIN)


def test_samples_on_both_sides_are_found() -> None:
    data = TensorDataset(*MEMBERS)
    forget, remain = Subset(data, range(50)), Subset(Subset(data, range(20, 400)), range(40))
    model = learner()
    with refused(model, ValueError, "^`forget` and `remain` must have no samples in common, got 30, for instance 20$"):
        few_steps(model, DataLoader(forget, 10), DataLoader(remain, 10))
    few_steps(model, DataLoader(forget, 10), DataLoader(Subset(data, range(50, 400)), 10))
    few_steps(model, DataLoader(forget, 10), DataLoader(TensorDataset(*OTHERS), 10))
    loaders = [
        DataLoader(data, 10, sampler=SubsetRandomSampler(range(*ends))) for ends in ((0, 50), (50, 400), (49, 99))
    ]
    few_steps(model, *loaders[:2])
    with refused(model, ValueError, "^`forget` and `remain` must have no samples in common, got 1, for instance 49$"):
        few_steps(model, loaders[0], loaders[2])
    few_steps(model, loaders[0], DataLoader(data, batch_sampler=[[0, 1]]))  # nobody can say


def test_under_no_grad() -> None:
    model, other = learner(), learner()
    with torch.no_grad():
        few_steps(model, FORGET, REMAIN)
    few_steps(other, FORGET, REMAIN)
    assert_holds(model, contents(other))


def test_what_can_be_gone_through_once_is_kept() -> None:
    model, other = learner(), learner()
    learn_to_unlearn(model, iter(FORGET), (batch for batch in REMAIN), steps=12)
    learn_to_unlearn(other, FORGET, REMAIN, steps=12)
    for name, value in contents(model).items():
        assert_same_bits(value, contents(other)[name])
