"""Methods that forget a class: our rule and others. Each edits a copy of the model and returns it.

All methods see the model, the codes and the classes to forget. SSD also sees training data. The oracle also sees the
test accuracy that it is judged by.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from common import accuracies, forget_by_step_alone
from torch import Tensor, nn
from torch.func import functional_call

import fastforget
from fastforget import MnemonicCodes, fisher_diagonal
from fastforget.demo.data import Dataset

# The ranges in which the paper's authors searched, and a coarser grid for the oracle, which looks at test images.
LAMBDA1, LAMBDA2 = [10.0**e for e in range(-6, 1)], [10.0**e for e in range(-1, 6)]
ORACLE1, ORACLE2 = [1e-5, 1e-4, 1e-3, 1e-2], [1.0, 10.0, 100.0, 1000.0]
SSD_SAMPLES, SSD_BATCH, SSD_ALPHA = 10_000, 64, 10.0
ORACLE_SAMPLES = 1000


@dataclass
class Subject:
    """A trained network, and all that a method may look at."""

    model: nn.Module
    codes: MnemonicCodes
    data: Dataset

    @cached_property
    def samples(self) -> tuple[Tensor, Tensor]:
        """The training data that SSD sees, sorted by class: up to 10,000 samples, equally many of each class."""
        share = SSD_SAMPLES // len(self.codes)
        rows = [(self.data.y_train == cls).nonzero().squeeze(1)[:share] for cls in range(len(self.codes))]
        chosen = torch.cat(rows)
        return self.data.x_train[chosen], self.data.y_train[chosen]

    @cached_property
    def fisher(self) -> dict[str, Tensor]:
        """The per-sample Fisher of the training data, by class, [C, *shape]."""
        x, y = self.samples
        parts = []
        for cls in range(len(self.codes)):
            chosen = x[y == cls].split(SSD_BATCH)
            sums = [fisher_diagonal(self.model, part, torch.full((len(part),), cls)) for part in chosen]
            shares = [len(part) / len(x[y == cls]) for part in chosen]
            parts.append({name: sum(w * f[name] for w, f in zip(shares, sums, strict=True)) for name in sums[0]})
        return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}

    @cached_property
    def shuffled(self) -> dict[str, Tensor]:
        """SSD's importances over all training data, with a shuffled loader."""
        order = torch.randperm(len(self.samples[1]), generator=torch.Generator().manual_seed(0))
        return self.importance(order)

    @cached_property
    def ordered(self) -> dict[str, Tensor]:
        """SSD's importances over all training data, with a loader in the order of the classes."""
        return self.importance(torch.arange(len(self.samples[1])))

    def importance(self, rows: Tensor) -> dict[str, Tensor]:
        """Return SSD's importances over some training data: the mean squared gradient of batches."""
        x, y = self.samples
        squares = [self._gradient(x[part], y[part]) for part in rows.split(SSD_BATCH)]
        return {name: sum(g[name].square() for g in squares) / len(squares) for name in squares[0]}

    def _gradient(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        names, parameters = zip(*self.model.named_parameters(), strict=True)
        loss = nn.functional.cross_entropy(self.model(x), y)
        return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


Method = Callable[[Subject, Sequence[int]], nn.Module]


def natural(subject: Subject, classes: Sequence[int]) -> nn.Module:
    """Our default rule."""
    model = copy.deepcopy(subject.model)
    fastforget.one_shot(model, subject.codes, classes)
    return model


def natural_step(subject: Subject, classes: Sequence[int]) -> nn.Module:
    """Our default with the output layer left as it is: the effect of the step alone."""
    model = copy.deepcopy(subject.model)
    forget_by_step_alone(model, subject.codes, classes)
    return model


def natural_deeper(subject: Subject, classes: Sequence[int]) -> nn.Module:
    """A longer step on ten times as many parameters: it removes more inside the network and does more damage."""
    model = copy.deepcopy(subject.model)
    fastforget.one_shot(model, subject.codes, classes, rho=0.03, widen=1.0, depth=12.0, spill=3.0)
    return model


def output_bias(subject: Subject, classes: Sequence[int]) -> nn.Module:
    """Change the output bias alone, and nothing inside the network."""
    model = copy.deepcopy(subject.model)
    *_, bias = model.parameters()
    if bias.shape != (len(subject.codes),):
        raise ValueError("the last parameter must be the output bias, as in all networks here")
    with torch.no_grad():
        bias[list(classes)] -= 1e4
    return model


def paper(subject: Subject, classes: Sequence[int]) -> nn.Module:
    """The published rule. (λ1, λ2) and the sign maximise A_R + E_F on the codes, within the authors' ranges."""
    x, y = subject.codes.inputs, subject.codes.labels
    return _paper(subject, classes, x, y, LAMBDA1, LAMBDA2)


def paper_oracle(subject: Subject, classes: Sequence[int]) -> nn.Module:
    """The published rule. (λ1, λ2) and the sign are chosen by the accuracy on test images."""
    x, y = subject.data.x_test[:ORACLE_SAMPLES], subject.data.y_test[:ORACLE_SAMPLES]
    return _paper(subject, classes, x, y, ORACLE1, ORACLE2)


def _paper(
    subject: Subject, classes: Sequence[int], x: Tensor, y: Tensor, lambda1: Sequence[float], lambda2: Sequence[float]
) -> nn.Module:
    """Compute equations 5-7 of the paper: `fastforget.one_shot(rule="paper")` for many λ, with one Fisher."""
    labels = subject.codes.labels
    forget = torch.isin(labels, torch.tensor(list(classes)))
    weights = torch.stack([forget, ~forget]).float()
    fisher = fisher_diagonal(subject.model, subject.codes.inputs, labels, weights=weights)
    ratios = {name: ((f[0] + 1e-16) / (f[1] + 1e-16)).nan_to_num(nan=1.0) for name, f in fisher.items()}
    old = {name: value.detach() for name, value in subject.model.named_parameters()}
    best, chosen = -1.0, old
    for one, two, sign in product(lambda1, lambda2, (-1.0, 1.0)):
        new = {name: old[name] + sign * min(one, two / eta.max().item()) * eta for name, eta in ratios.items()}
        with torch.no_grad():
            found = torch.cat([functional_call(subject.model, new, part) for part in x.split(250)])
        forgot, kept = accuracies(found.nan_to_num(), y, classes)
        if kept - forgot > best:
            best, chosen = kept - forgot, new
    model = copy.deepcopy(subject.model)
    model.load_state_dict({**model.state_dict(), **chosen})
    return model


def ssd_ordered(subject: Subject, classes: Sequence[int]) -> nn.Module:
    """SSD as in its authors' code: squared gradients of batches of 64, with a loader in the order of the classes."""
    return _dampen(subject, subject.importance(_rows(subject, classes)), subject.ordered, SSD_ALPHA)


def ssd_shuffled(subject: Subject, classes: Sequence[int]) -> nn.Module:
    """SSD with a shuffled loader, which gives other batches and other importances."""
    return _dampen(subject, subject.importance(_rows(subject, classes)), subject.shuffled, SSD_ALPHA)


def ssd_sample(subject: Subject, classes: Sequence[int]) -> nn.Module:
    """SSD with the per-sample Fisher, as in the text of its paper.

    With it, no importance exceeds C / K times the mean over all C classes, of which K are forgotten. With ten classes,
    α = 10 would select nothing. So α is half of the largest possible ratio.
    """
    forget = {name: value[list(classes)].mean(0) for name, value in subject.fisher.items()}
    everything = {name: value.mean(0) for name, value in subject.fisher.items()}
    return _dampen(subject, forget, everything, len(subject.codes) / len(classes) / 2)


def _rows(subject: Subject, classes: Sequence[int]) -> Tensor:
    return torch.isin(subject.samples[1], torch.tensor(list(classes))).nonzero().squeeze(1)


def _dampen(subject: Subject, forget: dict[str, Tensor], everything: dict[str, Tensor], alpha: float) -> nn.Module:
    """Scale down parameters that are ``alpha`` times more important to the forgotten classes; λ = 1."""
    model = copy.deepcopy(subject.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            chosen = forget[name] > alpha * everything[name]
            parameter.mul_(torch.where(chosen, (everything[name] / forget[name]).clamp(max=1.0), 1.0))
    return model


METHODS: dict[str, Method] = {
    "natural": natural,
    "natural, its step alone": natural_step,
    "natural, deeper": natural_deeper,
    "output bias alone": output_bias,
    "paper, λ by codes": paper,
    "paper, λ by test images": paper_oracle,
    "SSD, ordered batches": ssd_ordered,
    "SSD, shuffled batches": ssd_shuffled,
    "SSD, per sample": ssd_sample,
}
