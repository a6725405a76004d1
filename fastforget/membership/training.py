"""Training of a membership model for a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastforget.classifier.arguments import check_integer, check_number
from fastforget.classifier.compilation import eager
from fastforget.classifier.data_forms import LabelledData
from fastforget.classifier.labelled_batches import check_classes, check_logits, labelled_batches
from fastforget.classifier.modes import evaluating, fresh_casts
from fastforget.classifier.running import forward, logits_of
from fastforget.membership.area import area_under_curve
from fastforget.membership.model import FEATURES, MembershipModel, frozen

__all__ = ["train_membership_model"]

_HELD_OUT = 5  # of so many samples, one
_LEAST = 2 * _HELD_OUT  # samples of a side


def train_membership_model(
    model: nn.Module,
    members: LabelledData,
    others: LabelledData,
    *,
    features: str = "loss",
    hidden: Sequence[int] = (64,),
    epochs: int = 30,
    lr: float = 0.01,
    seed: int = 0,
) -> MembershipModel:
    """Train a membership model for a classifier, from samples that it was and was not trained on.

    The loss is binary cross-entropy in which both sides weigh the same. The optimiser is Adam, on batches of 64. A
    fifth of each side is held out, for `area` and `unseen` of the result. The same seed gives the same model.

    Args:
        model: The classifier, not changed; logits [N, C] from its forward.
        members: Batches (inputs, targets) of its training data, on its device, for instance a DataLoader, or another
            form of samples, see `fastforget.classifier.data_forms.batches_of`.
        others: Data of the same kind that it was not trained on.
        features: What the membership model is shown, see `MembershipModel`.
        hidden: Widths of the membership model's hidden layers.
        epochs: Passes over the samples.
        lr: The learning rate.
        seed: Of the weights, the order of the samples, and the choice of those held out.

    Returns:
        The model, frozen and in eval mode, on the classifier's device.

    Raises:
        TypeError: The classifier, a batch or a setting has the wrong type.
        ValueError: A setting has a wrong value, one side has fewer than ten samples, targets are no classes, or the
            classifier's logits are not finite.

    Example:
        >>> classifier = nn.Linear(4, 3)
        >>> known, unknown = ([(torch.randn(32, 4), torch.arange(32) % 3)] for _ in range(2))
        >>> attack = train_membership_model(classifier, known, unknown, features="confidences")
        >>> attack(classifier(known[0][0]), known[0][1]).shape
        torch.Size([32])
    """
    model = eager(model)
    check_integer("epochs", epochs)
    check_number("lr", lr)
    sides = [_collect(model, batches, name) for name, batches in (("members", members), ("others", others))]
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        attack = MembershipModel(features, sides[0].logits.shape[1], hidden).to(sides[0].logits.device)
    kept, held_out = zip(*(side.divided(generator) for side in sides), strict=True)
    with torch.enable_grad(), fresh_casts():
        _fit(attack, kept, epochs, lr, generator)
    with torch.no_grad():
        odds = [attack(side.logits, side.targets) for side in held_out]
        attack.area = area_under_curve(*odds)
        attack.unseen = float(odds[1].double().sigmoid().mean())
    return frozen(attack)


@dataclass(frozen=True, eq=False)
class _Side:
    """What the classifier returns for samples that are all members, or all others.

    Attributes:
        logits: [N, C], at least float32.
        targets: int64 [N].
    """

    logits: Tensor
    targets: Tensor

    def divided(self, generator: torch.Generator) -> tuple[_Side, _Side]:
        """Return the samples to train with and those held out, drawn at random."""
        order = torch.randperm(len(self.targets), generator=generator, device="cpu").to(self.targets.device)
        held_out, kept = order.tensor_split([len(order) // _HELD_OUT])
        return self._rows(kept), self._rows(held_out)

    def _rows(self, rows: Tensor) -> _Side:
        return _Side(self.logits[rows], self.targets[rows])


def _collect(model: nn.Module, batches: LabelledData, name: str) -> _Side:
    """Run the classifier on the samples of a side."""
    parts = []
    with evaluating(model), torch.no_grad():
        for inputs, targets in labelled_batches(batches, name):
            logits = logits_of(forward(model, inputs))
            parts.append((logits.to(torch.promote_types(logits.dtype, torch.float32)), targets.to(logits.device)))
    logits, targets = (torch.cat(part) for part in zip(*parts, strict=True))
    check_classes(targets, check_logits(logits, name), name)
    if len(targets) < _LEAST:
        raise ValueError(f"`{name}` must hold at least {_LEAST} samples, got {len(targets)}")
    return _Side(logits, targets)


def _fit(attack: MembershipModel, sides: Sequence[_Side], epochs: int, lr: float, generator: torch.Generator) -> None:
    """Train on both sides, members first."""
    logits, targets = torch.cat([side.logits for side in sides]), torch.cat([side.targets for side in sides])
    sizes = [len(side.targets) for side in sides]
    device = logits.device
    truth = torch.cat([torch.full((size,), float(not n), device=device) for n, size in enumerate(sizes)]).to(logits)
    weights = torch.cat([torch.full((size,), sum(sizes) / (2 * size), device=device) for size in sizes]).to(logits)
    attack.to(logits.dtype)
    shown = FEATURES[attack.features](logits, targets)
    attack.mean.copy_(shown.mean(0))
    attack.deviation.copy_(shown.std(0, correction=0).clamp(min=1e-6))
    optimizer = torch.optim.Adam(attack.parameters(), lr)
    for _ in range(epochs):
        for rows in torch.randperm(len(truth), generator=generator, device="cpu").to(truth.device).split(64):
            optimizer.zero_grad()
            odds = attack(logits[rows], targets[rows])
            F.binary_cross_entropy_with_logits(odds, truth[rows], weights[rows]).backward()
            optimizer.step()
