"""Twins: each sample to forget is paired with a similar unseen one, whose prediction becomes its goal."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastforget.classifier.data_forms import Batch, LabelledData
from fastforget.classifier.inputs import Inputs
from fastforget.classifier.losses import log_odds
from fastforget.classifier.predictions import Predictions, collect_predictions
from fastforget.sample_forgetting.loaders import ForgetBatch

__all__ = ["MatchedSamples", "twin_logits"]

_EXCLUDED = -30.0  # log-odds of a class that does not remain
_LEAST_DISTANCE = 0.05  # log-odds; so that every sample is drawn now and then


@dataclass(frozen=True, eq=False)
class MatchedSamples:
    """Samples to forget, in memory, each with its goal and its twin.

    Attributes:
        samples: All of them, with goals and twins.
        distances: How far each has to move, in log-odds of its class; positive, float64 [N] on the CPU.
    """

    samples: ForgetBatch
    distances: Tensor

    @classmethod
    def match(
        cls, model: nn.Module, forget: Sequence[Batch], remaining: Collection[int], unseen: LabelledData | None
    ) -> MatchedSamples:
        """Match samples to forget with unseen ones, see `twin_logits`.

        In the goal of a sample, its class is as likely as the twin's class is for the twin. The rest goes to the class
        that the model finds most likely beside it.

        Args:
            model: The eager module, in eval mode.
            forget: Batches to forget, on its device.
            remaining: Classes of which samples remain.
            unseen: Samples that the model was not trained on; None where no class to forget remains.

        Returns:
            The samples with their goals and twins.

        Raises:
            TypeError: A batch has the wrong type.
            ValueError: Samples of a class that remains have no unseen sample of the class; see also
            `collect_predictions`.
        """
        seen = collect_predictions(model, forget, "forget")
        others = None if unseen is None else collect_predictions(model, unseen, "unseen")
        twins = twin_logits(seen, others, remaining)
        odds = log_odds(twins, seen.targets)
        own = seen.targets[:, None]
        second = seen.logits.scatter(1, own, -torch.inf).argmax(1, keepdim=True)
        likely = odds.sigmoid()[:, None]
        goals = torch.zeros_like(twins).scatter(1, own, likely).scatter(1, second, 1 - likely)
        inputs: Inputs = pytree.tree_map(
            lambda *parts: torch.cat(parts) if isinstance(parts[0], Tensor) else parts[0], *(part for part, _ in forget)
        )
        targets = torch.cat([targets for _, targets in forget])
        like = next(model.parameters())
        distances = (log_odds(seen.logits, seen.targets) - odds).abs().clamp(min=_LEAST_DISTANCE)
        return cls(ForgetBatch(inputs, targets, goals.to(like), twins.to(like)), distances)

    def draw(self, size: int, generator: torch.Generator) -> ForgetBatch:
        """Draw different samples at random; those that have farther to move are drawn more often.

        Args:
            size: How many; all if there are fewer.
            generator: On the CPU.

        Returns:
            The samples.
        """
        count = min(size, len(self.distances))
        rows = torch.multinomial(self.distances, count, generator=generator)
        return self.samples.select(rows.to(self.samples.targets.device))


def twin_logits(seen: Predictions, unseen: Predictions | None, remaining: Collection[int]) -> Tensor:
    """Return the logits of an unseen twin of each sample, [N, C].

    A model is surest of training samples that it would get right unseen, too. So samples are matched by rank within
    each class: the one that the model is surest of with the unseen one that it is surest of, and so on. This is the
    monotone rearrangement of one distribution into the other. A class that does not remain would be unknown to a model
    trained again: there the twin is the sample itself, with its class as good as excluded.

    Args:
        seen: The model's predictions for the samples.
        unseen: Its predictions for samples that it was not trained on.
        remaining: Classes of which samples remain.

    Returns:
        The logits.

    Raises:
        ValueError: Samples of a class that remains have no unseen sample of the class.
    """
    own = seen.targets[:, None]
    rest = seen.logits.scatter(1, own, -torch.inf).logsumexp(1, keepdim=True)
    twins = seen.logits.scatter(1, own, rest + _EXCLUDED)
    for label in sorted(set(seen.targets.tolist()) & set(remaining)):
        theirs = [] if unseen is None else (unseen.targets == label).nonzero().squeeze(1)
        if unseen is None or not len(theirs):
            raise ValueError(f"`unseen` must hold samples of every class of samples to forget, got none of {label}")
        mine = (seen.targets == label).nonzero().squeeze(1)
        mine = mine[log_odds(seen.logits[mine], seen.targets[mine]).argsort(stable=True)]
        theirs = theirs[log_odds(unseen.logits[theirs], unseen.targets[theirs]).argsort(stable=True)]
        ranks = (torch.arange(len(mine), device=theirs.device) + 0.5) * len(theirs) / len(mine)
        twins[mine] = unseen.logits[theirs[ranks.long()]]
    return twins
