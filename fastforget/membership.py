"""Membership inference: differentiable models that tell the training data of a classifier from other data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from os import PathLike
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastforget.batch import batch_size, forward, logits_of
from fastforget.files import membership_file
from fastforget.losses import log_odds
from fastforget.model import eager, evaluating, fresh_casts

__all__ = ["FEATURES", "MembershipModel", "area_under_curve", "train_membership_model"]

_LEAST = -30.0  # nats; what a classifier holds for less likely than that is all the same
_HELD_OUT = 5


def _centred(logits: Tensor, targets: Tensor) -> Tensor:
    own = torch.zeros_like(logits).scatter(1, targets[:, None], 1.0)
    return torch.cat([logits - logits.mean(1, keepdim=True), own], 1)


def _confidences(logits: Tensor, _: Tensor) -> Tensor:
    return logits.log_softmax(1).clamp(min=_LEAST).sort(1, descending=True).values


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    odds = log_odds(logits, targets).clamp(_LEAST, -_LEAST)
    return torch.stack([F.softplus(-odds), odds], 1)


# What a model is shown of logits [N, C] and targets [N].
FEATURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "logits": _centred,
    "confidences": _confidences,
    "loss": _loss,
}


class MembershipModel(nn.Module):
    """Says of samples whether a classifier was trained on them, by what the classifier says of the samples.

    ``log-odds of membership = network((features(logits, targets) - mean) / deviation)``, a network of linear layers
    with SiLU between them. It is smooth almost everywhere, so that its gradient can teach a classifier to look as if it
    had never seen a sample.

    Source: attack models of Shokri et al., "Membership Inference Attacks Against Machine Learning Models", S&P 2017;
    the log-odds of the own class as a feature from Carlini et al., "Membership Inference Attacks From First
    Principles", S&P 2022.

    Made by `train_membership_model` or `load`; frozen and in eval mode then.

    Attributes:
        features: "logits": the logits, against their mean, and the class; "confidences": the log-probabilities in
            descending order, without the class; "loss": the cross-entropy and the log-odds of the class.
        classes: C.
        hidden: Widths of the hidden layers; none for logistic regression.
        area: Area under the curve on samples that were held out of its training, 0.5 for chance; NaN before.
        unseen: What it says on average of such samples that the classifier was not trained on, as a probability of
            membership; NaN before.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: str, classes: int, hidden: Sequence[int] = (64,)) -> None:
        """Build it untrained, with the random state as it is.

        Raises:
            TypeError: A width is not an integer.
            ValueError: Unknown features, fewer than two classes, or a width that is not positive.
        """
        super().__init__()
        if features not in FEATURES:
            raise ValueError(f"`features` must be one of {list(FEATURES)}, got {features!r}")
        for name, value, least in (("classes", classes, 2), *(("hidden", width, 1) for width in hidden)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"`{name}` must be made of integers, got {value!r}")
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}")
        self.features, self.classes, self.hidden = features, classes, tuple(hidden)
        self.area = self.unseen = math.nan
        one = torch.zeros(1, classes, device="cpu"), torch.zeros(1, dtype=torch.int64, device="cpu")
        widths = [FEATURES[features](*one).shape[1], *hidden, 1]
        layers: list[nn.Module] = []
        for inner, outer in pairwise(widths):
            layers += [nn.Linear(inner, outer), nn.SiLU()]
        self.network = nn.Sequential(*layers[:-1])
        self.register_buffer("mean", torch.zeros(widths[0]))
        self.register_buffer("deviation", torch.ones(widths[0]))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the log-odds of membership, [N], from the classifier's logits [N, C] and the classes, int64 [N].

        Raises:
            ValueError: The shapes do not fit.
        """
        if logits.dim() != 2 or logits.shape[1] != self.classes or targets.shape != logits.shape[:1]:
            raise ValueError(
                f"`logits` must be [N, {self.classes}] with as many `targets`, got shapes {tuple(logits.shape)} and "
                f"{tuple(targets.shape)}"
            )
        shown = FEATURES[self.features](logits.to(self.mean.dtype), targets)
        found: Tensor = self.network((shown - self.mean) / self.deviation)
        return found.squeeze(1)

    def save(self, path: str | PathLike[str]) -> None:
        """Write a safetensors file with a checksum.

        Args:
            path: The file; overwritten if it exists.
        """
        description = {"features": self.features, "classes": self.classes, "hidden": list(self.hidden)}
        membership_file.write(path, {**description, "area": self.area, "unseen": self.unseen}, self.state_dict())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> MembershipModel:
        """Read what `save` wrote; a file from a stranger can be refused but cannot run code.

        Args:
            path: The file.

        Returns:
            The model, on the CPU.

        Raises:
            ValueError: The file is truncated, changed, foreign or of a newer version.
        """
        try:
            description, tensors = membership_file.read(path)
            area, unseen = description.pop("area"), description.pop("unseen")
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                found = cls(**description)
            membership_file.check_tensors(tensors, found.state_dict())
            found.load_state_dict(tensors, assign=True)
        except ValueError as error:
            raise ValueError(f"`{path}` does not hold a usable membership model: {error}") from error
        found.area, found.unseen = area, unseen
        return _frozen(found)


def train_membership_model(
    model: nn.Module,
    members: Iterable[tuple[Any, Tensor]],
    others: Iterable[tuple[Any, Tensor]],
    *,
    features: str = "loss",
    hidden: Sequence[int] = (64,),
    epochs: int = 30,
    lr: float = 0.01,
    seed: int = 0,
) -> MembershipModel:
    """Train a membership model for a classifier, from samples that it was and was not trained on.

    Binary cross-entropy in which both sides weigh the same, Adam, batches of 64. A fifth of each side is held out, for
    `area` and `unseen` of the result. The same seed gives the same model.

    Args:
        model: The classifier, not changed; logits [N, C] from its forward.
        members: Batches (inputs, targets) of its training data, on its device, for instance a DataLoader.
        others: Batches of data of the same kind that it was not trained on.
        features: What the model is shown, see `MembershipModel`.
        hidden: Widths of its hidden layers.
        epochs: Passes over the samples.
        lr: The learning rate.
        seed: Of the weights, of the order, and of what is held out.

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
    if isinstance(epochs, bool) or not isinstance(epochs, int):
        raise TypeError(f"`epochs` must be an integer, got {type(epochs).__name__}")
    if isinstance(lr, bool) or not isinstance(lr, (int, float)):
        raise TypeError(f"`lr` must be a number, got {type(lr).__name__}")
    if epochs < 1 or not 0 < lr < math.inf:
        raise ValueError(f"`epochs` must be at least 1 and `lr` positive, got {epochs} and {lr}")
    sides = [_observe(model, data, name) for name, data in (("members", members), ("others", others))]
    classes = sides[0][0].shape[1]
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        found = MembershipModel(features, classes, hidden).to(sides[0][0].device)
    held_out, kept = [], []
    for logits, targets in sides:
        order = torch.randperm(len(targets), generator=generator, device="cpu").to(targets.device)
        first = len(order) // _HELD_OUT
        held_out.append((logits[order[:first]], targets[order[:first]]))
        kept.append((logits[order[first:]], targets[order[first:]]))
    with torch.enable_grad(), fresh_casts():
        _fit(found, kept, epochs, lr, generator)
    with torch.no_grad():
        odds = [found(*side) for side in held_out]
        found.area = area_under_curve(*odds)
        found.unseen = float(odds[1].double().sigmoid().mean())
    return _frozen(found)


