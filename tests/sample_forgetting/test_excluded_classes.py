"""Classes to forget of which nothing remains: they end with the output rows of classes never seen."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_close, threads
from known_codes import assert_holds, copied_tensors, digits, edits_values_only, refused
from learners import CLASS, CLASSES, FORGET, FRESH, MEMBERS, OTHERS, REMAIN, REST, SIZE, accuracy, batches, learner
from sample_forgetting.calls import attacks, few_steps
from sample_forgetting.test_checkpoint import Interrupted, interrupt
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from fastforget import ForgettingError, Receipt, ShallowForgettingWarning, fingerprint, learn_to_unlearn
from fastforget.classifier.losses import log_odds
from fastforget.classifier.output_layer import OutputLayer
from fastforget.demo.data import Dataset
from fastforget.functional.output_row import Examined, unseen_rows
from fastforget.sample_forgetting.excluded import DrawnSamples, ExcludedClasses

CLS = 2
OTHER = [0, 1, 3]
FEW = REST[:5]  # so few that all of them are drawn
X, Y = (torch.cat([one[part] for one in (MEMBERS, OTHERS, FRESH)]) for part in (0, 1))


def hidden(model: nn.Module, given: list[tuple[Tensor, Tensor]]) -> Tensor:
    with torch.no_grad():
        return model[:4](torch.cat([x for x, _ in given])).double()


def predicted(model: nn.Module, x: Tensor = X) -> set[int]:
    with torch.no_grad():
        return set(model(x).argmax(1).tolist())


@pytest.mark.parametrize("settings", [{}, {"support": "random", "target": "zero"}, {"attacks": attacks()}])
def test_the_row_is_the_closed_form(settings: dict[str, Any]) -> None:
    """All else has the bits that it has without it. The bias of these samples starts at the mean of the others'."""
    model, left = learner(), learner()
    receipt = learn_to_unlearn(model, CLASS, FEW, **settings)
    learn_to_unlearn(left, CLASS, FEW, output_row=False, **settings)
    weight, bias = left[4].weight.detach().double(), left[4].bias.detach().double()
    others, own = (Examined(h, h @ weight[OTHER].T + bias[OTHER]) for h in (hidden(left, FEW), hidden(left, CLASS)))
    expected = unseen_rows(
        others,
        own,
        longest=max(weight[other].norm() for other in OTHER),
        constants=torch.zeros(1),
        bias=bias[OTHER].mean(),
    )
    assert expected.bias is not None
    assert_close(model[4].weight[CLS], expected.weight[0], 1e-4)
    assert_close(model[4].bias[CLS], expected.bias[0], 1e-4)
    assert not torch.allclose(model[4].weight[CLS], left[4].weight[CLS], rtol=0.1)
    with torch.no_grad():
        for parameter in ("weight", "bias"):
            getattr(left[4], parameter)[CLS] = getattr(model[4], parameter)[CLS]
    assert_holds(model, copied_tensors(left))
    x, y = (torch.cat(parts) for parts in zip(*CLASS, strict=True))
    depth = -log_odds(model(x).detach(), y).mean()
    assert receipt.evidence["output_depth"] == pytest.approx(float(depth), rel=1e-5)
    assert depth > 0.99 * expected.depth
    assert receipt.evidence["output_depth_goal"] == pytest.approx(float(expected.depth), rel=1e-5)


@pytest.mark.parametrize("depth", [4.0, 8.0])
def test_the_depth_is_that_asked_for(depth: float) -> None:
    receipt = few_steps(learner(), CLASS, REST, output_depth=depth)
    assert receipt.evidence["output_depth"] >= depth - 1e-3
    assert receipt.evidence["output_depth_goal"] == depth
    assert receipt.evidence["output_depth"] < few_steps(learner(), CLASS, REST).evidence["output_depth"]


