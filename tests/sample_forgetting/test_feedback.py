"""The meta-gradient against finite differences, and the two feedbacks against their definitions."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_close, assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from fastforget.membership.model import MembershipModel
from fastforget.sample_forgetting.feedback import forget_feedback, meta_gradient, remain_feedback
from fastforget.sample_forgetting.loaders import ForgetBatch

CLASSES = 3
Batch = tuple[Tensor, Tensor]


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, CLASSES)).double().eval()


def batch(seed: int, samples: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (samples,), generator=generator)


def attacks(count: int) -> list[MembershipModel]:
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        found.append(MembershipModel(["loss", "logits", "confidences"][seed % 3], CLASSES, (5,)).double())
        found[-1].unseen = 0.2 + 0.1 * seed
    return found


def loss(model: nn.Module, given: Batch, sign: float = 1.0) -> Any:
    return lambda values: sign * F.cross_entropy(functional_call(model, dict(values), (given[0],)), given[1])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 2.0), st.sampled_from([1.0, -1.0]), st.sampled_from([1.0, 0.0, 0.3]))
def test_second_order_is_the_gradient_of_the_whole(seed: int, step: float, sign: float, weight: float) -> None:
    """Central differences of weight tune(theta) + mean of test_i(theta - step grad tune(theta)), in any direction."""
    model = network(seed)
    parameters = dict(model.named_parameters())
    tune, tests = loss(model, batch(seed), sign), [loss(model, batch(seed + n)) for n in (1, 2, 3)]

    def whole(values: dict[str, Tensor]) -> Tensor:
        leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
        found = tune(leaves)
        slopes = torch.autograd.grad(found, list(leaves.values()))
        moved = {name: leaf - step * slope for (name, leaf), slope in zip(leaves.items(), slopes, strict=True)}
        return weight * found + sum(test(moved) for test in tests) / 3

    found = meta_gradient(parameters, tune, tests, step=step, order=2, weight=weight)
    assert_close(weight * found.tune + found.test, whole(parameters), 1e-12)
    for _ in range(3):
        direction = {name: torch.randn_like(value) for name, value in parameters.items()}
        ahead, behind = (
            whole({name: value + h * direction[name] for name, value in parameters.items()}) for h in (1e-5, -1e-5)
        )
        slope = sum((found.gradient[name] * direction[name]).sum() for name in parameters)
        assert slope.item() == pytest.approx(((ahead - behind) / 2e-5).item(), rel=1e-6, abs=1e-8)


class Attention(nn.Module):
    """Tokens that look at each other, fused where there is a kernel for it."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.head = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x).view(len(x), -1, 3, 2, 2).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value)
        return self.head(seen.transpose(1, 2).flatten(2).mean(1))


def test_second_order_through_fused_attention() -> None:
    torch.manual_seed(0)
    model = Attention().double().eval()
    batches = [(torch.randn(3, 5, 4, dtype=torch.float64), torch.randint(3, (3,))) for _ in range(3)]
    tune, *tests = (loss(model, given) for given in batches)

    def whole(values: dict[str, Tensor]) -> Tensor:
        leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
        slopes = torch.autograd.grad(tune(leaves), list(leaves.values()))
        moved = {name: leaf - 0.5 * slope for (name, leaf), slope in zip(leaves.items(), slopes, strict=True)}
        return tune(leaves) + sum(test(moved) for test in tests) / 2

    parameters = dict(model.named_parameters())
    found = meta_gradient(parameters, tune, tests, step=0.5, order=2)
    direction = {name: torch.randn_like(value) for name, value in parameters.items()}
    ahead, behind = (
        whole({name: value + h * direction[name] for name, value in parameters.items()}) for h in (1e-5, -1e-5)
    )
    slope = sum((found.gradient[name] * direction[name]).sum() for name in parameters)
    assert slope.item() == pytest.approx(((ahead - behind) / 2e-5).item(), rel=1e-6)


def test_first_order_adds_gradients_before_and_after() -> None:
    model = network()
    parameters = dict(model.named_parameters())
    tune, tests = loss(model, batch(0)), [loss(model, batch(1)), loss(model, batch(2))]
    found = meta_gradient(parameters, tune, tests, step=0.3, order=1, weight=0.7)
    inner = torch.autograd.grad(tune(parameters), list(parameters.values()))
    moved = {
        name: (value - 0.3 * slope).detach().requires_grad_()
        for (name, value), slope in zip(parameters.items(), inner, strict=True)
    }
    outer = torch.autograd.grad((tests[0](moved) + tests[1](moved)) / 2, list(moved.values()))
    for value, before, after in zip(found.gradient.values(), inner, outer, strict=True):
        assert_close(value, 0.7 * before + after, 1e-12)
    exact = meta_gradient(parameters, tune, tests, step=0.3, order=2, weight=0.7)
    assert not torch.allclose(exact.gradient["0.weight"], found.gradient["0.weight"], rtol=1e-3)


def test_without_a_trial_step_both_orders_are_the_plain_sum() -> None:
    model = network()
    parameters = dict(model.named_parameters())
    tune, test = loss(model, batch(0)), loss(model, batch(1))
    expected = torch.autograd.grad(tune(parameters) + test(parameters), list(parameters.values()))
    first, second = (meta_gradient(parameters, tune, [test], step=0.0, order=order) for order in (1, 2))  # type: ignore[arg-type]
    for one, other, right in zip(first.gradient.values(), second.gradient.values(), expected, strict=True):
        assert_same_bits(one, other)
        assert_close(one, right, 1e-12)


