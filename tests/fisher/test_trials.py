"""Functions without a rule, and modules that hide where samples go, are tried with other samples."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_fisher, square_error
from cases import randn
from fisher.small_modules import LINEAR, TARGETS, Cube, N, Using
from torch import Tensor, nn

from fastforget.fisher.capture.trial import _replacements
from fastforget.fisher.compute import fisher_diagonal


def filled(p: Any, x: Tensor) -> Tensor:
    """An output buffer filled piece by piece."""
    h = x.new_zeros(len(x), 6, 5)
    h[:, 2:4] = F.linear(x, p.w)[:, :2]
    h[:, 0].copy_(x[:, 1])
    return F.linear(h, p.w) + p.b


def masked(p: Any, x: Tensor) -> Tensor:
    h = F.linear(x, p.w)
    h[h < 0] = 0.5
    return F.linear(h, p.w)


def as_many_of_each(p: Any, x: Tensor) -> Tensor:
    """The end of each sample is found by a mask, as in T5 and BART."""
    ends = torch.zeros(x.shape[:2], dtype=torch.bool)
    ends.scatter_(1, x.abs().sum(2).argmax(1, keepdim=True), True)
    return F.linear(x, p.w)[ends, :].view(len(x), -1, 5)[:, -1]


def positions_of_tokens(p: Any, x: Tensor) -> Tensor:
    positions = (x[..., 0] > 0).long().cumsum(1)
    table = torch.arange(21.0, dtype=x.dtype).sin().view(7, 3)
    return F.linear(table.index_select(0, positions.view(-1)).view(len(x), -1, 3), p.w)


TRIED: dict[str, tuple[Callable[..., Tensor], dict[str, tuple[int, ...]], tuple[int, ...]]] = {
    "x[mask] = value": (masked, {"w": (5, 5)}, (5,)),
    "buffer filled piece by piece": (filled, LINEAR, (6, 5)),
    "nested index": (lambda p, x: F.linear(x[:, [[0, 1], [2, 3]]], p.w, p.b), LINEAR, (6, 5)),
    "two index arrays": (
        lambda p, x: F.linear(x[:, torch.tensor([0, 1]), torch.tensor([1, 2])], p.w),
        {"w": (5, 2)},
        (6, 5),
    ),
    "a mask with as many of each": (as_many_of_each, {"w": (5, 5)}, (6, 5)),
    "index_select by sample": (positions_of_tokens, {"w": (4, 3)}, (6, 5)),
    "overlapping windows": (
        lambda p, x: F.linear(F.linear(x, p.w).as_strided((len(x), 5, 2, 5), (30, 5, 5, 1)), p.v),
        {"w": (5, 5), "v": (4, 5)},
        (6, 5),
    ),
    "grid": (
        lambda p, x: F.linear(x * torch.meshgrid(torch.arange(6.0), torch.ones(5), indexing="ij")[0].to(x), p.w),
        {"w": (4, 5)},
        (6, 5),
    ),
}


@pytest.mark.parametrize("name", TRIED)
def test_no_fallback(name: str) -> None:
    function, shapes, size = TRIED[name]
    assert_fisher(lambda: Using(function, **shapes), randn(N, *size, seed=1), TARGETS)


def shuffled_through_a_view(p: Any, x: Tensor) -> Tensor:
    """The samples come in another order into a buffer that knows nothing of them, by way of a view of it."""
    h = F.linear(x, p.w)
    buffer = torch.zeros_like(h)
    buffer[:, 0].copy_(h.flip(0)[:, 0])
    return F.linear(x, p.v) + (buffer - buffer.flip(0).detach() * 0.5)


def seen_through_an_older_view(p: Any, x: Tensor) -> Tensor:
    buffer = torch.zeros(x.shape, dtype=x.dtype)
    row = buffer[:, 0]
    buffer[:] = F.linear(x, p.w).flip(0)
    return F.linear(x, p.v) + row.unsqueeze(1)


def written_through_two_views(p: Any, x: Tensor) -> Tensor:
    buffer = torch.zeros(x.shape, dtype=x.dtype)
    first, second = buffer[:, 0], buffer[:, 1]
    first.copy_(x.flip(0)[:, 0])
    second.zero_()
    return F.linear(x, p.v) + F.linear(buffer, p.w)


@pytest.mark.parametrize("function", [shuffled_through_a_view, seen_through_an_older_view, written_through_two_views])
def test_samples_are_not_lost_in_memory_that_is_shared(function: Callable[..., Tensor]) -> None:
    assert_fisher(lambda: Using(function, w=(5, 5), v=(5, 5)), randn(N, 6, 5, seed=1), TARGETS, fallback={"w", "v"})


class Sorting(nn.Module):
    """A mixture of experts: the tokens of all samples, sorted by their expert."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.Parameter(torch.randn(3, 5, 5))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, 5)
        expert = tokens[:, :3].argmax(1)
        order = expert.argsort()
        each = [group @ matrix for group, matrix in zip(self.split(tokens, expert), self.experts, strict=True)]
        return torch.empty_like(tokens).index_copy(0, order, torch.cat(each)).view_as(x)

    @staticmethod
    def split(tokens: Tensor, expert: Tensor) -> tuple[Tensor, ...]:
        return tokens[expert.argsort()].split(torch.bincount(expert, minlength=3).tolist())


class Hidden(nn.Module):
    """Torch functions off."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            return self.inner(x)


class Custom(nn.Module):
    """An autograd function of a user."""

    def forward(self, x: Tensor) -> Tensor:
        return Cube.apply(x)


class ClassTokens(nn.Module):
    """The first rows are taken for the class tokens, of whichever sample they are, as in TimeSformer."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 5)), nn.Parameter(torch.randn(1, 7, 5))

    def forward(self, x: Tensor) -> Tensor:
        frames = x.repeat_interleave(2, 0)
        rows = torch.cat([self.token.expand(len(frames), -1, -1), frames], 1) + self.positions
        tokens = rows[: len(x), 0].unsqueeze(1)
        return torch.cat([tokens, rows[:, 1:].reshape(len(x), -1, 5)], 1)


