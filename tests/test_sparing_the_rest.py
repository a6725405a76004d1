"""What keeps the rest whole: the output bias, the bound on what the others lose, classes and requests in turn."""

import copy
import itertools
from typing import Any

import pytest
import torch
from asserts import assert_close
from known_codes import CLASSES, assert_holds, contents, convnet, digits, edits_values_only, knowing, mlp, refused
from test_one_shot import FREE, RHO, accuracies
from torch import Tensor, nn

from fastforget import FisherDiagonal, ForgettingError, MnemonicCodes, fingerprint, fisher_diagonal, one_shot
from fastforget.forgetting.code_batch import CodeBatch
from fastforget.forgetting.staging import Stage
from fastforget.losses import log_odds
from fastforget.model import outside_tables


def logits(model: nn.Module, codes: MnemonicCodes) -> Tensor:
    with torch.no_grad():
        return model(codes.inputs)


# The output bias


class Scaled(nn.Module):
    """Divides its logits by a temperature; a norm of as many features as there are classes comes before them."""

    def __init__(self, inner: nn.Module, temperature: float) -> None:
        super().__init__()
        self.inner, self.norm, self.temperature = inner, nn.LayerNorm(CLASSES), temperature

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x - 0 * self.norm(x[:, :CLASSES]).sum()) / self.temperature


@pytest.mark.parametrize("temperature", [0.01, 0.5, 1.0, 1.9, 7.0])
def test_silence_moves_the_logit_of_its_class_alone(temperature: float) -> None:
    inner, codes = knowing()
    model = Scaled(inner, temperature).eval()
    stepped = copy.deepcopy(model)
    loud = one_shot(stepped, codes, 1, rho=RHO, silence=False, spill=FREE)
    quiet = one_shot(model, codes, 1, rho=RHO, spill=FREE)
    lowered = quiet.evidence["silenced_by"]
    difference = logits(stepped, codes) - logits(model, codes)
    assert loud.evidence["silenced_by"] == 0 < lowered
    assert_close(difference[:, 1], torch.full_like(difference[:, 1], lowered), 1e-5)
    assert difference.std(0).max() < 1e-6 * lowered  # of every class by the same amount for all inputs
    rounding = 2**-22 * float(logits(model, codes).abs().max())  # up to 16,000 nats were lowered
    odds = (receipt.evidence["forget_log_odds_after"] for receipt in (quiet, loud))
    assert next(odds) == pytest.approx(next(odds), abs=rounding)
    assert "inner.2.bias" in quiet.edits
    with torch.no_grad():
        assert bool((model(10 * torch.randn(1000, 6)).argmax(1) != 1).all())


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
    assert set(outside_tables(model, dict(model.named_parameters()))) == {"tied.weight", "head.weight", "head.bias"}
    table = nn.Sequential(nn.EmbeddingBag(50, CLASSES))  # nothing else to move
    assert set(outside_tables(table, dict(table.named_parameters()))) == {"0.weight"}


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
    model, codes = knowing()
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
        one_shot(model, codes, 1, rho=0.01, widen=1, spill=FREE, reach=0.1, silence=False)


def test_shortening_looks_at_the_worst_code_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same step in the end as if all were run each time."""
    model, codes, _ = digits()
    found, sizes = [], list[int]()
    outputs = Stage.outputs

    def counted(stage: Stage, inputs: Any) -> Tensor:
        sizes.append(len(inputs))
        return outputs(stage, inputs)

    monkeypatch.setattr(Stage, "outputs", counted)
    for every in (False, True):
        if every:
            monkeypatch.setattr(CodeBatch, "with_other", lambda batch, _: batch)
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


@pytest.mark.parametrize("build", [mlp, convnet])
def test_the_biases_make_up_for_the_step(build: Any) -> None:
    """On average over the remaining codes, each remaining class has the logit that it had, but for one constant."""
    model, codes = knowing(build)
    loud, before = copy.deepcopy(model), logits(model, codes)
    one_shot(loud, codes, 1, rho=0.3, silence=False, spill=1.0)
    one_shot(model, codes, 1, rho=0.3, spill=1.0)
    rest = [0, 2, 3]

    def shifts(one: nn.Module) -> Tensor:
        return (logits(one, codes) - before)[codes.labels != 1][:, rest].mean(0)

    assert shifts(loud).std() > 0.01
    assert shifts(model).std() < 1e-4
    assert_close(shifts(model).mean(), shifts(loud).mean(), 1e-3)


def test_every_other_class_keeps_its_lead() -> None:
    """Where nothing but the output bias moves, no prediction among the others changes."""
    original, codes, data = digits()
    model = copy.deepcopy(original)
    assert set(one_shot(model, codes, 4, parameters=["8.bias"], rho=0.1).edits) == {"8.bias"}
    with torch.no_grad():
        before, after = original(data.x_test), model(data.x_test)
    before[:, 4] = -torch.inf
    assert torch.equal(before.argmax(1), after.argmax(1))


class Mixed(nn.Module):
    """Has a parameter of one element per class that moves every logit."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.shift = inner, nn.Parameter(torch.zeros(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.shift + self.shift.flip(0) / 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_moves_other_logits_too_is_no_output_bias(dtype: torch.dtype) -> None:
    """Also where few digits would hide it: a sixth of the change counts."""
    inner, codes = knowing()
    inner[2].bias = None
    model = Mixed(inner).eval().to(dtype)
    with refused(model, ForgettingError, "^`silence` needs a parameter that moves the logit of each class alone"):
        one_shot(model, codes, 1, rho=RHO, silence=True)


