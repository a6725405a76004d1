"""The published methods: their equations, what they leave alone, and that they do what they are for."""

import copy
import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_close, assert_same_bits
from known_codes import assert_holds, contents
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
    batches,
    caught,
    learner,
    untrained,
)
from torch import Tensor, nn

from fastforget import baselines, fisher_diagonal, topk_mask
from fastforget.baselines.training import MaskedStep, divergence, layers, paired, wrong_labels

ALL = [*FORGET, *REMAIN]
Method = Callable[..., None]
METHODS: dict[str, Method] = {
    "bad_teacher": baselines.bad_teacher,
    "boundary_expand": lambda model, forget, _, **k: baselines.boundary_expand(model, forget, **k),
    "boundary_shrink": lambda model, forget, _, **k: baselines.boundary_shrink(model, forget, **k),
    "cf_k": lambda model, _, remain, **k: baselines.cf_k(model, remain, **k),
    "fine_tune": lambda model, _, remain, **k: baselines.fine_tune(model, remain, **k),
    "fisher_forgetting": baselines.fisher_forgetting,
    "lfssd": lambda model, forget, remain, **k: baselines.lfssd(model, forget, [*forget, *remain], **k),
    "neg_grad": lambda model, forget, _, **k: baselines.neg_grad(model, forget, **k),
    "neg_grad_plus": baselines.neg_grad_plus,
    "random_labels": baselines.random_labels,
    "retrain": lambda model, _, remain, **k: baselines.retrain(model, remain, epochs=2, **k),
    "salun": baselines.salun,
    "scrub": baselines.scrub,
    "ssd": lambda model, forget, remain, **k: baselines.ssd(model, forget, [*forget, *remain], **k),
    "unsir": baselines.unsir,
}
DRAWS_NOTHING = {"lfssd", "ssd"}


def test_every_method_is_here() -> None:
    assert sorted(METHODS) == baselines.__all__


# What all of them keep


def bystanders(model: nn.Module) -> list[Any]:
    """What an edit must leave alone beside the values."""
    return [
        [(name, p.requires_grad, p.data_ptr(), p.grad) for name, p in model.named_parameters()],
        [(name, module.training, len(module._forward_hooks)) for name, module in model.named_modules()],
        torch.get_rng_state().tolist(),
    ]


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    found = []
    for state, seed in ((1, 0), (2, 0), (3, 1)):
        model = learner()
        model[3].train()  # its own mode comes back
        torch.manual_seed(state)
        before = bystanders(model)
        METHODS[name](model, FORGET, REMAIN, **({} if name in DRAWS_NOTHING else {"seed": seed}))
        assert bystanders(model) == before
        found.append(contents(model))
    for key, value in found[0].items():
        assert_same_bits(value, found[1][key])
    if name in DRAWS_NOTHING:
        return
    assert any(not torch.equal(value, found[2][key]) for key, value in found[0].items())
    original = contents(learner())
    assert any(not torch.equal(value, original[key]) for key, value in found[0].items())


@pytest.mark.parametrize("name", METHODS)
def test_after_an_error_the_model_is_what_it_was(name: str) -> None:
    x, y = FORGET[0]
    bad = [(x * math.nan, y)]
    model = learner()
    before, around = contents(model), bystanders(model)
    with pytest.raises(ValueError, match=r"finite|NaN"):
        METHODS[name](model, [*FORGET, *bad], [*REMAIN, *bad])
    assert_holds(model, before)
    assert bystanders(model) == around


@pytest.mark.parametrize("name", METHODS)
def test_no_batches(name: str) -> None:
    model = learner()
    before = contents(model)
    with pytest.raises(ValueError, match="there must be at least one batch, got none"):
        METHODS[name](model, [], [])
    assert_holds(model, before)


@pytest.mark.parametrize("name", METHODS)
def test_settings_that_make_no_sense(name: str) -> None:
    """Each of them, before anything is done."""
    function, model = getattr(baselines, name), learner()
    before = contents(model)
    of_retrain = {"epochs"} if name == "retrain" else set[str]()
    parameters = inspect.signature(function).parameters.values()
    settings = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {"square"} - of_retrain
    assert settings
    for setting in settings:
        for value in (-1, math.nan, math.inf, True, "1"):
            with pytest.raises((TypeError, ValueError), match=f"^`{setting}` must be "):
                METHODS[name](model, FORGET, REMAIN, **{setting: value})
    assert_holds(model, before)


