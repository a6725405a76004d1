"""Classes that a model never saw: what its features say of them is what they may say of a forgotten one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fastforget.auditing.features import Features, ModelFeatures
from fastforget.auditing.few_samples import Part, after_first_of_each, first_of_each, samples_of
from fastforget.auditing.metric import Metric
from fastforget.auditing.relearning import again_curve
from fastforget.classifier.data_forms import LabelledData
from fastforget.classifier.labelled_batches import labelled_batches
from fastforget.classifier.output_layer import find_output_layer

__all__ = ["NovelClass", "compare_again", "compare_probes", "divide"]

_LEAST = 20  # samples of a novel class: half to learn from, half to measure with


@dataclass(frozen=True, eq=False)
class NovelClass:
    """Samples of a class that the model never saw.

    Attributes:
        known: Batches (inputs, targets) of the samples to learn from.
        unseen: Batches of the others.
    """

    known: list[Part]
    unseen: list[Part]

    def in_place_of(self, cls: int) -> NovelClass:
        """Return the same samples with a forgotten class as their target."""
        halves = [[(x, torch.full_like(y, cls)) for x, y in half] for half in (self.known, self.unseen)]
        return NovelClass(*halves)


def divide(data: LabelledData) -> list[NovelClass]:
    """Divide samples of novel classes, each class into halves.

    Args:
        data: The samples, in any form that `batches_of` takes. Targets are numbers of one's own, one for each class.

    Returns:
        The classes, in the order of their numbers.

    Raises:
        TypeError: The data has none of these forms, or targets are not int64.
        ValueError: There are fewer than 20 samples of a class, or none at all.
    """
    batches = list(labelled_batches(data, "novel"))
    counts = sorted(Counter(target for _, targets in batches for target in targets.tolist()).items())
    for novel, count in counts:
        if count < _LEAST:
            raise ValueError(f"`novel` must hold at least {_LEAST} samples of each class, got {count} of class {novel}")
    found = []
    for novel, count in counts:
        own = samples_of(batches, [novel])
        found.append(NovelClass(first_of_each(own, count // 2), after_first_of_each(own, count // 2)))
    return found


def compare_probes(
    metrics: Sequence[Metric],
    classifiers: Sequence[tuple[Callable[[Tensor, Tensor, Tensor], Tensor], int]],
    model: nn.Module,
    features: ModelFeatures | None,
    gone: Sequence[int],
    novel: Sequence[NovelClass],
) -> Iterator[Metric]:
    """Yield metrics of classifiers of the features, with what each says of novel classes.

    Args:
        metrics: One for each classifier.
        classifiers: They learn from features [N, D] and targets [N] and say what other features [M, D] are; with the
            number of samples of each class that they learn from.
        model: The audited model.
        features: Its features of the other data, or None where it has no output layer.
        gone: The forgotten classes. Their samples are left out.
        novel: Novel classes in the place of the first of them.
    """
    if features is None:
        yield from metrics
        return
    known = features.known.of_classes(sorted(set(features.known.targets.tolist()) - set(gone)))
    layer = find_output_layer(model, novel[0].known[0][0])
    assert layer is not None  # noqa: S101 - the model has features
    own = [tuple(Features.of(model, layer, half) for half in (each.known, each.unseen)) for each in novel]
    for metric, (classify, count) in zip(metrics, classifiers, strict=True):
        found = []
        for learnt, unseen in own:
            rest, few = known.first(count), learnt.first(count)
            values, targets = torch.cat([rest.values, few.values]), torch.cat([rest.targets, few.targets])
            found.append(float((classify(values, targets, unseen.values) == unseen.targets).double().mean()))
        yield replace(metric, novel=tuple(found))


def compare_again(
    metrics: Sequence[Metric],
    steps: Sequence[int],
    model: nn.Module,
    few: Sequence[Part],
    gone: Sequence[int],
    novel: Sequence[NovelClass],
    offsets: Tensor | None = None,
) -> Iterator[Metric]:
    """Yield metrics of learning again, with how far novel classes are learnt by the same output in as many steps.

    Args:
        metrics: One for each number of steps.
        steps: After how many steps each looks, in order.
        model: The audited model.
        few: Batches of a few samples of each class.
        gone: The forgotten classes. Their samples are left out.
        novel: Novel classes in the place of the first of them.
        offsets: Added to the logits throughout, [C], nats; None for none.
    """
    counts = Counter(target for _, targets in few for target in targets.tolist())
    others, count = samples_of(few, sorted(set(counts) - set(gone))), max(counts.values())
    curves = [
        dict(again_curve(model, [*others, *first_of_each(each.known, count)], each.unseen, offsets, steps))
        for each in novel
    ]
    for metric, step in zip(metrics, steps, strict=True):
        yield replace(metric, novel=tuple(curve[step] for curve in curves))