def test_a_parameter_that_a_loss_does_not_see_has_zeros() -> None:
    model, spare = network(), torch.ones(2, dtype=torch.float64, requires_grad=True)
    parameters = {**dict(model.named_parameters()), "spare": spare}

    def test(values: Any) -> Tensor:
        return loss(model, batch(0))({name: value for name, value in values.items() if name != "spare"})

    for order in (1, 2):
        found = meta_gradient(parameters, test, [test], step=0.1, order=order)  # type: ignore[arg-type]
        assert found.gradient["spare"].tolist() == [0, 0]


@pytest.mark.parametrize("support", ["random", "uniform", "ascent"])
def test_remain_feedback(support: Any) -> None:
    """The support set's loss is that of wrong labels, of all classes alike, or minus that of the right ones."""
    model = network()
    parameters, forget = dict(model.named_parameters()), batch(0, 400)
    queries = [batch(1), batch(2)]
    generator = torch.Generator().manual_seed(3)
    found = remain_feedback(
        model,
        parameters,
        ForgetBatch(*forget),
        queries,
        support=support,
        step=0.5,
        order=1,
        weight=1.0,
        generator=generator,
    )
    log_p = model(forget[0]).log_softmax(1)
    own = log_p.gather(1, forget[1][:, None]).squeeze(1)
    others = (log_p.sum(1) - own) / (CLASSES - 1)
    expected = {"random": -others.mean(), "uniform": -log_p.mean(), "ascent": own.mean()}[support]
    # 400 labels drawn at random have the mean of all but the right one, give or take five standard errors
    assert found.tune.item() == pytest.approx(expected.item(), abs=0.2 if support == "random" else 1e-9)
    moved = dict(parameters)
    inner = torch.autograd.grad(found_tune(model, parameters, forget, support), list(parameters.values()))
    if support != "random":
        moved = {n: v - 0.5 * slope for (n, v), slope in zip(parameters.items(), inner, strict=True)}
        after = sum(loss(model, query)(moved) for query in queries) / 2
        assert_close(found.test, after.detach(), 1e-9)


def found_tune(model: nn.Module, parameters: dict[str, Tensor], forget: Batch, support: str) -> Tensor:
    log_p = functional_call(model, parameters, (forget[0],)).log_softmax(1)
    return -log_p.mean() if support == "uniform" else log_p.gather(1, forget[1][:, None]).mean()


def test_random_labels_are_wrong_and_all_wrong_ones_occur() -> None:
    """A model that is certain of the right class: minus the loss tells which label was drawn."""
    model = nn.Linear(CLASSES, CLASSES, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.diag(torch.tensor([0.0, -1.0, -2.0])) * 1e3)
    x, y = torch.ones(60, CLASSES, dtype=torch.float64), torch.zeros(60, dtype=torch.int64)
    seen = set()
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        found = remain_feedback(
            model,
            dict(model.named_parameters()),
            ForgetBatch(x[:1], y[:1]),
            [(x, y)],
            support="random",
            step=0.1,
            order=1,
            weight=1.0,
            generator=generator,
        )
        seen.add(round(found.tune.item()))
    assert seen == {1000, 2000}


def test_each_sample_has_its_goal() -> None:
    """In the support set of g_r, and in what attacks are to say of it."""
    model, (judge,) = network(), attacks(1)
    parameters, (x, y) = dict(model.named_parameters()), batch(0)
    goals = torch.rand(len(y), CLASSES, dtype=torch.float64).softmax(1)
    twins = torch.randn(len(y), CLASSES, dtype=torch.float64)
    forget, generator = ForgetBatch(x, y, goals, twins), torch.Generator()
    settings: dict[str, Any] = {"support": "counterfactual", "weight": 1.0, "generator": generator}
    kept = remain_feedback(model, parameters, forget, [(x, y)], step=0.5, order=1, **settings)
    assert_close(kept.tune, -(goals * model(x).log_softmax(1)).sum(1).mean().detach(), 1e-12)
    gone = forget_feedback(model, parameters, [forget, forget], [judge], target="counterfactual", step=0.5, order=1)
    p, q = judge(model(x), y).sigmoid(), judge(twins, y).sigmoid()
    assert_close(gone.tune, -(q * p.log() + (1 - q) * (1 - p).log()).mean().detach(), 1e-12)


@pytest.mark.parametrize("target", ["unseen", "zero"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_forgetting_is_tested_by_attacks_that_the_trial_step_did_not_see(count: int, target: Any) -> None:
    model, judges = network(), attacks(count)
    parameters, batches = dict(model.named_parameters()), [batch(0), batch(1)]
    found = forget_feedback(
        model, parameters, [ForgetBatch(*one) for one in batches], judges, target=target, step=0.5, order=2
    )

    def caught(values: dict[str, Tensor], judge: MembershipModel, given: Batch) -> Tensor:
        odds = judge(functional_call(model, values, (given[0],)), given[1])
        p, q = odds.sigmoid(), judge.unseen if target == "unseen" else 0.0
        return -(q * p.log() + (1 - q) * (1 - p).log()).mean()

    tune = caught(parameters, judges[0], batches[0])
    inner = torch.autograd.grad(tune, list(parameters.values()), create_graph=True)
    moved = {name: v - 0.5 * slope for (name, v), slope in zip(parameters.items(), inner, strict=True)}
    others = judges[1:] or judges
    test = sum(caught(moved, judge, batches[1]) for judge in others) / len(others)
    expected = torch.autograd.grad(tune + test, list(parameters.values()))
    assert_close(found.tune, tune.detach(), 1e-10)
    assert_close(found.test, test.detach(), 1e-10)  # type: ignore[union-attr]
    for value, right in zip(found.gradient.values(), expected, strict=True):
        assert_close(value, right, 1e-9)
