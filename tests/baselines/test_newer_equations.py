"""The published methods of 2023 and later against their equations."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from asserts import assert_close, assert_same_bits
from known_codes import assert_holds, copied_tensors
from learners import (
    CLASS,
    CLASSES,
    FORGET,
    FRESH,
    REMAIN,
    REST,
    SIZE,
    Batches,
    accuracy,
    attack_area,
    batches,
    learner,
)
from torch import Tensor, nn

from fastforget import baselines, fisher_diagonal


def smooth() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(SIZE, 8), nn.Tanh(), nn.Linear(8, CLASSES)).double().eval()


def doubled(data: Batches) -> Batches:
    return [(x.double(), y) for x, y in data]


def assert_parameters(model: nn.Module, expected: nn.Module, tolerance: float = 1e-10) -> None:
    for parameter, right in zip(model.parameters(), expected.parameters(), strict=True):
        assert_close(parameter, right, tolerance)


def test_l1_sparse_has_a_penalty_that_fades() -> None:
    """gamma, then a half of it; without it, it is fine-tuning."""
    model, expected, batch = smooth(), smooth(), doubled(REMAIN[:1])
    optimizer = torch.optim.SGD(expected.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    for weight in (0.02, 0.01):
        loss = F.cross_entropy(expected(batch[0][0]), batch[0][1])
        loss = loss + weight * sum(p.abs().sum() for p in expected.parameters())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    baselines.l1_sparse(model, [], batch, gamma=0.02, epochs=2, lr=0.1)
    assert_parameters(model, expected)
    plain, without = learner(), learner()
    baselines.fine_tune(plain, [], REMAIN, epochs=2)
    baselines.l1_sparse(without, [], REMAIN, epochs=2, gamma=0)
    assert_holds(without, copied_tensors(plain))


def test_l1_sparse_makes_weights_small() -> None:
    found = []
    for gamma in (0, 1e-2):
        model = learner()
        baselines.l1_sparse(model, [], REMAIN, gamma=gamma)
        found.append(sum(float(p.detach().abs().sum()) for p in model.parameters()))
    assert found[1] < 0.8 * found[0]


def test_delete_takes_the_step_of_its_loss() -> None:
    model, expected, batch = smooth(), smooth(), doubled(FORGET[:1])
    x, y = batch[0]
    told = expected(x).detach().exp()
    told[torch.arange(len(y)), y] = 0
    told /= told.sum(1, keepdim=True)
    known = told * (told.clamp(min=1e-300).log() - expected(x).log_softmax(1))
    slopes = torch.autograd.grad(known.sum(1).mean(), list(expected.parameters()))
    with torch.no_grad():
        for parameter, slope in zip(expected.parameters(), slopes, strict=True):
            parameter.sub_(0.1 * slope)
    baselines.delete(model, batch, [], epochs=1, lr=0.1)
    assert_parameters(model, expected)


def test_delete_ends_with_what_the_original_said_of_the_others() -> None:
    torch.manual_seed(0)
    model = nn.Linear(SIZE, CLASSES).double().eval()
    x = FRESH[0][:8].double()
    y = model(x).argmax(1)
    told = model(x).detach().scatter(1, y[:, None], -math.inf).softmax(1)
    baselines.delete(model, [(x, y)], [], epochs=2000, lr=0.5)
    assert_close(model(x).softmax(1), told, 5e-3)


def test_jit_takes_the_step_of_its_loss() -> None:
    model, expected, batch = smooth(), smooth(), doubled(FORGET[:1])
    x, _ = batch[0]
    torch.manual_seed(7)
    constants = []
    for _ in range(3):
        noise = 0.2 * torch.randn_like(x)
        constants.append((expected(x) - expected(x + noise).detach()).norm(dim=1) / noise.norm(dim=1))
    loss = torch.stack(constants).mean()
    slopes = torch.autograd.grad(loss, list(expected.parameters()))
    with torch.no_grad():
        for parameter, slope in zip(expected.parameters(), slopes, strict=True):
            parameter.sub_(0.1 * slope)
    baselines.jit(model, batch, [], sigma=0.2, copies=3, epochs=1, lr=0.1, seed=7)
    assert_parameters(model, expected)
    with pytest.raises(TypeError, match="one floating-point tensor"):
        baselines.jit(model, [((x, x), batch[0][1])], [])


@pytest.mark.parametrize("mixed", [False, True])
def test_assd_takes_its_threshold_from_how_much_is_forgotten(mixed: bool) -> None:
    model, expected = smooth(), smooth()
    forget, remain = doubled(FORGET), doubled(REMAIN)
    everything = [*forget, *remain]

    def importance(data: Batches) -> dict[str, Tensor]:
        found = [fisher_diagonal(model, x, y, square="batch") for x, y in data]
        return {name: sum(part[name] for part in found) / len(found) for name in found[0]}

    few, all_of = importance(forget), importance(everything)
    quotients = torch.cat([(few[name] / all_of[name]).flatten() for name in few]).numpy()
    alpha = float(np.percentile(quotients, 100 - math.log(1 + 100 * 60 / 400)))
    assert alpha > 1
    given: dict[str, Any] = {"remain": [], "everything": everything} if mixed else {"remain": remain}
    receipt = baselines.assd(model, forget, **given)
    baselines.ssd(expected, forget, **given, alpha=alpha * (1 + 1e-9))
    assert_parameters(model, expected, 1e-9)
    assert 0 < receipt.changed < 0.04 * receipt.total


def projection(rows: Tensor, alpha: float) -> Tensor:
    """Return the weighted projection by a singular value decomposition of the samples themselves, [N, I]."""
    u, s, _ = torch.linalg.svd(rows.T, full_matrices=False)
    shares = s.square() / s.square().sum()
    return u @ torch.diag(alpha * shares / ((alpha - 1) * shares + 1)) @ u.T


def test_class_svd_projects_by_its_equation() -> None:
    torch.manual_seed(0)
    model = nn.Linear(SIZE, CLASSES).double().eval()
    forget, remain = doubled(CLASS), doubled(REST)
    with torch.no_grad():  # a network that knows its classes
        for _ in range(200):
            for x, y in [*forget, *remain]:
                model.weight -= 0.05 * (model(x).softmax(1) - F.one_hot(y, CLASSES)).T @ x / len(y)
    old, bias = model.weight.detach().clone(), model.bias.detach().clone()
    rows = {name: torch.cat([x for x, _ in data]) for name, data in (("forget", forget), ("remain", remain))}
    one, scores = torch.eye(SIZE, dtype=torch.float64), {}
    for alpha in (10.0, 30.0, 100.0, 300.0, 1000.0):
        beside = one - projection(rows["remain"], alpha)
        weight = old @ (one - projection(rows["forget"], 3.0) @ beside).T
        tried = copy.deepcopy(model)
        tried.weight.data.copy_(weight)
        right = [
            float(torch.cat([tried(x).argmax(1) == y for x, y in data]).double().mean()) for data in (remain, forget)
        ]
        scores[alpha] = (right[0] * (1 - right[1]), weight)
    best = max(score for score, _ in scores.values())
    expected = next(weight for score, weight in scores.values() if score == best)
    baselines.class_svd(model, forget, remain)
    assert_close(model.weight, expected, 1e-8)
    assert_same_bits(model.bias, bias)


def test_class_svd_takes_away_a_direction_that_only_the_class_has() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 2, stride=2, bias=False), nn.Flatten(), nn.Linear(2, 2)).double().eval()
    own, other = torch.zeros(2, 3, 1, 2, 2, dtype=torch.float64)
    own[:, 0, 0, 0], other[:, 0, 1, 1] = 1.0, 2.0  # in different pixels
    before = model[0](other).detach()
    baselines.class_svd(model, [(own, torch.zeros(3).long())], [(other, torch.ones(3).long())])
    assert model[0](own).abs().max() < 1e-12
    assert_close(model[0](other), before, 1e-12)
    with pytest.raises(
        ValueError, match=r"^`model` must have a linear layer or a convolution that may move, got none$"
    ):
        baselines.class_svd(
            nn.BatchNorm1d(CLASSES).eval(), [(FRESH[0][:, :4], FRESH[1])], [(FRESH[0][:, :4], FRESH[1])]
        )


def test_class_svd_sees_what_convolutions_multiply() -> None:
    """Padding, strides and dilation: their inputs, unfolded, times their weight are their outputs."""
    from fastforget.baselines.subspaces import _rows

    for settings in ({}, {"padding": 1}, {"stride": 2, "padding": (1, 0)}, {"dilation": 2}):
        layer = nn.Conv2d(3, 5, (3, 2), bias=False, **settings).double()
        x = torch.randn(2, 3, 8, 7, dtype=torch.float64)
        assert_close(
            _rows(layer, x) @ layer.weight.flatten(1).T, layer(x).flatten(2).transpose(1, 2).flatten(0, 1), 1e-12
        )


def test_lotus_takes_its_steps() -> None:
    """One with the smoothed teacher, one with the sharp one, both with AdamW."""
    model, expected = smooth(), smooth()
    forget, remain = doubled(CLASS[:1]), doubled(REST[:1])
    teacher = copy.deepcopy(expected)
    (x, y), (kept, _) = forget[0], remain[0]
    temperature = math.exp(1.5 * float((teacher(x).argmax(1) == y).double().mean()))
    optimizer = torch.optim.AdamW(expected.parameters(), 1e-2, weight_decay=5e-4)
    torch.manual_seed(3)
    torch.randperm(1)  # which of the remaining batches is used
    for inputs, tau, hard in ((x, temperature, False), (kept, 1.0, True)):
        told = F.gumbel_softmax(teacher(inputs).detach(), tau, hard=hard)
        optimizer.zero_grad()
        (-(told * expected(inputs).log_softmax(1)).sum(1).mean()).backward()
        optimizer.step()
    baselines.lotus(model, forget, remain, alpha=1.5, share=1.0, epochs=1, lr=1e-2, seed=3)
    assert_parameters(model, expected)


def test_lotus_makes_samples_look_less_known() -> None:
    before, model = learner(), learner()
    baselines.lotus(model, FORGET, REMAIN, unseen=batches(FRESH), lr=1e-3)
    areas = [attack_area(each, FORGET, batches(FRESH)) for each in (before, model)]
    assert areas[1] < areas[0] - 0.05
    assert accuracy(model, REMAIN) > 0.95


def test_lotus_ends_where_samples_are_no_better_known_than_unseen() -> None:
    model = learner()
    before = copied_tensors(model)
    with pytest.raises(
        ValueError, match=r"^`unseen` must be given where samples of a class to forget remain, got none$"
    ):
        baselines.lotus(model, FORGET, REMAIN)
    assert_holds(model, before)
    with torch.no_grad():
        wrong = [(x, (model(x).argmax(1) + 1) % CLASSES) for x, _ in FORGET]
    baselines.lotus(model, wrong, REMAIN, unseen=batches(FRESH))
    assert_holds(model, before)