def test_a_model_without_output_bias() -> None:
    model, codes = knowing()
    head = model[2]
    assert isinstance(head, nn.Linear)
    head.bias = None
    with refused(model, ForgettingError, "^`silence` needs a parameter that moves the logit of each class alone"):
        one_shot(model, codes, 1, rho=RHO, silence=True)
    assert one_shot(model, codes, 1, rho=RHO, spill=FREE).evidence["silenced_by"] == 0


def test_a_bias_that_may_not_move() -> None:
    model, codes = knowing()
    receipt = one_shot(model, codes, 1, rho=0.5, parameters=["0.weight", "2.weight"], spill=FREE)
    assert receipt.evidence["silenced_by"] == 0
    assert set(receipt.edits) <= {"0.weight", "2.weight"}


def test_the_papers_rule_is_silenced_on_demand() -> None:
    model, codes = knowing()
    settings: dict[str, Any] = {"rule": "paper", "lambda1": 1e-6}
    receipt = one_shot(model, codes, 1, **settings)
    assert receipt.evidence["silenced_by"] == 0
    receipt.revert(model)
    before = contents(model)
    receipt = one_shot(model, codes, 1, silence=True, **settings)
    assert bool((logits(model, codes).argmax(1) != 1).all())
    receipt.revert(model)
    assert_holds(model, before)


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


# What the remaining codes may lose


