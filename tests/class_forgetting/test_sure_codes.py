"""Codes of which a model is so sure that p rounds to one: the rules know of them what exact arithmetic gives."""

import math
from typing import Any

import pytest
import torch
from asserts import assert_close
from class_forgetting.kept_fisher_cases import keep
from class_forgetting.one_shot_cases import FREE
from known_codes import model_with_codes, refused
from torch import Tensor, nn

from fastforget import FisherDiagonal, ForgettingError, MnemonicCodes, fisher_diagonal, one_shot
from fastforget.class_forgetting import kept_fisher
from fastforget.class_forgetting.live_codes import prepare_codes
from fastforget.class_forgetting.recognition import examine_codes
from fastforget.class_forgetting.sensitivity import Ratios, measure_sensitivity
from fastforget.classifier.losses import ScaledCrossEntropy, log_odds

CLASSES, PER_CLASS, SIZE, WIDTH = 4, 4, 40, 64
FORGET = 1


def sure(*odds_by_class: float, spread: float = 0.0) -> tuple[nn.Module, MnemonicCodes]:
    """Return a network with these log-odds on the codes of each class; within a class they differ by ``spread``."""
    generator = torch.Generator().manual_seed(0)
    codes = MnemonicCodes.from_tensors(torch.randn(CLASSES, PER_CLASS, SIZE, generator=generator))
    model = nn.Sequential(nn.Linear(SIZE, WIDTH), nn.Tanh(), nn.Linear(WIDTH, CLASSES)).double()
    wanted = torch.tensor(odds_by_class).double()[:, None] + spread * torch.linspace(0, 1, PER_CLASS).double()
    own = wanted.view(-1, 1) + math.log(CLASSES - 1)
    logits = torch.zeros(len(own), CLASSES).double().scatter(1, codes.labels[:, None], own)
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(WIDTH, SIZE, generator=generator) / SIZE**0.5)
        model[0].bias.zero_()
        features = torch.tanh(model[0](codes.tensor.flatten(0, 1).double()))
        ones = torch.ones(len(features), 1).double()
        solution = torch.linalg.lstsq(torch.cat([features, ones], 1), logits).solution
        model[2].weight.copy_(solution[:-1].T)
        model[2].bias.copy_(solution[-1])
    return model.float().eval(), codes


def exact(model: nn.Module, codes: MnemonicCodes) -> tuple[Tensor, Tensor, Tensor]:
    """Return f_CF, f_CR and g_CF in float64, each up to a factor, from gradients of the log-odds.

    The gradient of a loss is -(1 - p) times that of the log-odds. Each group's 1 - p are divided by their sum.
    """
    model = _double(model)
    parameters = list(model.parameters())
    odds = log_odds(model(codes.tensor.flatten(0, 1).double()), codes.labels)
    gradients = torch.stack(
        [torch.cat([g.flatten() for g in torch.autograd.grad(one, parameters, retain_graph=True)]) for one in odds]
    )
    log_doubts = nn.functional.logsigmoid(-odds.detach())
    forget = codes.labels == FORGET
    doubts = [(log_doubts[rows] - log_doubts[rows].logsumexp(0)).exp()[:, None] for rows in (forget, ~forget)]
    squares = [(d * gradients[rows]).square().sum(0) for d, rows in zip(doubts, (forget, ~forget), strict=True)]
    return squares[0], squares[1], -(doubts[0] * gradients[forget]).sum(0)


def _double(model: nn.Module) -> nn.Module:
    other = nn.Sequential(nn.Linear(SIZE, WIDTH), nn.Tanh(), nn.Linear(WIDTH, CLASSES)).double()
    other.load_state_dict(model.state_dict())
    return other


def measured(model: nn.Module, codes: MnemonicCodes, batch_size: int | None = None) -> Ratios:
    parameters = dict(model.named_parameters())
    live, classes = prepare_codes(model, codes, FORGET, (), parameters["0.weight"], batch_size)
    return measure_sensitivity(model, parameters, examine_codes(model, live, classes)).into_ratios()


def subtracted(model: nn.Module, codes: MnemonicCodes, kept: FisherDiagonal) -> Ratios:
    parameters = dict(model.named_parameters())
    live, classes = prepare_codes(model, codes, FORGET, (), parameters["0.weight"])
    batch = kept_fisher.recall_codes(kept, model, live, classes)
    return kept_fisher.subtract_codes(kept, model, parameters, live, batch).into_ratios()


def assert_exact(ratios: Ratios, model: nn.Module, codes: MnemonicCodes, tolerance: float = 2e-5) -> None:
    """Check the ratios and the direction against exact arithmetic, each up to one factor for all parameters."""
    forget, remain, gradient = exact(model, codes)
    found = torch.cat([value.flatten() for value in ratios.values.values()]).double()
    expected = forget / remain
    found, expected = found / found.mean(), expected / expected.mean()
    assert_close(found, expected, tolerance)
    assert (found / expected - 1).abs().max() < 2e-3  # the smallest ones, too
    chosen = expected.topk(300).indices
    assert set(found.topk(300).indices.tolist()) == set(chosen.tolist())
    everywhere = {name: torch.arange(value.numel()) for name, value in ratios.values.items()}
    direction = ratios.steepest(everywhere)[0].double()
    steepest = gradient / (remain + 0.1 * remain.mean())
    assert_close(direction / direction.norm(), steepest / steepest.norm(), tolerance)


