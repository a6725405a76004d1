"""Which classes a checkpoint has forgotten already: from its history, or as `--forgotten` names them."""

from __future__ import annotations

from collections.abc import Sequence

from fastforget.classifier.class_names import name_class
from fastforget.classifier.fingerprint import fingerprint
from fastforget.cli.checkpoints import LoadedModel

__all__ = ["check_not_forgotten", "earlier_classes"]


def earlier_classes(loaded: LoadedModel, given: Sequence[int] | None) -> Sequence[int]:
    """Return the classes that were forgotten earlier.

    Args:
        loaded: The model, with the history of its checkpoint.
        given: The value of `--forgotten`.

    Returns:
        Those of the history; without one, or with one of other weights, those given.

    Raises:
        ValueError: The history cannot be read, or is of other weights and nothing is given, or says something else than
            what is given.
    """
    history = loaded.history
    if not history.edits:
        return given or ()
    found = fingerprint(loaded.model)
    if not history.leads_to(found):
        if given is None:
            raise ValueError(
                f"`{loaded.path}` has a history of edits, but of other weights: the last edit left "
                f"{history.edits[-1].after}, and the model is {found}. Name the classes forgotten earlier with "
                "`--forgotten`; if there are none, write the file without `fastforget.history` in its metadata"
            )
        return given
    if given is not None and set(given) != set(history.forgotten):
        raise ValueError(
            f"`--forgotten` must name the classes that are forgotten according to `{loaded.path}`, "
            f"{sorted(history.forgotten)}, or be left out, got {sorted(given)}"
        )
    return history.forgotten


def check_not_forgotten(
    loaded: LoadedModel, classes: Sequence[int], earlier: Sequence[int], names: Sequence[str] | None = None
) -> None:
    """Check that classes are not forgotten already, according to the history of a checkpoint.

    Args:
        loaded: The model.
        classes: The classes to forget.
        earlier: What `earlier_classes` returned.
        names: What classes are called; None where this is not known.

    Raises:
        ValueError: One is.
    """
    again = [cls for cls in classes if cls in earlier]
    if not again or not loaded.history.edits:
        return
    for edit in reversed(loaded.history.edits):
        if again[0] in edit.classes:
            how = f", by the rule {edit.rule} ({edit.created})"
            break
    else:
        how = ""
    raise ValueError(
        f"class {name_class(again[0], names)} is forgotten already according to `{loaded.path}`{how}: nothing is left "
        "to do. To forget it in another way, `revert` that edit first"
    )
