"""What a classifier would say of samples had it not been trained on them, read off samples that it was not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastforget.batch import Inputs
from fastforget.losses import log_odds
from fastforget.observation import Observation, observe
from fastforget.unlearning.batches import Batch, Forgotten

__all__ = ["AuditSet", "twins_of"]

_STRANGER = -30.0  # log-odds of a class that nothing is known of
_LEAST = 0.05  # nats; every sample is drawn now and then


@dataclass(frozen=True)
class AuditSet:
    """Samples to forget, in memory, each with what is to be said of it.

    Attributes:
        everything: The samples with their goals and twins, see `Forgotten`.
        distance: How far each has to move, in log-odds of its class; positive.
    """

    everything: Forgotten
    distance: Tensor

    @classmethod
    def of(
        cls,
        model: nn.Module,
        forget: Sequence[Batch],
        remaining: Collection[int],
        unseen: Iterable[tuple[Any, Tensor]] | None,
    ) -> AuditSet:
        """Match samples with unseen ones.

        The goal of a sample holds its class as likely as its twin's is held, see `twins_of`, and gives the rest to the
        class that the model takes for the second most likely.

        Args:
            model: The eager module, in eval mode.
            forget: Batches to forget, on its device.
            remaining: Classes of which samples remain.
            unseen: Batches that it was not trained on; None where no class to forget remains.

        Returns:
            The set.

        Raises:
            TypeError: A batch has the wrong type.
            ValueError: Samples of a class that remains have no unseen sample of the class; see also `observe`.
        """
        seen = observe(model, forget, "forget")
        others = None if unseen is None else observe(model, unseen, "unseen")
        twins = twins_of(seen, others, remaining)
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
        everything = Forgotten(inputs, targets, goals.to(like), twins.to(like))
        return cls(everything, (log_odds(seen.logits, seen.targets) - odds).abs().clamp(min=_LEAST))

    def draw(self, size: int, generator: torch.Generator) -> Forgotten:
        """Return some of the samples, the more often the farther they have to move."""
        count = min(size, len(self.distance))
        rows = torch.multinomial(self.distance, count, generator=generator).to(self.everything.targets.device)
        return Forgotten(
            **pytree.tree_map(lambda value: value[rows] if isinstance(value, Tensor) else value, vars(self.everything))
        )


def twins_of(seen: Observation, unseen: Observation | None, remaining: Collection[int]) -> Tensor:
    """Return the logits of an unseen twin of each sample, [N, C].

    Of samples that it was trained on, a model is surest of those that it would have known anyway. So the sample that it
    is surest of within a class is matched with the unseen sample of the class that it is surest of, and so on: the
    monotone rearrangement of one distribution into the other. Of a class that does not remain nothing would be known:
    there the twin is the sample itself, with its class as good as excluded.

    Args:
        seen: What the model says of the samples.
        unseen: What it says of samples that it was not trained on.
        remaining: Classes of which samples remain.

    Returns:
        The logits.

    Raises:
        ValueError: Samples of a class that remains have no unseen sample of the class.
    """
    own = seen.targets[:, None]
    rest = seen.logits.scatter(1, own, -torch.inf).logsumexp(1, keepdim=True)
    twins = seen.logits.scatter(1, own, rest + _STRANGER)
    for label in sorted(set(seen.targets.tolist()) & set(remaining)):
        theirs = [] if unseen is None else (unseen.targets == label).nonzero().squeeze(1)
        if unseen is None or not len(theirs):
            raise ValueError(f"`unseen` must hold samples of every class of samples to forget, got none of {label}")
        mine = (seen.targets == label).nonzero().squeeze(1)
        mine = mine[log_odds(seen.logits[mine], seen.targets[mine]).argsort(stable=True)]
        theirs = theirs[log_odds(unseen.logits[theirs], unseen.targets[theirs]).argsort(stable=True)]
        place = (torch.arange(len(mine), device=theirs.device) + 0.5) * len(theirs) / len(mine)
        twins[mine] = unseen.logits[theirs[place.long()]]
    return twins
