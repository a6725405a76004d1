"""What a class is hidden behind: offsets of its logit that bring it back.

An output bias that was lowered hides a class and takes nothing out of the network. An offset is what an attacker adds
to the logit of a class; it is found and applied on the logits alone, whatever layers the model has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastforget.classifier.predictions import Predictions

__all__ = ["best_offsets", "old_offsets", "shifted", "usual_offsets"]

_SWEEPS = 10  # over the classes; with one class the first is exact


def best_offsets(seen: Predictions, classes: Sequence[int]) -> Tensor:
    """Return the offset of each class's logit with the highest balanced accuracy over all classes.

    Exact for one class: the accuracy changes only where the logit of the class passes the largest other one, so each
    interval between two such places is tried, and the middle of the widest best one taken. Several classes take turns
    until nothing gets better.

    Args:
        seen: Predictions for a few samples of every class.
        classes: Whose logits may be moved.

    Returns:
        Offsets [C], nats; 0 for the other classes, and where no offset is better than none.
    """
    logits, targets = seen.logits.clone(), seen.targets
    weights = 1.0 / torch.bincount(targets, minlength=logits.shape[1]).clamp(min=1).double()[targets]
    offsets = logits.new_zeros(logits.shape[1])
    for _ in range(_SWEEPS):
        before = offsets.clone()
        for cls in classes:
            step = _best_offset(logits, targets, weights, cls)
            offsets[cls] += step
            logits[:, cls] += step
        if torch.equal(offsets, before):
            break
    return offsets


def _best_offset(logits: Tensor, targets: Tensor, weights: Tensor, cls: int) -> float:
    others = logits.clone()
    others[:, cls] = -torch.inf
    rival = others.max(1)
    margins = rival.values - logits[:, cls]  # an offset above it makes the class the predicted one
    gain = torch.where(targets == cls, weights, torch.where(rival.indices == targets, -weights, 0.0))
    places, order = margins.sort()
    distinct = places.diff(append=places.new_full((1,), torch.inf)) > 0
    ends = places[distinct]
    # The score of an offset in each interval: below all places, between two, above all.
    scores = torch.cat([gain.new_zeros(1), gain[order].cumsum(0)[distinct]])
    now = scores[int(torch.searchsorted(ends, ends.new_zeros(())))]
    best = scores.max()
    if best <= now + 1e-12:
        return 0.0
    edges = torch.cat([ends[:1] - 1, ends, ends[-1:] + 1])
    widths = torch.where(scores >= best - 1e-12, edges[1:] - edges[:-1], -1.0)
    place = int(widths.argmax())
    return float(edges[place] + edges[place + 1]) / 2


def old_offsets(seen: Predictions, original: Predictions, classes: Sequence[int]) -> Tensor:
    """Return the offsets that put each class as far below the others, on their samples, as it was in the original.

    ``offset = mean of (log-odds in the original - log-odds)`` over samples of the other classes, where log-odds compare
    the class with those that are not moved. For a model whose output bias was lowered this is by how much. The level on
    the samples of the class itself would not do: raised to it, every class is predicted for nearly everything.

    Args:
        seen: Predictions of the model for a few samples of every class.
        original: Those of the model before forgetting, for the same samples.
        classes: Whose logits may be moved.

    Returns:
        Offsets [C], nats; 0 for the other classes.
    """
    return _raised(seen, classes, _levels(original, classes))


def usual_offsets(seen: Predictions, classes: Sequence[int]) -> Tensor | None:
    """Return the offsets that put each class as far below the others, on their samples, as the others are on average.

    The bias that a class usually has in this model, for an attacker without the original. In a network trained without
    a class, its own samples are still not predicted as the class then.

    Args:
        seen: Predictions of the model for a few samples of every class.
        classes: Whose logits may be moved.

    Returns:
        Offsets [C], nats; 0 for the other classes. None where fewer than two other classes have samples.
    """
    others = sorted(set(seen.targets.tolist()) - set(classes))
    if len(others) < 2:
        return None
    levels = []
    for cls in others:
        strangers = seen.of_classes([k for k in others if k != cls])
        rivals = strangers.logits[:, [k for k in others if k != cls]].logsumexp(1)
        levels.append((strangers.logits[:, cls] - rivals).mean())
    return _raised(seen, classes, torch.stack(levels).mean().expand(len(classes)))


def _levels(seen: Predictions, classes: Sequence[int]) -> Tensor:
    """Return the mean log-odds of each class on samples of the others, compared with those alone."""
    moved = torch.zeros_like(seen.logits[0], dtype=torch.bool)
    moved[list(classes)] = True
    logits = seen.logits[~moved[seen.targets]]
    return (logits[:, list(classes)] - logits[:, ~moved].logsumexp(1, keepdim=True)).mean(0)


def _raised(seen: Predictions, classes: Sequence[int], levels: Tensor) -> Tensor:
    offsets = torch.zeros_like(seen.logits[0])
    offsets[list(classes)] = levels - _levels(seen, classes)
    return offsets


def shifted(seen: Predictions, offsets: Tensor) -> Predictions:
    """Return the predictions with offsets [C] added to the logits."""
    return Predictions(seen.logits + offsets, seen.targets)