@pytest.mark.parametrize("classes", [[1], [0, 2]])
@pytest.mark.parametrize("settings", [{}, {"support": "uniform", "target": "unseen", "attacks": attacks()}])
def test_the_classes_are_never_predicted(classes: list[int], settings: dict[str, Any]) -> None:
    """Not even after a few steps, which alone would not do; the others are as often right as without the row."""
    inside = torch.isin(MEMBERS[1], torch.tensor(classes))
    forget, remain = batches(MEMBERS, inside), batches(MEMBERS, ~inside)
    model, left = learner(), learner()
    receipt = few_steps(model, forget, remain, **settings)
    few_steps(left, forget, remain, output_row=False, **settings)
    assert set(classes) <= predicted(left)
    assert not set(classes) & predicted(model)
    assert accuracy(model, remain) >= accuracy(left, remain)
    assert receipt.evidence["disconnected"] == 1


NOBODY_LOOKS = {"support": "random", "target": "unseen"}  # for classes, as long as no row is to be set


@pytest.mark.parametrize("output_row", [None, False])
@pytest.mark.parametrize("settings", [{}, NOBODY_LOOKS, {**NOBODY_LOOKS, "attacks": attacks()}])
def test_the_receipt_names_them(settings: dict[str, Any], output_row: bool | None, tmp_path: Path) -> None:
    named = partial(few_steps, output_row=output_row, **settings)
    assert named(learner(), CLASS, REST).classes == (CLS,)
    inside = torch.isin(MEMBERS[1], torch.tensor([3, 0]))
    receipt = named(learner(), batches(MEMBERS, inside), batches(MEMBERS, ~inside))
    assert receipt.classes == (0, 3)
    assert receipt.evidence.get("disconnected") == (1.0 if output_row is None else None)
    receipt.save(tmp_path / "receipt")
    assert Receipt.load(tmp_path / "receipt").classes == (0, 3)
    some = (MEMBERS[1] == 0).nonzero().squeeze(1)[:10]
    chosen = (MEMBERS[1] == CLS).index_fill(0, some, value=True)  # of class 0 samples remain
    mixed = named(learner(), batches(MEMBERS, chosen), batches(MEMBERS, ~chosen), unseen=batches(OTHERS))
    assert mixed.classes == (CLS,)
    assert named(learner(), FORGET, REMAIN, unseen=batches(OTHERS)).classes == ()


