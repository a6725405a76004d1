"""Membership models: what they find, their gradient, their files, and every refusal."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from asserts import assert_same_bits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from known_codes import assert_holds, copied_tensors
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from fastforget.membership.area import area_under_curve
from fastforget.membership.model import FEATURES, MembershipModel
from fastforget.membership.training import train_membership_model

CLASSES, SIZE = 4, 30
Batches = list[tuple[Tensor, Tensor]]


def noise(samples: int, seed: int) -> Batches:
    """Random classes: whoever gets them right has them by heart."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(samples, SIZE, generator=generator), torch.randint(CLASSES, (samples,), generator=generator)
    return list(zip(x.split(50), y.split(50), strict=True))


def learner(members: Batches | None, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(SIZE, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, CLASSES)
    )
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(20 if members else 0):
        for x, y in members or []:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval()


MEMBERS, OTHERS, FRESH = noise(300, 1), noise(300, 2), noise(300, 3)
LEARNER = learner(MEMBERS)


def scores(attack: MembershipModel, batches: Batches, model: nn.Module = LEARNER) -> Tensor:
    with torch.no_grad():
        return torch.cat([attack(model(x), y) for x, y in batches])


@pytest.mark.parametrize("hidden", [(), (16,), (16, 16)])
@pytest.mark.parametrize("features", FEATURES)
def test_it_finds_what_was_learnt_by_heart(features: str, hidden: tuple[int, ...]) -> None:
    before = copied_tensors(LEARNER)
    attack = train_membership_model(LEARNER, MEMBERS, OTHERS, features=features, hidden=hidden)
    assert_holds(LEARNER, before)
    assert not LEARNER.training
    found = area_under_curve(scores(attack, MEMBERS), scores(attack, FRESH))
    # confidences do not show which class is the right one, and a linear model cannot look up the logit of a class
    assert found > {"loss": 0.9, "logits": 0.9 if hidden else 0.53, "confidences": 0.75}[features]
    assert attack.area == pytest.approx(found, abs=0.1)
    assert attack.unseen == pytest.approx(scores(attack, FRESH).sigmoid().mean().item(), abs=0.1)
    assert attack.unseen < scores(attack, MEMBERS).sigmoid().mean()
    assert not attack.training
    assert not any(parameter.requires_grad for parameter in attack.parameters())
    assert len([layer for layer in attack.network if isinstance(layer, nn.Linear)]) == len(hidden) + 1


@pytest.mark.parametrize("features", FEATURES)
def test_it_finds_nothing_where_there_is_nothing(features: str) -> None:
    """Within four standard deviations of the area for as many random scores."""
    stranger = learner(None)
    attack = train_membership_model(stranger, MEMBERS, OTHERS, features=features, hidden=())
    found = area_under_curve(scores(attack, noise(300, 8), stranger), scores(attack, noise(300, 9), stranger))
    assert abs(found - 0.5) < 4 * math.sqrt((2 * 300 + 1) / (12 * 300 * 300))


@pytest.mark.parametrize("features", FEATURES)
def test_its_gradient(features: str) -> None:
    attack = train_membership_model(LEARNER, MEMBERS, OTHERS, features=features).double()
    logits = 3 * torch.randn(5, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 3, 0])
    assert torch.autograd.gradcheck(lambda z: attack(z, targets), logits.requires_grad_())
    attack(logits, targets).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in attack.parameters())


@pytest.mark.parametrize("features", FEATURES)
def test_extreme_logits_are_scored(features: str) -> None:
    attack = train_membership_model(LEARNER, MEMBERS, OTHERS, features=features)
    logits = torch.tensor([[1e4, -1e4, 0.0, 0.0], [-1e4, 1e4, 0.0, 0.0]], requires_grad=True)
    found = attack(logits, torch.tensor([0, 0]))
    assert found.isfinite().all()
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert gradient.isfinite().all()


