"""What an audit cannot judge from what it was given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fastforget.auditing.attack_measures import FALSE_POSITIVES, resolved
from fastforget.auditing.features import ModelFeatures
from fastforget.auditing.subjects import Subjects

__all__ = ["find_limits"]


def find_limits(
    subjects: Subjects,
    features: Mapping[str, ModelFeatures | None],
    shadows: int,
    *,
    learnt_again: bool,
    novel: bool = False,
) -> Iterator[str]:
    """Yield what cannot be judged, and why, a sentence each without its end.

    Args:
        subjects: The models.
        features: Their features, None for those without an output layer.
        shadows: How many reference models there were.
        learnt_again: Whether models were made to learn again.
        novel: Whether there are samples of classes that the model never saw.
    """
    gone = bool(subjects.gone_classes)
    if subjects.retrained is None:
        if gone and not novel:
            more = ["whether its features hold more of the class than those of a model that never saw it"]
            more += ["whether it is easier to learn again"] if learnt_again else []
            yield f"{', '.join(more)}: that takes `retrained`, or `novel`"
        yield "whether it is further from the samples than a model that never saw them: that takes `retrained`"
    if subjects.original is None:
        yield "what forgetting cost: that takes `original`"
    without = [name for name, found in features.items() if found is None]
    if without:
        yield f"the features of {', '.join(without)}: no layer was found whose outputs are the logits"
    if shadows == 0:
        yield "what attacks by reference models find: they take `shadows`"
    rates = [rate for rate in FALSE_POSITIVES if not resolved(subjects, rate)]
    if rates:
        there, needed = len(subjects.audited.unseen.targets), round(1 / max(rates))
        shown = " and ".join(f"{100 * rate:g}" for rate in rates)
        yield (
            f"what attacks find at {shown} % false positives: that takes at least {needed} test samples of the classes "
            f"to forget, there are {there}"
        )