def again(model: nn.Module, data: Dataset, cls: int, steps: int) -> float:
    """Train on ten images of each class, as who wants the class back would; return the accuracy on its test images."""
    scratch, rows = copy.deepcopy(model), torch.cat([(data.y_train == c).nonzero()[:10, 0] for c in range(10)])
    optimizer = torch.optim.SGD(scratch.parameters(), 0.01, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(scratch(data.x_train[rows]), data.y_train[rows]).backward()
        optimizer.step()
    return accuracy(scratch, [(data.x_test[data.y_test == cls], data.y_test[data.y_test == cls])])


@pytest.mark.parametrize("cls", [2, 5])
def test_a_few_samples_do_not_bring_it_back(cls: int) -> None:
    original, _, data = digits()
    inside = data.y_train == cls
    images = data.x_train, data.y_train
    found = {}
    for output_row in (None, False):
        model = copy.deepcopy(original)
        learn_to_unlearn(model, batches(images, inside), batches(images, ~inside), output_row=output_row, steps=20)
        found[output_row] = again(model, data, cls, 20)
    assert found[False] > 0.8
    assert found[None] < 0.1


def test_only_excluded_classes_get_one() -> None:
    """Samples of a class that remains are forgotten beside a whole class."""
    some = (MEMBERS[1] == 0).nonzero().squeeze(1)[:10]
    chosen = (MEMBERS[1] == CLS).index_fill(0, some, value=True)
    model, left = learner(), learner()
    mixed = partial(
        few_steps, forget=batches(MEMBERS, chosen), remain=batches(MEMBERS, ~chosen), unseen=batches(OTHERS)
    )
    mixed(model)
    mixed(left, output_row=False)
    assert predicted(model) == set(OTHER)
    with torch.no_grad():
        model[4].weight[CLS], model[4].bias[CLS] = left[4].weight[CLS], left[4].bias[CLS]
    assert_holds(model, copied_tensors(left))


@pytest.mark.parametrize("unseen", [None, batches(OTHERS)])
@pytest.mark.parametrize("settings", [{}, {"support": "random", "target": "zero", "attacks": attacks()}])
def test_samples_of_classes_that_remain(unseen: Any, settings: dict[str, Any]) -> None:
    """No class is excluded, so no row is set and nothing is said of any. A shuffled loader gives the same batches."""
    found = []
    for output_row in (None, False):
        loader = DataLoader(
            TensorDataset(*MEMBERS), batch_size=50, shuffle=True, generator=torch.Generator().manual_seed(3)
        )
        model = learner()
        receipt = few_steps(model, FORGET, loader, unseen=unseen, output_row=output_row, **settings)
        assert "disconnected" not in receipt.evidence
        assert (receipt.claims, receipt.outcome) == ((), "")
        found.append(receipt.after)
    assert found[0] == found[1]


# Care


def test_the_receipt_says_it_and_takes_it_back(tmp_path: Path) -> None:
    model, other = learner(), learner()
    before = copied_tensors(model)
    with edits_values_only(model):
        few_steps(model, CLASS, REST).save(tmp_path / "receipt")
    receipt = Receipt.load(tmp_path / "receipt")
    assert receipt.claims == ("disconnected",)
    assert receipt.outcome == f"disconnected, {receipt.evidence['output_depth']:.1f} nats deep"
    assert (receipt.settings["output_row"], receipt.settings["output_depth"]) == ("None", "None")
    receipt.apply(other)
    assert_holds(other, copied_tensors(model))
    receipt.revert(model)
    assert_holds(model, before)


def test_the_same_bits_with_more_threads() -> None:
    """Of the row: those of the steps depend on the number of threads."""
    found = []
    for count in (1, 2, 3):
        with threads(count):
            model = learner()
            moving = dict(model.named_parameters())
            excluded = ExcludedClasses.find(CLASS, DrawnSamples.draw(REST, 0), 0)
            layer = excluded.look_for_layer(model, moving)
            assert isinstance(layer, OutputLayer)
            excluded.set_rows(model, layer, moving, 12.0)
            found.append((fingerprint(model), excluded.depth(model, layer)))
    assert found[0] == found[1] == found[2]
    assert found[0][0] != fingerprint(learner())


@pytest.mark.parametrize("settings", [{}, {"support": "random", "target": "zero"}])
@pytest.mark.parametrize("at", [2, 5, 6])
def test_interrupted_work_goes_on_to_the_same_bits(settings: dict[str, Any], at: int, tmp_path: Path) -> None:
    """Also where only the row was missing."""
    data = TensorDataset(*MEMBERS)
    rows = [part.nonzero().squeeze(1).tolist() for part in (MEMBERS[1] == CLS, MEMBERS[1] != CLS)]
    forget, remain = (DataLoader(Subset(data, part), batch_size=25, shuffle=True) for part in rows)
    work = partial(learn_to_unlearn, forget=forget, remain=remain, steps=6, every=1, **settings)
    straight, model, file = learner(), learner(), tmp_path / "work"
    expected = work(straight)
    with pytest.raises(Interrupted):
        work(model, checkpoint=file, callback=interrupt(at))
    assert work(model, checkpoint=file).evidence == expected.evidence
    assert_holds(model, copied_tensors(straight))
    assert predicted(model) == set(OTHER)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"output_row": False}, "its `output_row` is 'None', not 'False'"),
        ({"output_depth": 5.0}, "its `output_depth` is 'None', not 5.0"),
    ],
)
def test_a_checkpoint_of_another_row(change: dict[str, Any], text: str, tmp_path: Path) -> None:
    model, file = learner(), tmp_path / "work"
    with pytest.raises(Interrupted):
        few_steps(model, CLASS, REST, checkpoint=file, every=1, callback=interrupt(2))
    with refused(model, ValueError, text):
        few_steps(model, CLASS, REST, checkpoint=file, **change)