def test_the_seed_decides_and_nothing_else_is_drawn_from() -> None:
    state = torch.get_rng_state()
    first, again, other = (train_membership_model(LEARNER, MEMBERS, OTHERS, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in first.state_dict().items():
        assert_same_bits(value, again.state_dict()[name])
    assert first.area == again.area
    assert not torch.equal(first.network[0].weight, other.network[0].weight)


def test_modes_come_back() -> None:
    model = copy.deepcopy(LEARNER)
    model[1].train()
    train_membership_model(model, iter(MEMBERS), iter(OTHERS), epochs=1)
    assert [module.training for module in model] == [False, True, False, False, False]
    assert not model.training
    assert_holds(model, copied_tensors(LEARNER))


def test_a_classifier_in_double_precision() -> None:
    double = copy.deepcopy(LEARNER).double()
    sides = [[(x.double(), y) for x, y in side] for side in (MEMBERS, OTHERS)]
    attack = train_membership_model(double, *sides, epochs=2)
    assert {value.dtype for value in attack.state_dict().values()} == {torch.float64}


# The area under the curve


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=20), st.lists(st.integers(-3, 3), min_size=1, max_size=20))
def test_the_area_is_scikit_learns(members: list[int], others: list[int]) -> None:
    found = area_under_curve(torch.tensor(members).float(), torch.tensor(others).float())
    assert found == pytest.approx(roc_auc_score([1] * len(members) + [0] * len(others), members + others))


@pytest.mark.parametrize(("members", "others"), [([], [1.0]), ([1.0], []), ([math.nan], [1.0]), ([1.0], [math.nan])])
def test_no_area(members: list[float], others: list[float]) -> None:
    with pytest.raises(ValueError, match=r"^`(members|others)` must hold scores, not NaN, got shape \([01],\)$"):
        area_under_curve(torch.tensor(members), torch.tensor(others))


# Files


@pytest.mark.parametrize("features", FEATURES)
def test_saved_and_loaded(features: str, tmp_path: Path) -> None:
    attack = train_membership_model(LEARNER, MEMBERS, OTHERS, features=features, hidden=(8, 8), epochs=2)
    attack.save(tmp_path / "attack")
    state = torch.get_rng_state()
    again = MembershipModel.load(tmp_path / "attack")
    assert torch.equal(torch.get_rng_state(), state)
    assert (again.features, again.hidden) == (features, (8, 8))
    assert (again.area, again.unseen) == (attack.area, attack.unseen)
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert_same_bits(scores(again, FRESH), scores(attack, FRESH))


