"""Calls leave no reference cycles: dropped results are freed at once, not by the garbage collector."""

import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from asserts import prepared
from known_codes import convnet, model_with_codes
from models import LABELS, MODELS, loss
from torch import Tensor, nn

from fastforget import fisher_diagonal, harmonize, one_shot, topk_mask


def fisher(name: str, **settings: Any) -> Callable[[], Any]:
    build, inputs = MODELS[name]
    model = prepared(build)
    return lambda: fisher_diagonal(model, inputs, LABELS, loss=loss, with_gradient=True, **settings)


def forget(**settings: Any) -> Callable[[], Any]:
    model, codes = model_with_codes(convnet)

    def forget_and_undo() -> Any:
        receipt = one_shot(model, codes, 1, **settings)
        receipt.revert(model)
        return receipt

    return forget_and_undo


def project() -> Callable[[], Any]:
    first, *rest = [[torch.randn(50, generator=torch.Generator().manual_seed(n))] for n in range(3)]
    return lambda: harmonize(first, *rest)


def select() -> Callable[[], Any]:
    scores = [torch.arange(50.0), torch.arange(9.0)]
    return lambda: topk_mask(scores, 7)


CALLS: dict[str, Callable[[], Callable[[], Any]]] = {
    **{f"fisher of {name}": partial(fisher, name) for name in ("resnet", "vit", "bert", "recurrent")},
    "fisher of batches": partial(fisher, "resnet", square="batch", batch_size=2),
    "fisher of groups": partial(fisher, "resnet", weights=torch.ones(2, len(LABELS))),
    "one_shot, natural": forget,
    "one_shot, paper": partial(forget, rule="paper"),
    "harmonize": project,
    "topk_mask": select,
}


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def tensors() -> list[int]:
    return sorted(id(o) for o in gc.get_objects() if type(o) is Tensor)


@pytest.mark.parametrize("name", CALLS)
def test_dropped_results_are_freed_at_once(name: str, no_collector: None) -> None:
    call = CALLS[name]()
    call()  # fills the caches
    before = tensors()
    call()
    assert tensors() == before


class _GradientIsOperand(torch.autograd.Function):
    """A sum whose backward returns an operand itself as a gradient, as a custom function may."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x + weight

    @staticmethod
    def backward(ctx: Any, _grad: Tensor) -> Any:  # type: ignore[override]
        return None, ctx.saved_tensors[0]


class Sharing(nn.Module):
    """Autograd returns one tensor as the gradient of the first two parameters, and the input as that of the third."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.zeros(1, 3)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return _GradientIsOperand.apply(x, self.c) + (self.a + self.b)  # type: ignore[no-untyped-call, no-any-return]


def test_results_share_no_memory() -> None:
    """With a single sample, the results could be the tensors that autograd returns."""
    model, x = Sharing().eval(), torch.randn(1, 3)
    found = fisher_diagonal(model, x, torch.tensor([1]), with_gradient=True)
    assert found.gradient is not None
    tensors = [x, *model.parameters(), *found.values(), *found.gradient.values()]
    assert len({t.untyped_storage().data_ptr() for t in tensors}) == len(tensors)