# nats of the class to forget, of the others, and how far those of one class are apart
SURE = [(7.0, 7.0, 2.0), (40.0, 3.0, 0.0), (90.0, 3.0, 30.0), (3.0, 40.0, 10.0), (3.0, 90.0, 0.0), (600.0, 3.0, 5.0)]


@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize(("forget", "rest", "spread"), SURE)
def test_ratios_and_direction_are_those_of_exact_arithmetic(
    forget: float, rest: float, spread: float, batch_size: int | None
) -> None:
    model, codes = sure(rest, forget, rest, rest, spread=spread)
    assert_exact(measured(model, codes, batch_size), model, codes, 2e-5 if forget < 500 else 3e-4)


@pytest.mark.parametrize(("forget", "rest"), [(7.0, 3.0), (40.0, 3.0), (90.0, 3.0), (12.0, 9.0), (40.0, 38.0)])
def test_a_kept_sum_gives_them_too(forget: float, rest: float) -> None:
    model, codes = sure(rest, forget, rest, rest)
    loss = ScaledCrossEntropy(1 / torch.sigmoid(torch.tensor(-rest).double()).item())
    assert_exact(subtracted(model, codes, keep(model, codes, loss=loss)), model, codes, 1e-4)


@pytest.mark.parametrize(("forget", "rest"), [(40, 3), (90, 3), (300, 3), (2e4, 3), (3, 40), (3, 90), (3, 2e4)])
def test_they_are_forgotten(forget: float, rest: float) -> None:
    model, codes = sure(rest, forget, rest, rest)
    receipt = one_shot(model, codes, FORGET, rho=0.1, output_row=False)
    assert receipt.evidence["forget_log_odds_before"] == pytest.approx(forget, rel=1e-3)
    assert receipt.evidence["forget_log_odds_after"] == pytest.approx(-6, abs=0.11)
    assert receipt.evidence["remain_log_odds_lost"] <= 2
    assert 0 < receipt.alpha < math.inf


def test_several_classes() -> None:
    model, codes = sure(3.0, 90.0, 40.0, 3.0)
    receipt = one_shot(model, codes, [1, 2], rho=0.1, output_row=False, spill=FREE)
    assert receipt.evidence["forget_log_odds_before"] == pytest.approx(65, rel=1e-3)
    assert receipt.evidence["forget_log_odds_after"] <= -5.9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_further_apart_than_float16_holds(dtype: torch.dtype) -> None:
    """Differences of 70,000 between logits of 35,000."""
    codes = torch.eye(3)
    model = nn.Linear(3, 3).eval().to(dtype)
    with torch.no_grad():
        model.weight.copy_(35_000 * (2 * torch.eye(3) - 1))
        model.bias.zero_()
    receipt = one_shot(model, codes, 1, rho=1.0, output_row=False, spill=FREE)
    assert receipt.evidence["forget_log_odds_before"] > 65_504
    with torch.no_grad():
        assert model(codes.to(dtype)).argmax(1)[1] != 1


def test_the_papers_rule_says_that_its_stabiliser_hides_them() -> None:
    for odds, group in (((3, 40, 3, 3), "codes to forget"), ((40, 3, 40, 40), "remaining codes")):
        model, codes = sure(*odds)
        text = rf'^rule="paper" takes .* so sure of the {group} \(log-odds of about 40 nats\) that theirs is below'
        with refused(model, ForgettingError, text):
            one_shot(model, codes, FORGET, rule="paper")
    model, codes = sure(15, 15, 15, 15)
    assert one_shot(model, codes, FORGET, rule="paper").rule == "paper"


def test_a_kept_sum_that_lost_the_remaining_codes() -> None:
    model, codes = sure(40, 3, 40, 40)
    loss: dict[str, Any] = {"loss": ScaledCrossEntropy(1e17)}
    text = r"^`fisher` must resolve the remaining codes, .* about 40 nats\) that they are lost .*; leave `fisher` out$"
    with refused(model, ValueError, text):
        one_shot(model, codes, FORGET, rho=0.1, fisher=keep(model, codes, **loss))
    one_shot(model, codes, FORGET, rho=0.1)  # as it says


@pytest.mark.parametrize("scale", [1.0, 1e80])
def test_a_kept_sum_says_which_loss_suits(scale: float) -> None:
    model, codes = sure(40, 60, 40, 40)
    text = r"^`fisher` must be of a loss as large .* about 40 nats\).*ScaledCrossEntropy\(2e\+17\), or leave `fisher`"
    with refused(model, ValueError, text):
        one_shot(model, codes, FORGET, rho=0.1, fisher=keep(model, codes, loss=ScaledCrossEntropy(scale)))
    receipt = one_shot(model, codes, FORGET, rho=0.1, fisher=keep(model, codes, loss=ScaledCrossEntropy(2e17)))
    assert receipt.evidence["forget_log_odds_after"] < 0


def test_a_kept_sum_is_brought_up_to_date_in_its_own_scale() -> None:
    model, codes = model_with_codes()
    for scale in (1.0, 1e3):
        kept = keep(model, codes, loss=ScaledCrossEntropy(scale))
        rest = codes.tensor[[0, 2, 3]].flatten(0, 1), torch.tensor([0, 0, 2, 2, 3, 3])
        expected = fisher_diagonal(model, *rest, loss=ScaledCrossEntropy(scale), reduction="sum")
        receipt = one_shot(model, codes, FORGET, rho=0.1, fisher=kept, update=True)
        receipt.revert(model)
        for name, value in expected.items():
            assert_close(kept[name], value, 1e-4, name)