def test_an_untrained_one_is_saved_and_loaded(tmp_path: Path) -> None:
    MembershipModel("loss", 3).save(tmp_path / "attack")
    assert math.isnan(MembershipModel.load(tmp_path / "attack").area)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_refused(data: st.DataObject, tmp_path: Path) -> None:
    MembershipModel("confidences", 3, (2,)).save(tmp_path / "good")
    content = bytearray((tmp_path / "good").read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    (tmp_path / "bad").write_bytes(content[: data.draw(st.sampled_from([len(content), position]))])
    with pytest.raises(ValueError, match="does not hold a usable membership model: "):
        MembershipModel.load(tmp_path / "bad")


@pytest.mark.parametrize(
    ("description", "change", "text"),
    [
        ({"features": "gradient"}, {}, "`features` must be one of"),
        ({"classes": 1}, {}, "`classes` must be at least 2, got 1"),
        ({"classes": 2**40}, {}, "the header's `classes` must be a number of classes"),
        ({"hidden": [0]}, {}, "`hidden` must be at least 1, got 0"),
        ({"hidden": [3]}, {}, "it must hold tensors of the shapes"),
        ({"hidden": 4}, {}, "the header's `hidden` must be a list of widths"),
        ({"area": "high"}, {}, "the header's `area` must be a number"),
        ({"more": 1}, {}, "must have the fields"),
        ({}, {"mean": torch.zeros(3)}, "it must hold tensors of the shapes"),
        ({}, {"mean": torch.zeros(2, dtype=torch.int64)}, "its tensors must all be float32 or all float64"),
        ({}, {"mean": torch.full((2,), math.nan)}, "its tensors must be finite"),
    ],
)
def test_files_of_strangers(description: dict[str, Any], change: dict[str, Tensor], text: str, tmp_path: Path) -> None:
    from fastforget.files import membership_file

    good = {"features": "loss", "classes": 3, "hidden": [2], "area": 0.5, "unseen": 0.4}
    state = MembershipModel("loss", 3, (2,)).state_dict()
    membership_file.write(tmp_path / "attack", good | description, state | change)
    with pytest.raises(ValueError, match="usable membership model") as caught:
        MembershipModel.load(tmp_path / "attack")
    assert text in str(caught.value)


# Bad input


def one_batch(x: Tensor, y: Tensor) -> Batches:
    return [(x, y)]


X, Y = torch.randn(20, SIZE), torch.arange(20) % CLASSES


@pytest.mark.parametrize(
    ("members", "settings", "error", "text"),
    [
        ([], {}, ValueError, r"^`members` must hold at least one batch, got none$"),
        (one_batch(X[:9], Y[:9]), {}, ValueError, r"^`members` must hold at least 10 samples, got 9$"),
        (one_batch(X, Y[:9]), {}, ValueError, r"^`targets` must have the batch size \(20,\) first"),
        (one_batch(X, Y + 1), {}, ValueError, r"^targets of `members` must be in \[0, 4\), got values from 1 to 4$"),
        (
            one_batch(X, Y.float()),
            {},
            TypeError,
            r"^targets of `members` must be torch\.int64 \[N\], got torch\.float32 \(20,\)$",
        ),
        (one_batch(X * math.inf, Y), {}, ValueError, "^models must return finite logits on `members`"),
        (
            MEMBERS,
            {"features": "gradient"},
            ValueError,
            "^`features` must be one of 'logits', 'confidences', 'loss', got 'gradient'$",
        ),
        (MEMBERS, {"hidden": (0,)}, ValueError, "^each width of `hidden` must be at least 1, got 0$"),
        (MEMBERS, {"hidden": (2.5,)}, TypeError, "^each width of `hidden` must be an integer, got float$"),
        (MEMBERS, {"epochs": 0}, ValueError, "^`epochs` must be at least 1, got 0$"),
        (MEMBERS, {"epochs": 1.5}, TypeError, "^`epochs` must be an integer, got float$"),
        (MEMBERS, {"lr": "0.1"}, TypeError, "^`lr` must be a number, got str$"),
        (MEMBERS, {"lr": math.nan}, ValueError, r"^`lr` must lie in \(0, inf\), got nan$"),
    ],
)
def test_refused(members: Batches, settings: dict[str, Any], error: type[Exception], text: str) -> None:
    before = copied_tensors(LEARNER)
    with pytest.raises(error, match=text):
        train_membership_model(LEARNER, members, OTHERS, **settings)
    assert_holds(LEARNER, before)


def test_logits_of_another_shape() -> None:
    attack = MembershipModel("loss", 3)
    for shape, count in (((2, 4), 2), ((2,), 2), ((2, 3), 3)):
        with pytest.raises(ValueError, match=r"^`logits` must be \[N, 3\] with as many `targets`, got shapes "):
            attack(torch.zeros(shape), torch.zeros(count, dtype=torch.int64))


def test_what_is_no_classifier() -> None:
    with pytest.raises(TypeError, match=r"^`model` must be a torch\.nn\.Module, got str$"):
        train_membership_model("model", MEMBERS, OTHERS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^models must return logits \[N, C\], got shape \(300, 2, 15\)$"):
        train_membership_model(nn.Unflatten(1, (2, 15)), MEMBERS, OTHERS)