@pytest.mark.parametrize("name", METHODS)
def test_what_can_be_gone_through_once_is_kept(name: str) -> None:
    if name in {"ssd", "lfssd"}:
        pytest.skip("go through their data once")
    model, other = learner(), learner()
    METHODS[name](model, (batch for batch in FORGET), (batch for batch in REMAIN))
    METHODS[name](other, FORGET, REMAIN)
    assert_holds(model, contents(other))


def test_buffers_that_are_not_saved_come_back_and_gradients_are_no_obstacle() -> None:
    model = learner()
    model.register_buffer("counter", torch.zeros(()), persistent=False)
    model.register_forward_pre_hook(lambda module, _: module.counter.add_(1) and None)
    x, y = FORGET[0]
    with pytest.raises(ValueError, match="finite"):
        baselines.fine_tune(model, [(x, y), (x * math.nan, y)])
    assert model.counter == 0
    with torch.no_grad():
        baselines.fine_tune(model, FORGET, epochs=1)


def test_a_frozen_head_stays() -> None:
    model = learner()
    model[4].requires_grad_(requires_grad=False)
    before = contents(model)
    baselines.boundary_expand(model, FORGET, lr=0.1)
    assert_same_bits(model[4].weight, before["4.weight"])
    assert not torch.equal(model[0].weight, before["0.weight"])


def test_a_compiled_model_is_that_behind_it() -> None:
    model, plain = learner(), learner()
    baselines.random_labels(torch.compile(model, backend="eager"), FORGET, REMAIN)  # type: ignore[arg-type]
    baselines.random_labels(plain, FORGET, REMAIN)
    assert_holds(model, contents(plain))


# What they are for

FORGETS_A_CLASS: dict[str, dict[str, Any]] = {
    "bad_teacher": {"epochs": 60, "lr": 1e-2, "share": 1.0},
    "boundary_expand": {"lr": 0.02},
    "boundary_shrink": {"lr": 0.005, "epsilon": 0.5},
    "neg_grad": {"lr": 0.005},
    "neg_grad_plus": {"alpha": 0.9},
    "random_labels": {"epochs": 20, "lr": 5e-3},
    "salun": {},
    "scrub": {"epochs": 10, "max_epochs": 6, "lr": 2e-3},
    "ssd": {"alpha": 2.0},
    "unsir": {},
}


@pytest.mark.parametrize("name", FORGETS_A_CLASS)
def test_a_class_is_forgotten_and_the_rest_known(name: str) -> None:
    """With epochs and rates for 400 samples; the papers' are for networks of images."""
    model = learner()
    METHODS[name](model, CLASS, REST, **FORGETS_A_CLASS[name])
    forget, remain = accuracy(model, CLASS), accuracy(model, REST)
    assert forget < 0.5
    assert remain > max(0.6, forget + 0.3)


def test_retraining() -> None:
    torch.manual_seed(0)
    model = untrained()
    baselines.retrain(model, REMAIN, epochs=30, lr=0.1)
    model.eval()
    assert accuracy(model, REMAIN) > 0.95
    assert abs(caught(model, FORGET, batches(FRESH)) - 0.5) < 0.1


