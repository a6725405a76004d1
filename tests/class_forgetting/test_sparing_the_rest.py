"""The step moves few parameters, and no further than the remaining codes can bear."""

import copy
import itertools
from typing import Any

import pytest
import torch
from class_forgetting.one_shot_cases import FREE, accuracies, logits
from known_codes import CLASSES, convnet, digits, mlp, model_with_codes, refused
from torch import Tensor, nn

from fastforget import ForgettingError, MnemonicCodes, ShallowForgettingWarning, fisher_diagonal, one_shot
from fastforget.class_forgetting.code_batch import CodeBatch
from fastforget.class_forgetting.stage import Stage
from fastforget.classifier.losses import log_odds
from fastforget.classifier.parameters import without_embedding_tables


class Texts(nn.Module):
    """Two tables, one of which is the weight of a layer as well."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.tied = nn.Embedding(50, 16), nn.EmbeddingBag(50, 16)
        self.back, self.head = nn.Linear(16, 50, bias=False), nn.Linear(66, CLASSES)
        self.back.weight = self.tied.weight

    def forward(self, x: Tensor) -> Tensor:
        features = torch.tanh(self.table(x).mean(1) + self.tied(x))
        return self.head(torch.cat([features, self.back(features)], 1))


def test_the_step_leaves_tables_of_embeddings_alone() -> None:
    model = Texts()
    assert set(without_embedding_tables(model, dict(model.named_parameters()))) == {
        "tied.weight",
        "head.weight",
        "head.bias",
    }
    table = nn.Sequential(nn.EmbeddingBag(50, CLASSES))  # nothing else to move
    assert set(without_embedding_tables(table, dict(table.named_parameters()))) == {"0.weight"}


def test_a_text_classifier_forgets_without_touching_its_words() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.EmbeddingBag(50, 16), nn.Tanh(), nn.Linear(16, CLASSES))
    codes = MnemonicCodes.from_tensors(torch.randint(50, (CLASSES, 2, 6)))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(codes.inputs), codes.labels).backward()
        optimizer.step()
    named = one_shot(
        copy.deepcopy(model.eval()), codes, 1, rho=0.3, parameters=[n for n, _ in model.named_parameters()]
    )
    assert "0.weight" in named.edits  # who names it means it
    receipt = one_shot(model, codes, 1, rho=0.3)
    assert set(receipt.edits) == {"2.weight", "2.bias"}
    assert receipt.evidence["forget_log_odds_after"] < 0
    found = model(codes.inputs).argmax(1)
    assert torch.equal(found == codes.labels, codes.labels != 1)


def test_a_step_goes_no_further_than_it_may() -> None:
    """In units of the step that leads to the depth to first order."""
    model, codes = model_with_codes()
    reaches = (0.05, 0.1, 1.0, 1.1, 1e6)
    short, twice, first, longer, free = (
        one_shot(copy.deepcopy(model), codes, 1, rho=0.01, widen=1, spill=FREE, reach=reach) for reach in reaches
    )
    assert free.evidence["forget_log_odds_after"] == pytest.approx(-6, abs=0.11)
    assert longer.alpha < free.alpha
    assert first.alpha == pytest.approx(10 * twice.alpha) == pytest.approx(20 * short.alpha)
    assert longer.alpha == pytest.approx(1.1 * first.alpha)
    kept = fisher_diagonal(model, codes.inputs, codes.labels, reduction="sum")
    for reach in (0.1, 1.1):  # nothing holds a step back where the remaining codes are not run
        alone = one_shot(copy.deepcopy(model), codes, 1, rho=0.01, widen=1, reach=reach, fisher=kept)
        assert alone.alpha == pytest.approx(min(reach, 1.0) * first.alpha, rel=1e-3)
    with refused(
        model, ForgettingError, "^no step within reach forgets the codes and spares the remaining ones; another"
    ):
        one_shot(model, codes, 1, rho=0.01, widen=1, spill=FREE, reach=0.1, output_row=False)


def test_shortening_looks_at_the_worst_code_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same step in the end as if all were run each time."""
    model, codes, _ = digits()
    found, sizes = [], list[int]()
    outputs = Stage.outputs

    def counted(stage: Stage, inputs: Any, **settings: bool) -> Tensor:
        sizes.append(len(inputs))
        return outputs(stage, inputs, **settings)

    monkeypatch.setattr(Stage, "outputs", counted)
    for every in (False, True):
        if every:
            monkeypatch.setattr(CodeBatch, "with_one_remaining", lambda batch, _: batch)
        del sizes[:]
        receipts = [one_shot(copy.deepcopy(model), codes, cls, spill=0.2) for cls in (0, 1, 9)]
        found.append(([(receipt.after, receipt.alpha) for receipt in receipts], sum(sizes)))
    assert found[0][0] == found[1][0]
    assert found[0][1] < 0.8 * found[1][1]