@pytest.mark.parametrize("spill", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("build", [mlp, convnet])
def test_no_remaining_code_loses_more(build: Any, spill: float) -> None:
    model, codes = knowing(build)
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
    assert one_shot(model, 3 * torch.eye(3), 1, rho=1.0, spill=100.0).changed == 1


# Several classes


@pytest.mark.parametrize("classes", [(0, 3), (1, 2, 6), (0, 2, 4, 6, 8)])
def test_several_classes_of_digits(classes: tuple[int, ...]) -> None:
    original, codes, data = digits()
    model = copy.deepcopy(original)
    base = accuracies(original, data, classes)
    with edits_values_only(model):
        receipt = one_shot(model, codes, classes)
    forget, remain = accuracies(model, data, classes)
    assert forget == 0
    assert remain >= base[1] - 0.005
    assert receipt.classes == classes
    receipt.revert(model)
    assert_holds(model, contents(original))


def test_several_classes_are_taken_in_turn() -> None:
    """The same as single requests, each with its share of the bound, up to rounding."""
    model, codes = knowing(convnet)
    model.double()
    turns = copy.deepcopy(model)
    one_shot(model, codes, [1, 3], rho=RHO, silence=False, spill=FREE)
    one_shot(turns, codes, 1, rho=RHO, silence=False, spill=FREE)
    one_shot(turns, codes, 3, rho=RHO, silence=False, spill=FREE, forgotten=1)
    for name, value in contents(turns).items():
        assert_close(contents(model)[name], value, 1e-9, name)


def test_an_edit_of_several_classes_says_what_differs() -> None:
    model, codes = knowing(convnet)
    before = contents(model)
    receipt = one_shot(model, codes, [0, 1], rho=RHO, silence=False, spill=FREE)
    differ = sum(int((value != before[name]).sum()) for name, value in contents(model).items())
    assert receipt.changed == differ > 0


# Request after request


def test_ten_requests_of_digits_but_one() -> None:
    """Nine requests, and no class comes back; the last class is all that is left."""
    original, codes, data = digits()
    model, gone = copy.deepcopy(original), list[int]()
    kept = fisher_diagonal(model, codes.inputs, codes.labels, reduction="sum")
    for cls in (3, 1, 4, 5, 9, 2, 6, 8, 7):
        one_shot(model, codes, cls, forgotten=gone, fisher=kept, update=True)
        gone.append(cls)
        forget, remain = accuracies(model, data, gone)
        assert forget == 0
        assert remain >= accuracies(original, data, gone)[1] - 0.015
    assert (kept.samples, len(kept.losses), kept.weight.item()) == (4, 4, 4)
    assert kept.model == fingerprint(model)


def test_a_request_without_word_of_the_earlier_ones() -> None:
    """Once most classes are gone, their codes are not known, and the text says what to do about it."""
    model, codes = knowing()
    for place, cls in enumerate((0, 1)):
        one_shot(model, codes, cls, rho=RHO, forgotten=range(place))
    before = contents(model)
    one_shot(model, codes, 2, rho=RHO, forgotten=[0, 1])
    assert not torch.equal(before["2.bias"], contents(model)["2.bias"])


def test_updated_is_what_was_kept_without_the_forgotten() -> None:
    model, codes = knowing()
    model.double()
    original = copy.deepcopy(model)
    kept = fisher_diagonal(model, codes.to(torch.float64).inputs, codes.labels, reduction="sum")
    rest = codes.labels != 2
    inputs = codes.to(torch.float64).tensor.flatten(0, 1)[rest]
    expected = fisher_diagonal(original, inputs, codes.labels[rest], reduction="sum")
    receipt = one_shot(model, codes, 2, rho=RHO, fisher=kept, update=True)
    for name, value in expected.items():
        assert_close(kept[name], value, 1e-9, name)
    losses = nn.functional.cross_entropy(model(inputs), codes.labels[rest], reduction="none")
    assert_close(kept.losses, losses.detach(), 1e-6)
    assert (kept.model, kept.samples) == (receipt.after, int(rest.sum()))
    assert receipt.evidence["remain_log_odds_lost"] <= 2
    receipt.revert(model)
    with refused(model, ValueError, "^`fisher` must be of the model as it is"):
        one_shot(model, codes, 1, rho=RHO, fisher=kept, forgotten=2)


def test_an_updated_sum_has_no_gradient_of_codes_that_are_gone() -> None:
    model, codes = knowing()
    kept = fisher_diagonal(model, codes.inputs, codes.labels, reduction="sum", with_gradient=True)
    one_shot(model, codes, 2, rho=RHO, fisher=kept, update=True)
    assert kept.gradient is None
    one_shot(model, codes, 1, rho=RHO, fisher=kept, update=True, forgotten=2)


def test_samples_of_classes_forgotten_earlier_do_not_hold_a_floor_down() -> None:
    original, codes, data = digits()
    model = copy.deepcopy(original)
    one_shot(model, codes, 3)
    reached = accuracies(model, data, [3, 5])[1]
    receipt = one_shot(model, codes, 5, forgotten=3, floor=(data.x_test, data.y_test, reached - 0.01))
    assert receipt.evidence["silenced_by"] > 0
    assert accuracies(model, data, [3, 5])[1] >= reached - 0.01


def test_receipts_are_reverted_in_order_only() -> None:
    model, codes = knowing()
    before = contents(model)
    first = one_shot(model, codes, 0, rho=RHO)
    second = one_shot(model, codes, 1, rho=RHO, forgotten=0)
    with refused(model, ValueError, "^`model` must be as this edit left it"):
        first.revert(model)
    second.revert(model)
    first.revert(model)
    assert_holds(model, before)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"forgotten": [1]}, ValueError, r"^`cls` must not name classes that were forgotten earlier, got \[1\]$"),
        ({"forgotten": [0, 2, 3]}, ValueError, "^`cls` must leave at least one of 1 classes, got all of them$"),
        ({"forgotten": [4]}, ValueError, r"^`forgotten` must lie in \[0, 4\), got \[4\]$"),
        ({"forgotten": [2, 2]}, ValueError, "^`forgotten` must name each class once"),
        ({"forgotten": "2"}, TypeError, "^`forgotten` must be an int or a sequence of ints"),
        ({"spill": 0}, ValueError, r"^`spill` must lie in \(0, inf\), got 0$"),
        ({"spill": "2"}, TypeError, "^`spill` must be a number, got str$"),
        ({"silence": 1}, TypeError, "^`silence` must be a bool or None, got int$"),
        ({"update": 1}, TypeError, "^`update` must be a bool, got int$"),
        ({"update": True}, ValueError, "^`update` must come with `fisher` and without `parameters`"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    model, codes = knowing()
    with refused(model, error, text):
        one_shot(model, codes, 1, **arguments)


def test_a_kept_sum_of_all_codes_is_not_one_of_the_rest() -> None:
    model, codes = knowing()
    kept = fisher_diagonal(model, codes.inputs, codes.labels, reduction="sum")
    assert isinstance(kept, FisherDiagonal)
    with refused(model, ValueError, "^`fisher` must be the sum over all 6 codes, each once, got 8 samples"):
        one_shot(model, codes, 1, rho=RHO, fisher=kept, forgotten=3)
