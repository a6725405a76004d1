"""What kind of problem a model solves, where its configuration says so."""

from __future__ import annotations

from torch import nn

__all__ = ["check_one_class_each"]

_OTHERS = ("multi_label_classification", "regression")  # what transformers calls them


def check_one_class_each(model: nn.Module) -> None:
    """Check that a model tells one class of each sample, as far as its configuration says what it does.

    Everything here reads logits by a softmax, which says nothing of a model whose outputs are independent.

    Args:
        model: The eager module; those of transformers have ``config.problem_type``.

    Raises:
        ValueError: It solves another problem.
    """
    problem = getattr(getattr(model, "config", None), "problem_type", None)
    if problem in _OTHERS:
        raise ValueError(
            f"`model` must tell one class of each sample, got one with config.problem_type {problem!r}: its outputs "
            "are no logits of a softmax"
        )