@pytest.mark.parametrize("held_back_by", [{"spill": 1.0}, {"reach": 1.0, "spill": FREE}])
def test_more_parameters_move_where_few_do_not_suffice(held_back_by: dict[str, float]) -> None:
    """They are worth a nat, within the same bounds; otherwise nothing changes.

    Of how many classes depends on the network, whose training gives other bits on other processors: of nearly all where
    very few move, of nearly none where many do.
    """
    model, codes, _ = digits()
    widened = 0
    for cls, share in itertools.product(range(5), (0.001, 0.01)):
        few, many, either = (
            one_shot(copy.deepcopy(model), codes, cls, rho=rho, widen=widen, **held_back_by)
            for rho, widen in ((share, 1), (3 * share, 1), (share, 3))
        )
        short, long = (receipt.evidence["forget_log_odds_after"] for receipt in (few, many))
        wider = short > -5 and long < short - 1
        assert either.after == (many if wider else few).after
        assert either.evidence["remain_log_odds_lost"] <= held_back_by["spill"] + 1e-6
        widened += wider
    assert 2 <= widened <= 8


def test_a_floor_below_what_was_can_always_be_held() -> None:
    """However much the step costs, it is shortened to nothing if need be; the class stays silent."""
    original, codes, data = digits()
    model, rest = copy.deepcopy(original), data.y_test != 8
    floor = (data.x_test[rest], data.y_test[rest], accuracies(original, data, [8])[1] - 0.003)
    full = one_shot(model, codes, 8, rho=0.3, depth=60.0, spill=FREE)
    assert accuracies(model, data, [8])[1] < floor[2]  # there is something to hold
    full.revert(model)
    receipt = one_shot(model, codes, 8, rho=0.3, depth=60.0, spill=FREE, floor=floor)
    assert receipt.alpha < full.alpha
    forget, remain = accuracies(model, data, [8])
    assert forget == 0
    assert remain >= floor[2]


@pytest.mark.parametrize("spill", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("build", [mlp, convnet])
def test_no_remaining_code_loses_more(build: Any, spill: float) -> None:
    model, codes = model_with_codes(build)
    before = log_odds(logits(model, codes), codes.labels)
    free = one_shot(copy.deepcopy(model), codes, 2, rho=0.5, depth=60.0, spill=FREE)
    receipt = one_shot(model, codes, 2, rho=0.5, depth=60.0, spill=spill)
    rest = codes.labels != 2
    among = logits(model, codes)[rest].index_fill(1, torch.tensor(2), -torch.inf)
    lost = (before[rest] - log_odds(among, codes.labels[rest])).max().item()
    assert lost <= spill + 1e-4
    assert receipt.evidence["remain_log_odds_lost"] == pytest.approx(lost, abs=1e-4)
    assert receipt.alpha < free.alpha  # the bound was what held it
    assert bool((logits(model, codes).argmax(1) != 2).all())


class OneScale(nn.Module):
    """What makes one class less likely makes every class less likely."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


def test_too_little_to_forget_anything() -> None:
    model = OneScale().eval()
    with refused(model, ForgettingError, "^no step within reach forgets the codes and spares the remaining ones"):
        one_shot(model, 3 * torch.eye(3), 1, rho=1.0)
    text = "^the class is not disconnected, because no parameter with a row for each class produces the logits by a"
    with pytest.warns(ShallowForgettingWarning, match=text):
        assert one_shot(model, 3 * torch.eye(3), 1, rho=1.0, spill=100.0).changed == 1
