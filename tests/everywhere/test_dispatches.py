"""How many operations the host starts on a device, and how often it waits: on a GPU that is what small models take."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from everywhere.counting import counted, trials
from models import Bert, ViT, resnet
from simulated_device import dispatched, simulated_device, to_device
from torch import Tensor, nn

from fastforget import MnemonicCodes, fisher_diagonal, one_shot
from fastforget.classifier.inputs import tensors_of
from fastforget.classifier.running import forward

CLASSES, PER_CLASS, TOKENS = 4, 2, 8


class TextClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bert, self.head = Bert(), nn.Linear(12, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.bert(input_ids, attention_mask)["hidden"][:, 0])


def images() -> MnemonicCodes:
    return MnemonicCodes.generate(CLASSES, (3, 8, 8), per_class=PER_CLASS)


def texts() -> MnemonicCodes:
    tokens = torch.randint(1, 11, (CLASSES, PER_CLASS, TOKENS), generator=torch.Generator().manual_seed(0))
    return MnemonicCodes.from_tensors({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})


# For each shape: how to build it, its codes, and the most operations: of the Fisher beyond those of a plain forward and
# backward, and of `one_shot` beside those in the models that it runs and those for each run.
SHAPES: dict[str, tuple[Callable[[], nn.Module], Callable[[], MnemonicCodes], int, int]] = {
    "resnet": (resnet, images, 220, 1500),
    "vit": (ViT, images, 145, 1150),
    "bert": (TextClassifier, texts, 150, 1220),
}
EACH_RUN = 40  # operations around a run: the step is written, and log-odds are read off the logits
LOOKS = 3  # at the bound, each of which shortens the step but the last
WAITS = 12  # of `one_shot` beside those for codes that are sent and for each trial of a step


@cache
def known(shape: str) -> tuple[nn.Module, MnemonicCodes]:
    build, draw, *_ = SHAPES[shape]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build().eval()
    codes = draw()
    optimiser = torch.optim.Adam(model.parameters(), 0.01, weight_decay=1e-3)
    for _ in range(80):
        optimiser.zero_grad()
        F.cross_entropy(forward(model, codes.inputs), codes.labels).backward()
        optimiser.step()
    optimiser.zero_grad()
    return model, codes


@pytest.mark.parametrize("shape", SHAPES)
def test_the_fisher(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, codes = known(shape)
    with simulated_device(monkeypatch) as waits:
        distant, (inputs, labels) = to_device(copy.deepcopy(model)), to_device((codes.inputs, codes.labels))
        with dispatched() as plain:
            F.cross_entropy(forward(distant, inputs), labels).backward()
        with dispatched() as ours:
            fisher_diagonal(distant, inputs, labels)
    assert len(waits) == 1
    assert ours.total() - plain.total() <= SHAPES[shape][2]


@pytest.mark.parametrize("shape", SHAPES)
def test_one_shot(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, codes = known(shape)
    distant = to_device(copy.deepcopy(model))
    starts, ends, sizes = list[int](), list[int](), list[int]()

    def begin(_: nn.Module, args: Any, kwargs: Any) -> None:
        sizes.append(len(tensors_of((args, kwargs))[0]))
        starts.append(ours.total())

    with simulated_device(monkeypatch) as waits, dispatched() as ours:
        distant.register_forward_pre_hook(begin, with_kwargs=True)
        distant.register_forward_hook(lambda *_: ends.append(ours.total()))
        one_shot(distant, codes, 1, rho=0.2, widen=1.0)
    inside = sum(after - before for before, after in zip(starts, ends, strict=True))
    assert ours.total() - inside <= SHAPES[shape][3] + EACH_RUN * len(starts)
    # All codes are run for their Fisher, and where the bound on the remaining ones is looked at: evidence and output
    # layer need no run of their own.
    assert sizes.count(len(codes.labels)) <= 1 + LOOKS
    here = counted(waits)
    trials(here)
    assert here.pop("codes/mnemonic_codes.py") == len(tensors_of(codes.inputs))
    assert sum(here.values()) <= WAITS
