"""The edits that led to a model, as its checkpoint carries them: what is forgotten travels with the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fastforget.edits.receipt import Receipt
from fastforget.files import edit_history

__all__ = ["EditHistory", "PastEdit"]


@dataclass(frozen=True)
class PastEdit:
    """What a receipt says of an edit, without the values.

    Attributes:
        classes: See `Receipt`; likewise the others.
        rule: How.
        settings: The arguments.
        created: When.
        before: Fingerprint of the model before.
        after: Fingerprint of the model after.
        forgotten: The classes that were forgotten earlier, by the history or as the caller named them.
        codes: Fingerprint of the codes.
        versions: Of the libraries.
        outcome: What was done to the classes, in words.
    """

    classes: tuple[int, ...]
    rule: str
    settings: Mapping[str, Any]
    created: str
    before: str
    after: str
    forgotten: tuple[int, ...]
    codes: str
    versions: Mapping[str, str]
    outcome: str


@dataclass(frozen=True)
class EditHistory:
    """The edits that led to a model, in their order.

    Attributes:
        edits: The first one first; none of a model that was never edited, or whose edits were not noted.

    Example:
        >>> EditHistory.read({"epoch": "12"})
        EditHistory(edits=())
    """

    edits: tuple[PastEdit, ...] = ()

    @classmethod
    def read(cls, metadata: Mapping[str, str] | None) -> EditHistory:
        """Read the history in the metadata of a safetensors file.

        Args:
            metadata: What the file has, if any.

        Returns:
            The history; without edits if there is none.

        Raises:
            ValueError: It cannot be read, or is of a newer version.
        """
        if edit_history.KEY not in (metadata := metadata or {}):
            return cls()
        named = edit_history.read(metadata[edit_history.KEY])
        return cls(tuple(PastEdit(**{key: _frozen(value) for key, value in edit.items()}) for edit in named))

    def written_into(self, metadata: Mapping[str, str] | None) -> dict[str, str] | None:
        """Return metadata with this history in place of what they say; None if nothing is left to say."""
        others = {key: value for key, value in (metadata or {}).items() if key != edit_history.KEY}
        if self.edits:
            others[edit_history.KEY] = edit_history.write([asdict(edit) for edit in self.edits])
        return others or None

    @property
    def forgotten(self) -> tuple[int, ...]:
        """All classes that are forgotten after the last edit, each once, in the order of the edits."""
        return tuple(dict.fromkeys((*self.edits[-1].forgotten, *self.edits[-1].classes))) if self.edits else ()

    def leads_to(self, fingerprint: str) -> bool:
        """Return whether a model is as the last edit left it."""
        return bool(self.edits) and self.edits[-1].after == fingerprint

    def followed_by(self, receipt: Receipt) -> EditHistory:
        """Return the history after one more edit; classes of weights that were changed since are not taken over."""
        known = self.forgotten if self.leads_to(receipt.before) else ()
        names = [name for name in PastEdit.__dataclass_fields__ if name != "forgotten"]
        edit = PastEdit(
            **{name: getattr(receipt, name) for name in names},
            forgotten=tuple(dict.fromkeys((*known, *receipt.forgotten))),
        )
        return EditHistory((*self.edits, edit))

    def without(self, receipt: Receipt) -> EditHistory:
        """Return the history after the last edit was undone; as it is if that edit is not in it."""
        if self.edits and (self.edits[-1].before, self.edits[-1].after) == (receipt.before, receipt.after):
            return EditHistory(self.edits[:-1])
        return self


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
