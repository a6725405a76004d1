"""What a comparison forgets: classes, samples, or a share of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastforget.comparison.samples import Samples

__all__ = ["Selection"]


@dataclass(frozen=True)
class Selection:
    """What is to be forgotten; one of the three is given.

    Attributes:
        classes: All samples of these classes.
        samples: The samples in these places of the training data.
        share: So large a share of the training data, drawn by the seed.
    """

    classes: Sequence[int] = ()
    samples: Sequence[int] = ()
    share: float | None = None

    @classmethod
    def read(cls, table: Mapping[str, Any], train: Samples, test: Samples) -> Selection:
        """Read the table ``forget``.

        Args:
            table: The table.
            train: The training data.
            test: The test data, as much of it as is measured.

        Returns:
            What is to be forgotten.

        Raises:
            ValueError: There are no such classes or samples, nothing remains, or ``test`` cannot show what is forgotten
                or what remains.
        """
        chosen = cls(**table)
        missing = [label for label in chosen.classes if label not in train.classes]
        if missing:
            raise ValueError(f"`forget.classes` must be classes of `data.train`, {train.classes}, got {missing[0]}")
        beyond = [place for place in chosen.samples if place >= len(train)]
        if beyond:
            raise ValueError(f"`forget.samples` must be places in `data.train` of {len(train)}, got {beyond[0]}")
        return chosen._checked(train, test)

    def _checked(self, train: Samples, test: Samples) -> Selection:
        mask = self.mask(train.targets, 0)
        if not bool(mask.any()) or bool(mask.all()):
            raise ValueError(f"`forget` must leave some samples and take some, got {int(mask.sum())} of {len(train)}")
        gone, kept = train.rows(mask).classes, train.rows(~mask).classes
        untested = gone if self.share is None else train.classes
        untested = [label for label in untested if label not in test.classes]
        if untested:
            raise ValueError(f"`data.test` must have samples of every class to forget, got none of {untested}")
        if set(kept).isdisjoint(test.classes):
            raise ValueError(f"`data.test` must have samples of classes that remain, got none of {kept}")
        return self

    def mask(self, targets: Tensor, seed: int) -> Tensor:
        """Return which samples are to be forgotten.

        Args:
            targets: Classes of the training data, int64 [N].
            seed: Draws the share.

        Returns:
            bool [N].
        """
        if self.share is None and not self.samples:
            return torch.isin(targets, torch.tensor(list(self.classes), device=targets.device))
        places = torch.tensor(list(self.samples), dtype=torch.int64)
        if self.share is not None:
            order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
            places = order[: round(self.share * len(targets))]
        mask = torch.zeros(len(targets), dtype=torch.bool, device=targets.device)
        mask[places.to(targets.device)] = True
        return mask