# Their equations


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
        (lambda m, f, _: baselines.neg_grad(m, f, epochs=1, lr=0.1), lambda m, f, _: [-g for g in manual(m, f)]),
        (
            lambda m, f, r: baselines.neg_grad_plus(m, f, r, epochs=1, lr=0.1, alpha=0.7),
            lambda m, f, r: [
                0.7 * a - 0.3 * b + 5e-4 * p for a, b, p in zip(manual(m, r), manual(m, f), m.parameters(), strict=True)
            ],
        ),
        (
            lambda m, _, r: baselines.fine_tune(m, r, epochs=1, lr=0.1),
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
    before = contents(model)
    baselines.cf_k(model, REMAIN, k=k, epochs=1)
    chosen = [layers(model)[-n] for n in range(1, k + 1)]
    moved = {name for name, value in contents(model).items() if not torch.equal(value, before[name])}
    own = {f"{path}.{name}" for path, m in model.named_modules() if m in chosen for name, _ in m.named_parameters()}
    statistics = {f"1.{name}" for name, _ in model[1].named_buffers()} if k > 1 else set()
    assert moved == own | statistics
    with pytest.raises(ValueError, match=r"^`k` must lie in \[1, 3\], got 4"):
        baselines.cf_k(model, REMAIN, k=4)


@pytest.mark.parametrize("square", ["batch", "sample"])
@pytest.mark.parametrize("method", ["ssd", "lfssd"])
def test_dampening(method: str, square: Any) -> None:
    model = smooth()
    forget, everything = doubled(FORGET), doubled(ALL)

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
    getattr(baselines, method)(model, forget, everything, alpha=1.3, lam=0.5, square=square)
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
    baselines.boundary_expand(model, CLASS, lr=0.01)
    assert model[4] is narrow
    assert model(FRESH[0]).shape[1] == CLASSES
    with pytest.raises(ValueError, match=r"^`model` must have a linear layer with 30 outputs"):
        baselines.boundary_expand(nn.Sequential(nn.Identity()).eval(), CLASS)


def test_boundary_shrink_goes_to_the_neighbour() -> None:
    """A linear model: the neighbour is the second choice."""
    model = nn.Linear(SIZE, CLASSES).double().eval()
    x = FRESH[0][:8].double()
    y = model(x).argmax(1)
    second = model(x).detach().scatter(1, y[:, None], -math.inf).argmax(1)
    baselines.boundary_shrink(model, [(x, y)], epochs=300, lr=0.05, epsilon=1e-9)
    assert torch.equal(model(x).argmax(1), second)
    with pytest.raises(TypeError, match="one floating-point tensor"):
        baselines.boundary_shrink(model, [((x, x), y)])


def test_unsir_looks_at_no_sample_to_forget() -> None:
    model, other = learner(), learner()
    baselines.unsir(model, CLASS, REST)
    baselines.unsir(other, [(x * 0 + 7, y) for x, y in CLASS], REST)
    assert_holds(other, contents(model))
    with pytest.raises(TypeError, match="one floating-point tensor"):
        baselines.unsir(model, [((x, x), y) for x, y in CLASS], REST)


# Masks


@pytest.mark.parametrize(
    "build",
    [
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
        partial(torch.optim.AdamW, lr=0.1, weight_decay=0.5),
        partial(torch.optim.RMSprop, lr=0.1, momentum=0.5, weight_decay=0.1),
    ],
)
def test_a_masked_step_leaves_the_others_alone(build: Any) -> None:
    """To the bit, a signed zero and a NaN included; those inside move as they would without a mask."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(5, 6, generator=generator)
    start[0, :2] = torch.tensor([-0.0, math.nan])
    mask = torch.rand(5, 6, generator=generator) < 0.5
    mask[0, :2] = False
    free, held, loose = (nn.Parameter(start.clone()) for _ in range(3))
    optimizer, masked = build([free]), MaskedStep(build([held, loose]), {held: mask})
    for _ in range(4):
        slope = torch.randn(5, 6, generator=generator)
        for parameter in (free, held, loose):
            parameter.grad = slope.clone()
        optimizer.step()
        masked.step()
    assert_same_bits(held[~mask], start[~mask])
    assert_same_bits(held[mask], free[mask])
    assert_same_bits(loose, free)
    masked.zero_grad()
    assert held.grad is None
    for wrong in (mask.float(), mask[:2]):
        with pytest.raises(ValueError, match=r"^masks must be bool of shape"):
            MaskedStep(optimizer, {held: wrong})


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
    found = list(paired(REMAIN, iter(FORGET)))
    assert [one[1].tolist() for one, _ in found] == [y.tolist() for _, y in REMAIN]
    assert [other[1].tolist() for _, other in found] == [
        FORGET[n % len(FORGET)][1].tolist() for n in range(len(REMAIN))
    ]
