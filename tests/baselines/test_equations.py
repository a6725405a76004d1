"""The published methods against their equations."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_close, assert_same_bits
from known_codes import assert_holds, copied_tensors
from learners import CLASS, CLASSES, FORGET, FRESH, MEMBERS, REMAIN, REST, SIZE, Batches, batches, learner
from torch import Tensor, nn

from fastforget import baselines, fisher_diagonal, topk_mask
from fastforget.baselines.batches import paired
from fastforget.baselines.layers import layers_with_parameters
from fastforget.baselines.training import divergence, wrong_labels
from fastforget.classifier.labelled_batches import RepeatableBatches


def manual(model: nn.Module, batch: tuple[Tensor, Tensor], sign: float = 1.0) -> list[Tensor]:
    return list(torch.autograd.grad(sign * F.cross_entropy(model(batch[0]), batch[1]), list(model.parameters())))


def smooth() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(SIZE, 8), nn.Tanh(), nn.Linear(8, CLASSES)).double().eval()


def doubled(data: Batches) -> Batches:
    return [(x.double(), y) for x, y in data]


@pytest.mark.parametrize(
    ("run", "direction"),
    [
        (lambda m, f, _: baselines.neg_grad(m, f, [], epochs=1, lr=0.1), lambda m, f, _: [-g for g in manual(m, f)]),
        (
            lambda m, f, r: baselines.neg_grad_plus(m, f, r, epochs=1, lr=0.1, alpha=0.7),
            lambda m, f, r: [
                0.7 * a - 0.3 * b + 5e-4 * p for a, b, p in zip(manual(m, r), manual(m, f), m.parameters(), strict=True)
            ],
        ),
        (
            lambda m, _, r: baselines.fine_tune(m, [], r, epochs=1, lr=0.1),
            lambda m, _, r: [g + 5e-4 * p for g, p in zip(manual(m, r), m.parameters(), strict=True)],
        ),
    ],
    ids=["neg_grad", "neg_grad_plus", "fine_tune"],
)
def test_a_first_step(run: Any, direction: Any) -> None:
    model = smooth()
    forget, remain = doubled(FORGET[:1]), doubled(REMAIN[:1])
    expected = [p - 0.1 * g for p, g in zip(model.parameters(), direction(model, forget[0], remain[0]), strict=True)]
    run(model, forget, remain)
    for parameter, right in zip(model.parameters(), expected, strict=True):
        assert_close(parameter, right, 1e-12)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_cf_k_moves_the_last_layers_only(k: int) -> None:
    model = learner()
    before = copied_tensors(model)
    baselines.cf_k(model, [], REMAIN, k=k, epochs=1)
    chosen = [layers_with_parameters(model)[-n] for n in range(1, k + 1)]
    moved = {name for name, value in copied_tensors(model).items() if not torch.equal(value, before[name])}
    own = {f"{path}.{name}" for path, m in model.named_modules() if m in chosen for name, _ in m.named_parameters()}
    statistics = {f"1.{name}" for name, _ in model[1].named_buffers()} if k > 1 else set()
    assert moved == own | statistics
    with pytest.raises(ValueError, match=r"^`k` must lie in \[1, 3\], got 4"):
        baselines.cf_k(model, [], REMAIN, k=4)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("square", ["batch", "sample"])
@pytest.mark.parametrize("method", ["ssd", "lfssd"])
def test_dampening(method: str, square: Any, mixed: bool) -> None:
    """All data is what is forgotten and what remains, or given in batches of its own."""
    model = smooth()
    forget, remain = doubled(FORGET), doubled(REMAIN)
    everything = doubled(batches(MEMBERS)) if mixed else [*forget, *remain]
    given: dict[str, Any] = {"remain": [], "everything": everything} if mixed else {"remain": remain}

    def importance(data: Batches) -> list[Tensor]:
        parts = data if square == "batch" else [(x[n : n + 1], y[n : n + 1]) for x, y in data for n in range(len(y))]
        total = [torch.zeros_like(p) for p in model.parameters()]
        for x, y in parts:
            logits = model(x)
            loss = F.cross_entropy(logits, y) if method == "ssd" else logits.square().sum(1).mean()
            slopes = torch.autograd.grad(loss, list(model.parameters()))
            total = [one + slope.square() for one, slope in zip(total, slopes, strict=True)]
        return [one / len(parts) for one in total]

    few, all_of = importance(forget), importance(everything)
    expected = [
        torch.where(f > 1.3 * e, p * (0.5 * e / f).clamp(max=1), p).detach()
        for p, f, e in zip(model.parameters(), few, all_of, strict=True)
    ]
    before = [p.detach().clone() for p in model.parameters()]
    getattr(baselines, method)(model, forget, **given, alpha=1.3, lam=0.5, square=square)
    assert any(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    for parameter, right in zip(model.parameters(), expected, strict=True):
        assert_close(parameter, right, 1e-9)


def test_fisher_forgetting_adds_noise_of_that_variance() -> None:
    """Over 200 seeds, the mean square of the noise in units of its variance is one, to four standard errors."""
    original = smooth()
    x = torch.cat([x for x, _ in doubled(REMAIN)])
    fisher = fisher_diagonal(original, x, labels="expectation")
    total = {name: torch.zeros_like(value) for name, value in original.named_parameters()}
    for seed in range(200):
        model = copy.deepcopy(original)
        baselines.fisher_forgetting(model, doubled(FORGET), doubled(REMAIN), alpha=1e-4, seed=seed)
        for name, value in model.named_parameters():
            total[name] += (value - dict(original.named_parameters())[name]).detach().square() / 200
    for name, found in total.items():
        variance = 1e-4 * (1 / fisher[name]).clamp(max=1e3) * (1 if name == "0.weight" else 10)
        ratio = found / variance
        assert abs(ratio.mean().item() - 1) < 4 * math.sqrt(2 / (200 * ratio.numel()))
    model = copy.deepcopy(original)
    baselines.fisher_forgetting(model, doubled(CLASS), doubled(REST), alpha=1e-30)
    assert model[2].weight[2].abs().max() < 1e-10
    assert model[2].bias[2].abs() < 1e-10


def test_scrub_takes_its_two_steps() -> None:
    """The first step of Adam goes against the sign of the gradient, as far as the rate says."""
    model, teacher = smooth(), smooth()
    forget, remain = doubled(FORGET[:1]), doubled(REMAIN[:1])
    logits, told = model(remain[0][0]), teacher(remain[0][0]).detach()
    loss = 0.6 * F.cross_entropy(logits, remain[0][1]) + 0.5 * divergence(logits, told, 3.0)
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    expected = [p - 1e-3 * (g + 5e-4 * p).sign() for p, g in zip(model.parameters(), slopes, strict=True)]
    baselines.scrub(model, forget, remain, gamma=0.6, alpha=0.5, temperature=3.0, epochs=1, max_epochs=0, lr=1e-3)
    for parameter, right in zip(model.parameters(), expected, strict=True):
        assert_close(parameter, right, 1e-6)
    # away from where it started, in the second pass: in the first the student is its teacher, and there is no slope
    start = copy.deepcopy(model)
    other = doubled(REMAIN[1:2])
    baselines.scrub(model, forget, other, gamma=1e-9, alpha=1e-9, epochs=2, lr=1e-3)
    near = copy.deepcopy(start)
    baselines.scrub(near, forget, other, gamma=1e-9, alpha=1e-9, epochs=2, max_epochs=0, lr=1e-3)
    apart, beside = (divergence(found(forget[0][0]), start(forget[0][0])).item() for found in (model, near))
    assert apart > beside


def test_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 7, CLASSES, generator=generator, dtype=torch.float64)
    p, q = (teacher / 4).softmax(1), (student / 4).softmax(1)
    assert_close(divergence(student, teacher, 4.0), 16 * (p * (p / q).log()).sum(1).mean(), 1e-10)


def test_bad_teacher_brings_what_is_forgotten_to_chance() -> None:
    model = learner()
    baselines.bad_teacher(model, CLASS, REST, epochs=60, lr=1e-2, share=1.0)
    with torch.no_grad():
        sure = torch.cat([model(x).softmax(1).max(1).values for x, _ in CLASS]).mean()
        known = torch.cat([model(x).softmax(1).max(1).values for x, _ in REST]).mean()
    assert sure < 0.6
    assert known > 0.8

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(CLASSES, SIZE))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight.T

    with pytest.raises(ValueError, match=r"^module `` must have reset_parameters"):
        baselines.bad_teacher(Odd().eval(), CLASS, REST)


def test_boundary_expand_leaves_the_architecture() -> None:
    model = learner()
    narrow = model[4]
    baselines.boundary_expand(model, CLASS, [], lr=0.01)
    assert model[4] is narrow
    assert model(FRESH[0]).shape[1] == CLASSES
    with pytest.raises(ValueError, match=r"^`model` must have a linear layer with 30 outputs"):
        baselines.boundary_expand(nn.Sequential(nn.Identity()).eval(), CLASS, [])


def test_boundary_shrink_goes_to_the_neighbour() -> None:
    """A linear model: the neighbour is the second choice."""
    model = nn.Linear(SIZE, CLASSES).double().eval()
    x = FRESH[0][:8].double()
    y = model(x).argmax(1)
    second = model(x).detach().scatter(1, y[:, None], -math.inf).argmax(1)
    baselines.boundary_shrink(model, [(x, y)], [], epochs=300, lr=0.05, epsilon=1e-9)
    assert torch.equal(model(x).argmax(1), second)
    with pytest.raises(TypeError, match="one floating-point tensor"):
        baselines.boundary_shrink(model, [((x, x), y)], [])


def test_unsir_looks_at_no_sample_to_forget() -> None:
    model, other = learner(), learner()
    baselines.unsir(model, CLASS, REST)
    baselines.unsir(other, [(x * 0 + 7, y) for x, y in CLASS], REST)
    assert_holds(other, copied_tensors(model))
    with pytest.raises(TypeError, match="one floating-point tensor"):
        baselines.unsir(model, [((x, x), y) for x, y in CLASS], REST)


def test_salun_moves_the_salient_weights_only() -> None:
    model = learner()
    before = [p.detach().clone() for p in model.parameters()]
    sums = [torch.zeros_like(p) for p in model.parameters()]
    for batch in FORGET:
        sums = [one + slope for one, slope in zip(sums, manual(model, batch), strict=True)]
    masks = topk_mask([value.abs() for value in sums], 0.2)
    baselines.salun(model, FORGET, REMAIN, share=0.2, epochs=2)
    for parameter, old, mask in zip(model.parameters(), before, masks, strict=True):
        assert_same_bits(parameter[~mask], old[~mask])
    moved = sum(int((p != old).sum()) for p, old in zip(model.parameters(), before, strict=True))
    total = sum(p.numel() for p in model.parameters())
    assert 0.15 * total < moved <= math.floor(0.2 * total + 0.5)


def test_wrong_labels_and_pairs() -> None:
    torch.manual_seed(0)
    y = torch.arange(1000) % CLASSES
    wrong = wrong_labels(y, CLASSES)
    assert not (wrong == y).any()
    assert torch.bincount((wrong - y) % CLASSES).tolist()[1:] == pytest.approx([333] * 3, abs=60)
    found = list(paired(REMAIN, RepeatableBatches(iter(FORGET), "forget")))
    assert [one[1].tolist() for one, _ in found] == [y.tolist() for _, y in REMAIN]
    assert [other[1].tolist() for _, other in found] == [
        FORGET[n % len(FORGET)][1].tolist() for n in range(len(REMAIN))
    ]