def test_a_floor_that_holds() -> None:
    model, left = learner(), learner()
    validation = FRESH[0][FRESH[1] != CLS], FRESH[1][FRESH[1] != CLS]
    floor = (*validation, accuracy(learner(), [validation]) - 0.05)
    receipt = few_steps(model, CLASS, REST, floor=floor)
    few_steps(left, CLASS, REST)
    assert receipt.claims == ("disconnected",)
    assert_holds(model, copied_tensors(left))


def test_a_floor_takes_the_row_back() -> None:
    """Where its samples are of the class too, and the steps did not forget it yet."""
    model, left = learner(), learner()
    floor = (*FRESH, accuracy(model, [FRESH]) - 0.05)
    slow: dict[str, Any] = {"steps": 2, "lr": 1e-5, "floor": floor}
    with pytest.warns(ShallowForgettingWarning, match="not disconnected, because the accuracy would fall below the fl"):
        receipt = learn_to_unlearn(model, CLASS, REST, **slow)
    assert receipt.evidence["disconnected"] == 0
    assert receipt.outcome == "neither silenced nor disconnected"
    assert accuracy(model, [FRESH]) >= floor[2]
    learn_to_unlearn(left, CLASS, REST, output_row=False, **slow)
    assert_holds(model, copied_tensors(left))
    with refused(model, ForgettingError, "because the accuracy would fall below the floor; the model is unchanged$"):
        learn_to_unlearn(model, CLASS, REST, output_row=True, **slow)


# Other models


def test_a_bias_that_may_not_move_is_a_constant() -> None:
    model = learner()
    before = copied_tensors(model)
    receipt = learn_to_unlearn(model, CLASS, REST, parameters=["0.weight", "4.weight"])
    assert set(receipt.edits) == {"0.weight", "4.weight"}
    assert torch.equal(model[4].bias, before["4.bias"])
    assert receipt.evidence["output_depth"] >= receipt.evidence["output_depth_goal"] - 1e-3


class Keyed(nn.Module):
    """Takes names, a plain value among them, and has its logits at each of three positions."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv1d(SIZE, 16, 1), nn.Conv1d(16, CLASSES, 1)

    def forward(self, *, x: Tensor, sign: int) -> Tensor:
        return self.head(torch.tanh(self.body(sign * x[:, :, None].expand(-1, -1, 3)))).mean(2)


def test_inputs_of_any_structure_and_rows_of_a_convolution() -> None:
    torch.manual_seed(0)
    model = Keyed().eval()
    forget, remain = ([({"x": x, "sign": 1}, y) for x, y in part] for part in (CLASS, REST))
    receipt = learn_to_unlearn(model, forget, remain)
    assert receipt.claims == ("disconnected",)
    with torch.no_grad():
        assert CLS not in model(x=MEMBERS[0], sign=1).argmax(1)


# The samples


def test_few_samples_are_all_drawn_in_order() -> None:
    found = DrawnSamples.draw(FEW, seed=0)
    assert torch.equal(found.inputs, torch.cat([x for x, _ in FEW]))  # type: ignore[arg-type]
    assert (found.classes, found.size) == (set(OTHER), len(FEW[0][1]))
    assert DrawnSamples.draw(FEW, 0, without=OTHER).inputs is None


@pytest.mark.parametrize("order", ["sorted", "in turn"])
def test_many_samples_are_drawn_alike(order: str) -> None:
    """As many of each class as there are, whatever the order; each once, and others with another seed."""
    y = torch.arange(4096) % 4 if order == "in turn" else torch.arange(4096) // 1024
    x = torch.arange(4096)
    given = list(zip(x.split(64), y.split(64), strict=True))
    drawn = [DrawnSamples.draw(given, seed).inputs for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])  # type: ignore[arg-type]
    assert not torch.equal(drawn[0], drawn[2])  # type: ignore[arg-type]
    for one in drawn:
        assert isinstance(one, Tensor)
        assert len(one.unique()) == 256
        counts = torch.bincount(y[one])
        assert torch.all((counts - 64).abs() < 5 * (256 * 0.25 * 0.75) ** 0.5)