def area_under_curve(members: Tensor, others: Tensor) -> float:
    """Return the probability that a member's score is above another's, a tie counting half: the area under the ROC.

    Args:
        members: Scores [N]; higher for membership.
        others: Scores [M].

    Returns:
        In [0, 1]; 0.5 is chance.

    Raises:
        ValueError: A side is empty, or a score is NaN.

    Example:
        >>> area_under_curve(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0]))
        0.875
    """
    for name, scores in (("members", members), ("others", others)):
        if not len(scores) or bool(scores.isnan().any()):
            raise ValueError(f"`{name}` must hold scores, not NaN, got shape {tuple(scores.shape)}")
    ordered = others.sort().values
    below, at_most = (torch.searchsorted(ordered, members.contiguous(), right=right) for right in (False, True))
    return float((below + at_most).double().mean()) / (2 * len(others))


def _observe(model: nn.Module, data: Iterable[tuple[Any, Tensor]], name: str) -> tuple[Tensor, Tensor]:
    """Return the classifier's logits [N, C], at least float32, and the targets."""
    found = []
    with evaluating(model), torch.no_grad():
        for inputs, targets in data:
            batch_size(inputs, targets)
            logits = logits_of(forward(model, inputs))
            found.append((logits.to(torch.promote_types(logits.dtype, torch.float32)), targets.to(logits.device)))
    count = sum(len(targets) for _, targets in found)
    if count < 2 * _HELD_OUT:
        raise ValueError(f"`{name}` must hold at least {2 * _HELD_OUT} samples, got {count}")
    logits, targets = (torch.cat(parts) for parts in zip(*found, strict=True))
    if logits.dim() != 2:
        raise ValueError(f"`model` must return logits [N, C], got shape {tuple(logits.shape)}")
    if not bool(logits.isfinite().all()):
        raise ValueError(f"`model` must return finite logits on `{name}`, got NaN or infinity")
    if targets.dtype != torch.int64:
        raise TypeError(f"targets of `{name}` must be torch.int64, got {targets.dtype}")
    low, high = (int(bound) for bound in targets.aminmax())
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(f"targets of `{name}` must be in [0, {logits.shape[1]}), got values from {low} to {high}")
    return logits, targets


def _fit(
    found: MembershipModel, sides: Sequence[tuple[Tensor, Tensor]], epochs: int, lr: float, generator: torch.Generator
) -> None:
    logits, targets = (torch.cat(parts) for parts in zip(*sides, strict=True))
    sizes = [len(side[1]) for side in sides]
    here = logits.device
    truth = torch.cat([torch.full((size,), float(not side), device=here) for side, size in enumerate(sizes)]).to(logits)
    weights = torch.cat([torch.full((size,), sum(sizes) / (2 * size), device=here) for size in sizes]).to(logits)
    found.to(logits.dtype)
    shown = FEATURES[found.features](logits, targets)
    found.mean.copy_(shown.mean(0))
    found.deviation.copy_(shown.std(0, correction=0).clamp(min=1e-6))
    optimizer = torch.optim.Adam(found.parameters(), lr)
    for _ in range(epochs):
        for rows in torch.randperm(len(truth), generator=generator, device="cpu").to(truth.device).split(64):
            optimizer.zero_grad()
            odds = found(logits[rows], targets[rows])
            F.binary_cross_entropy_with_logits(odds, truth[rows], weights[rows]).backward()
            optimizer.step()


def _frozen(found: MembershipModel) -> MembershipModel:
    found.zero_grad()
    return found.requires_grad_(requires_grad=False).eval()
