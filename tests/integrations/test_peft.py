"""Models with adapters of PEFT: the adapters are edited, serve, and go where PEFT saves them."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from asserts import assert_close, assert_same_bits
from integrations.small_models import accuracy, configured
from torch import Tensor, nn

from fastforget import fisher_diagonal, one_shot
from fastforget.classifier.losses import cross_entropy

pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("default")  # warnings of other libraries are no errors

CLASSES, CLS = 4, 3
QUERIES = ["query", "value"]
KINDS = {
    "lora": lambda: peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=QUERIES),
    "lora everywhere": lambda: peft.LoraConfig(task_type="SEQ_CLS", r=2, use_rslora=True, target_modules="all-linear"),
    "dora": lambda: peft.LoraConfig(task_type="SEQ_CLS", r=4, use_dora=True, target_modules=QUERIES),
    "ia3": lambda: peft.IA3Config(task_type="SEQ_CLS", target_modules=QUERIES, feedforward_modules=[]),
}


def texts(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return tokens [N, 8], a half of which tell the class."""
    generator, targets = torch.Generator().manual_seed(seed), torch.arange(samples) % CLASSES
    tokens = torch.randint(20, 30, (samples, 8), generator=generator)
    tokens[:, 1:5] = 2 + targets[:, None] * 4 + torch.randint(0, 4, (samples, 4), generator=generator)
    return tokens, targets


def adapted(kind: str) -> Any:
    """Return a model whose adapters are not what they begin as: nothing is zero."""
    model = peft.get_peft_model(configured("bert"), KINDS[kind]()).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model


def free(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


@pytest.fixture(scope="module")
def trained() -> Iterator[Any]:
    """A model whose adapters, classifier and frozen weights all know the classes."""
    model, (x, y) = adapted("lora"), texts(128, 1)
    names = free(model)
    optimizer = torch.optim.AdamW(model.requires_grad_().train().parameters(), 5e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(80):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x).logits, y).backward()
            optimizer.step()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    model.zero_grad()
    assert accuracy(model.eval(), *texts(64, 2), CLS) == (1.0, 1.0)
    return model


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_the_adapters_alone_move_and_are_what_peft_saves(trained: Any, tmp_path: Path) -> None:
    model, before, (x, y) = copy.deepcopy(trained), state_of(trained), texts(64, 2)
    receipt = one_shot(model, None, CLS, samples=texts(64, 3), parameters=free(model))
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed
    assert changed <= {*free(model)}
    assert any("lora" in name for name in changed)
    assert accuracy(model, x, y, CLS) == (0.0, 1.0)

    model.save_pretrained(tmp_path)  # the adapters and the classifier, without the rest
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(trained).unload(), tmp_path).eval()
    merged = copy.deepcopy(model).merge_and_unload()
    with torch.no_grad():
        assert_close(loaded(x).logits, model(x).logits)
        assert_close(merged(x).logits, model(x).logits)

    receipt.revert(model)
    for name, value in model.named_parameters():
        assert_same_bits(value.detach(), before[name])


def test_frozen_weights_are_refused_by_name(trained: Any) -> None:
    before = state_of(trained)
    with pytest.raises(ValueError, match=r"word_embeddings\.weight` is frozen .*; name the parameters to work on"):
        one_shot(trained, None, CLS, samples=texts(64, 3))
    assert all(torch.equal(value, before[name]) for name, value in trained.named_parameters())


@pytest.mark.parametrize("only", ["lora", ""])
def test_merged_adapters_are_refused(trained: Any, only: str) -> None:
    """They do not serve until they are unmerged, and what they are merged into is not to move."""
    model = copy.deepcopy(trained)
    names = [name for name in free(model) if only in name]
    model.merge_adapter()
    before = state_of(model)
    with pytest.raises(ValueError, match=r"adapters that are merged into other weights are not used until they are "):
        one_shot(model, None, CLS, samples=texts(64, 3), parameters=names)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_the_fisher_of_adapters(kind: str) -> None:
    model, (x, y) = adapted(kind), texts(8, 4)
    names = free(model)
    found = fisher_diagonal(model, x, y, parameters=names)
    assert not found.fallback
    wide = copy.deepcopy(model).double()
    parameters = [dict(wide.named_parameters())[name] for name in names]
    expected = [torch.zeros_like(parameter, requires_grad=False) for parameter in parameters]
    for n in range(len(y)):
        loss = cross_entropy(wide(x[n : n + 1]), y[n : n + 1]).sum()
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        for total, grad in zip(expected, grads, strict=True):
            total.add_(0 if grad is None else grad.square() / len(y))
    for name, value in zip(names, expected, strict=True):
        assert_close(found[name], value, name=name)
