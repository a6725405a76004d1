"""`one_shot` and `learn_to_unlearn`, called as all methods of a comparison are: ``method(model, forget, remain)``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import chain
from typing import Any, TypeVar

from torch import Tensor, nn

from fastforget.auditing.few_samples import first_of_each
from fastforget.class_forgetting.one_shot import one_shot as by_codes
from fastforget.classifier.arguments import check_integer
from fastforget.classifier.data_forms import batches_of
from fastforget.classifier.labelled_batches import joined
from fastforget.codes.mnemonic_codes import MnemonicCodes
from fastforget.edits.receipt import Receipt
from fastforget.membership.model import FEATURES
from fastforget.membership.training import train_membership_model
from fastforget.sample_forgetting.learn_to_unlearn import learn_to_unlearn as by_feedback

__all__ = ["learn_to_unlearn", "one_shot"]

_Pair = tuple[Any, Tensor]
_Adapter = TypeVar("_Adapter", bound=Callable[..., Receipt])


def _with_settings_of(function: Callable[..., Any], *held: str) -> Callable[[_Adapter], _Adapter]:
    """Say in the signature of an adapter which settings its ``**settings`` are, without those that are held back."""

    def decorate(adapter: _Adapter) -> _Adapter:
        own = [p for p in inspect.signature(adapter).parameters.values() if p.kind is not p.VAR_KEYWORD]
        taken = {*held, *(p.name for p in own)}
        others = [
            p
            for p in inspect.signature(function).parameters.values()
            if p.kind is p.KEYWORD_ONLY and p.name not in taken
        ]
        adapter.__signature__ = inspect.Signature([*own, *others])  # type: ignore[attr-defined]
        return adapter

    return decorate


@_with_settings_of(by_codes, "samples", "forgotten", "fisher", "update", "floor", "undo", "progress")
def one_shot(
    model: nn.Module,
    forget: _Pair,
    remain: _Pair,
    *,
    codes: MnemonicCodes | None = None,
    per_class: int | None = None,
    **settings: Any,
) -> Receipt:
    """Forget all classes of ``forget`` in one step, see `fastforget.one_shot`.

    Args:
        model: The classifier, changed in place.
        forget: Samples to forget, as a pair (inputs, targets).
        remain: The remaining samples, in the same form.
        codes: The codes that the model was trained with; None without codes.
        per_class: How many samples of each class it gets; by default 16 without codes, and none with them.
        settings: Those of `fastforget.one_shot`.

    Returns:
        The receipt.
    """
    count = (16 if codes is None else 0) if per_class is None else per_class
    check_integer("per_class", count, least=0)
    both = chain(*(batches_of(data, name) for name, data in (("forget", forget), ("remain", remain))))
    samples = joined(first_of_each(both, count), "samples") if count else None
    classes = sorted(set(forget[1].tolist()))
    return by_codes(model, codes, classes, samples=samples, undo=False, **settings)


@_with_settings_of(by_feedback, "attacks", "optimizer", "floor", "callback", "checkpoint", "every", "progress", "undo")
def learn_to_unlearn(
    model: nn.Module,
    forget: _Pair,
    remain: _Pair,
    *,
    unseen: _Pair | None = None,
    membership: bool = False,
    **settings: Any,
) -> Receipt:
    """Forget samples by feedback, see `fastforget.learn_to_unlearn`.

    Args:
        model: The classifier, changed in place.
        forget: Samples to forget, as a pair (inputs, targets).
        remain: The remaining samples, in the same form.
        unseen: Samples that the model was not trained on.
        membership: Whether to train membership models of every kind first, on ``remain`` and ``unseen``.
        settings: Those of `fastforget.learn_to_unlearn`.

    Returns:
        The receipt.

    Raises:
        ValueError: There is no ``unseen`` for the membership models.
    """
    if membership and unseen is None:
        raise ValueError("`membership` needs `data.unseen`, got none")
    kinds = FEATURES if membership else ()
    attacks = [train_membership_model(model, remain, unseen, features=kind) for kind in kinds if unseen is not None]
    return by_feedback(model, forget, remain, unseen=unseen, attacks=attacks, undo=False, **settings)