class Mixing(Hidden):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - 1e-3 * x.mean(0))


class Counting(Hidden):
    """It does something else each time."""

    times = 0

    def forward(self, x: Tensor) -> Tensor:
        self.times += 1
        with torch._C.DisableTorchFunction():
            return self.inner(x) / self.times


MODULES: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "mixture of experts": (Sorting, {"1.experts"}),
    "functions off": (Hidden, {"1.inner.weight", "1.inner.bias"}),
    "custom autograd function": (Custom, set()),
    "class tokens of other samples": (ClassTokens, {"1.token", "1.positions"}),
}


@pytest.mark.parametrize("name", MODULES)
def test_what_lies_around_a_module_does_not_fall_back(name: str) -> None:
    middle, fallback = MODULES[name]
    build = lambda: nn.Sequential(nn.Linear(5, 5), middle(), nn.LayerNorm(5), nn.Linear(5, 3))  # noqa: E731
    assert_fisher(build, randn(N, 6, 5, seed=1), TARGETS, fallback=fallback)


def test_a_module_that_mixes_samples_falls_back() -> None:
    build = lambda: nn.Sequential(nn.Linear(5, 5), Mixing(), nn.Linear(5, 3))  # noqa: E731
    names = [name for name, _ in build().named_parameters()]
    assert_fisher(build, randn(N, 6, 5, seed=1), TARGETS, fallback=names)


class LongestMask(Hidden):
    """Mixes samples only where they have different numbers of marked rows, as in Longformer."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return super().forward(x) / (1 + mask.sum(1).max())


class Masked(nn.Module):
    """Marks the rows of each sample that begin with a number above a bound."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.before, self.middle, self.after = nn.Linear(5, 5), LongestMask(), nn.Linear(5, 3)
        self.bound = bound

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.middle(self.before(x), x[..., 0] > self.bound))


def test_a_mask_that_would_mix_samples_if_it_were_another() -> None:
    x = randn(N, 6, 5, seed=1)
    assert_fisher(lambda: Masked(-100.0), x, TARGETS, fallback={"middle.inner.weight", "middle.inner.bias"})
    mixing = Masked(0.0).eval()
    assert (
        fisher_diagonal(mixing, x, TARGETS, loss=square_error).fallback.keys() == dict(mixing.named_parameters()).keys()
    )


class Times(Hidden):
    """Mixes samples where a mask lets it."""

    def __init__(self, share: float, masks: float) -> None:
        super().__init__()
        self.share, self.runs = share, [0]
        self.register_buffer("masks", torch.tensor(masks))

    def forward(self, x: Tensor) -> Tensor:
        self.runs[0] += 1
        with torch._C.DisableTorchFunction():
            return self.inner(x - self.share * self.masks * x.mean(0))


def trials_of(*modules: Times) -> tuple[list[int], bool]:
    """Return how often the modules ran, and whether all are found to keep samples apart."""
    for module in modules:
        module.runs = modules[0].runs  # one object, so that the modules are of one kind
    model = nn.Sequential(nn.Linear(5, 5), *modules, nn.Linear(5, 3)).eval()
    found = fisher_diagonal(model, randn(N, 6, 5, seed=1), TARGETS, loss=square_error)
    return modules[0].runs, "0.weight" not in found.fallback


def test_modules_of_one_kind_are_tried_with_noise_once() -> None:
    (one,), apart = trials_of(Times(0.0, 1.0))
    assert apart
    (two,), apart = trials_of(Times(0.0, 1.0), Times(0.0, 1.0))
    assert apart
    assert two < 2 * one


@pytest.mark.parametrize("second", [Times(1e-3, 1.0), Times(0.0, 1.0)], ids=["by a setting", "not at all"])
def test_another_of_the_same_class_may_mix_samples(second: Times) -> None:
    _, apart = trials_of(Times(0.0, 1.0), second)
    assert apart == (second.share == 0)


def test_another_of_the_same_kind_may_mix_samples_by_its_values() -> None:
    _, apart = trials_of(Times(1e-3, 0.0), Times(1e-3, 1.0))
    assert not apart


def test_rounds_tell_every_sample_from_every_other() -> None:
    for samples in (2, 3, 7, 16, 20, 21, 33):
        rounds = torch.stack(list(_replacements(samples, torch.device("cpu"))))
        goes = rounds != torch.arange(samples)
        alone = (goes[:, :, None] & ~goes[:, None, :]).any(0)  # [goes, stays]
        assert alone.logical_or(torch.eye(samples, dtype=torch.bool)).all()
    assert len(list(_replacements(20, torch.device("cpu")))) == 6


def test_a_module_with_a_memory_falls_back() -> None:
    model = nn.Sequential(nn.Linear(5, 5), Counting(), nn.Linear(5, 3)).eval()
    found = fisher_diagonal(model, randn(N, 5, seed=1), torch.arange(N) % 3)
    assert set(found.fallback) == {name for name, _ in model.named_parameters()}


def test_no_hook_is_left_behind() -> None:
    """With one, PyTorch warns at every compiled module, and this is an error here."""
    model = nn.Sequential(nn.Linear(5, 5), Mixing(), nn.Linear(5, 3)).eval()
    assert fisher_diagonal(model, randn(N, 6, 5, seed=1), TARGETS, loss=square_error).fallback
    torch.compile(nn.Linear(5, 5), backend="eager")(randn(N, 5))
