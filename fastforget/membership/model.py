"""A differentiable model that tells the training data of a classifier from other data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from os import PathLike

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastforget.classifier.arguments import check_choice, check_integer
from fastforget.classifier.losses import log_odds
from fastforget.files import membership_file

__all__ = ["FEATURES", "MembershipModel", "frozen"]

_LEAST = -30.0  # log-probabilities and log-odds below it make no difference


def _centred(logits: Tensor, targets: Tensor) -> Tensor:
    own = torch.zeros_like(logits).scatter(1, targets[:, None], 1.0)
    return torch.cat([logits - logits.mean(1, keepdim=True), own], 1)


def _confidences(logits: Tensor, _: Tensor) -> Tensor:
    return logits.log_softmax(1).clamp(min=_LEAST).sort(1, descending=True).values


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    odds = log_odds(logits, targets).clamp(_LEAST, -_LEAST)
    return torch.stack([F.softplus(-odds), odds], 1)


FEATURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "logits": _centred,
    "confidences": _confidences,
    "loss": _loss,
}
"""What a membership model is shown of logits [N, C] and targets [N], by name; each function returns [N, width]."""


class MembershipModel(nn.Module):
    """Tells from a classifier's logits of a sample whether the classifier was trained on it.

    ``log-odds of membership = network((features(logits, targets) - mean) / deviation)``, where the network has linear
    layers with SiLU between them. It is smooth almost everywhere: its gradient can teach a classifier to treat a sample
    like an unseen one.

    Source: attack models of Shokri et al., "Membership Inference Attacks Against Machine Learning Models", S&P 2017;
    the log-odds of the own class as a feature from Carlini et al., "Membership Inference Attacks From First
    Principles", S&P 2022.

    Those that `train_membership_model` and `load` return are frozen and in eval mode.

    Attributes:
        features: "logits": the logits less their mean, and the class; "confidences": the log-probabilities in
            descending order, without the class; "loss": the cross-entropy and the log-odds of the class.
        classes: C.
        hidden: Widths of the hidden layers; none for logistic regression.
        area: Area under the ROC curve on samples that were held out of its training; 0.5 is chance, NaN is untrained.
        unseen: Its mean probability of membership for held-out samples that the classifier was not trained on; NaN is
            untrained.
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
        check_choice("features", features, tuple(FEATURES))
        check_integer("classes", classes, least=2)
        for width in hidden:
            check_integer("each width of `hidden`", width)
        self.features: str = features
        self.classes: int = classes
        self.hidden: tuple[int, ...] = tuple(hidden)
        self.area: float = math.nan
        self.unseen: float = math.nan
        sample = torch.zeros(1, classes, device="cpu"), torch.zeros(1, dtype=torch.int64, device="cpu")
        widths = [FEATURES[features](*sample).shape[1], *hidden, 1]
        layers: list[nn.Module] = []
        for inner, outer in pairwise(widths):
            layers += [nn.Linear(inner, outer), nn.SiLU()]
        self.network: nn.Sequential = nn.Sequential(*layers[:-1])
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
        odds: Tensor = self.network((shown - self.mean) / self.deviation)
        return odds.squeeze(1)

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
                attack = cls(**description)
            membership_file.check_tensors(tensors, attack.state_dict())
            attack.load_state_dict(tensors, assign=True)
        except ValueError as error:
            raise ValueError(f"`{path}` does not hold a usable membership model: {error}") from error
        attack.area, attack.unseen = area, unseen
        return frozen(attack)


def frozen(attack: MembershipModel) -> MembershipModel:
    """Return the model itself, in eval mode and without gradients."""
    attack.zero_grad()
    return attack.requires_grad_(requires_grad=False).eval()
