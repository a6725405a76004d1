"""Proofs for people outside: that a log holds a record, and that it continues what it was.

They are JSON files. Who has one can check it without the log, and needs nothing but SHA-256 and, where the head is
signed, Ed25519.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastforget.files.durable import whole_files
from fastforget.files.fields import is_count, is_text, list_of
from fastforget.serving.history.errors import ArchiveError
from fastforget.serving.history.key_changes import KeyChange, read_changes, signer_of
from fastforget.serving.history.log_tree import leaf_of
from fastforget.serving.history.merkle import follows, holds
from fastforget.serving.history.records import Record, make_record
from fastforget.serving.history.tree_head import TreeHead, origin_of

if TYPE_CHECKING:
    from fastforget.files.signing import PublicKey

__all__ = ["HeadProof", "RecordProof", "hashes", "read_object"]

_LARGEST = 2**22  # bytes of a file of JSON
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class RecordProof:
    """The proof that a log holds a record, to be kept by whoever caused it.

    Attributes:
        record: The record.
        path: Hashes of the tree, from the record to the root (RFC 9162, section 2.1.3).
        head: Of the tree.
        public_key: Which key signed the head, base64; empty where it is not signed.
        changes: The keys that signed the log up to there, each with the signature of the one before.
    """

    record: Record
    path: tuple[bytes, ...]
    head: TreeHead
    public_key: str = ""
    changes: tuple[KeyChange, ...] = ()

    def check(self, key: PublicKey | None = None) -> None:
        """Check that it proves what it says.

        Args:
            key: Who must have signed the head, or handed over to who did. Without, a signature is not checked.

        Raises:
            ArchiveError: The record, a hash, the head or the signature is not what it was.
        """
        record = self.record
        made = make_record(record.number, record.fields, record.previous, record.time)
        if made.hash != record.hash:
            raise ArchiveError(f"record {record.number} was changed: its hash does not fit")
        if not record.number and origin_of(record.hash) != self.head.origin:
            raise ArchiveError("the head is that of another log")
        if not holds(leaf_of(record), record.number, self.head.size, self.path, self.head.root):
            raise ArchiveError(f"the proof does not lead from record {record.number} to the hash of the tree")
        if key is not None:
            self.head.check_signature(signer_of(self.changes, key, self.head.origin, self.head.size))

    def describe(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        return {
            "format": "fastforget.proof",
            "version": 1,
            "record": vars(self.record) | {"fields": dict(self.record.fields)},
            "path": [one.hex() for one in self.path],
            "head": self.head.note,
            "public_key": self.public_key,
            "keys": [change.describe() for change in self.changes],
        }

    def save(self, path: str | PathLike[str]) -> None:
        """Write it as JSON.

        Args:
            path: The file; overwritten if it exists.
        """
        _write(path, self.describe())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> RecordProof:
        """Read and check a proof, but for the signature.

        Args:
            path: The file.

        Returns:
            The proof.

        Raises:
            OSError: There is no such file.
            ArchiveError: It is no proof, or does not prove what it says.
        """
        found = read_object(path, "proof", _RECORD_FIELDS)
        try:
            parts = found["record"]
            made = make_record(parts["number"], parts["fields"], parts["previous"], parts["time"])
            if parts != vars(made) | {"fields": dict(made.fields)}:
                raise ArchiveError(f"record {parts['number']} was changed: its hash does not fit")
            keys = read_changes(found["keys"])
            proof = cls(made, hashes(found["path"]), TreeHead.parse(found["head"]), found["public_key"], keys)
            proof.check()
        except (KeyError, TypeError, ValueError) as error:
            raise ArchiveError(f"`{path}` is not a usable proof: {error}") from error
        return proof


@dataclass(frozen=True)
class HeadProof:
    """The head of a log now, and the proof that the log begins with what it held before.

    Attributes:
        head: Of all records; or of all that are signed, where they are.
        since: How many records it is to begin with; 0 for none.
        path: Hashes of the tree (RFC 9162, section 2.1.4).
        public_key: Which key signed the head, base64; empty where it is not signed.
        changes: The keys that signed the log up to there, each with the signature of the one before.
    """

    head: TreeHead
    since: int
    path: tuple[bytes, ...]
    public_key: str = ""
    changes: tuple[KeyChange, ...] = ()

    def check(self, earlier: TreeHead) -> None:
        """Check that the log continues what it was.

        Args:
            earlier: Its head then.

        Raises:
            ArchiveError: It is another log, a smaller one, or one with another past.
        """
        head = self.head
        if head.origin != earlier.origin:
            raise ArchiveError(f"the log must be {earlier.origin}, got {head.origin}: another one was put in its place")
        if head.size < earlier.size:
            raise ArchiveError(
                f"the log must hold the {earlier.size} records that it held, got {head.size}: some were dropped"
            )
        if self.since != earlier.size or not follows(earlier.size, earlier.root, head.size, head.root, self.path):
            raise ArchiveError(
                f"the log of {head.size} records must begin with the {earlier.size} that it held, but it does not: "
                "records were changed"
            )

    def describe(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        return {
            "format": "fastforget.head",
            "version": 1,
            "head": self.head.note,
            "since": self.since,
            "path": [one.hex() for one in self.path],
            "public_key": self.public_key,
            "keys": [change.describe() for change in self.changes],
        }

    @classmethod
    def parse(cls, found: object) -> HeadProof:
        """Read what `describe` gave.

        Args:
            found: As JSON gave it.

        Returns:
            The proof, not checked yet.

        Raises:
            ArchiveError: It is something else.
        """
        fields = _checked(found, "head", _HEAD_FIELDS)
        head, path, keys = TreeHead.parse(fields["head"]), hashes(fields["path"]), read_changes(fields["keys"])
        return cls(head, fields["since"], path, fields["public_key"], keys)


def read_object(path: str | PathLike[str], kind: str, fields: Mapping[str, Callable[[object], bool]]) -> dict[str, Any]:
    """Read a JSON file of this library.

    Args:
        path: The file.
        kind: What it must be.
        fields: What each field must be.

    Returns:
        The fields.

    Raises:
        OSError: There is no such file.
        ArchiveError: It is something else.
    """
    with Path(path).open("rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ArchiveError(f"`{path}` must have at most {_LARGEST} bytes")
    try:
        return _checked(json.loads(content), kind, fields)
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"`{path}` is not usable: {error}") from error


def hashes(found: Sequence[str]) -> tuple[bytes, ...]:
    """Return hashes that a file holds as hexadecimal digits.

    Args:
        found: The texts.

    Returns:
        The hashes.

    Raises:
        ArchiveError: One is none.
    """
    if not all(len(one) == 64 and set(one) <= _HEX for one in found):
        raise ArchiveError("a hash must have 64 hexadecimal digits")
    return tuple(map(bytes.fromhex, found))


def _checked(found: object, kind: str, fields: Mapping[str, Callable[[object], bool]]) -> dict[str, Any]:
    if not isinstance(found, dict) or found.get("format") != f"fastforget.{kind}":
        raise ArchiveError(f"it must hold a JSON object with `format` 'fastforget.{kind}'")
    if found.get("version") != 1:
        raise ArchiveError("its `version` must be 1: update fastforget")
    wrong = sorted(name for name, accepts in fields.items() if not accepts(found.get(name)))
    if wrong:
        raise ArchiveError(f"its field `{wrong[0]}` must be there, and of the right kind")
    return {name: found.get(name) for name in fields}


def _write(path: str | PathLike[str], content: Mapping[str, Any]) -> None:
    with whole_files(path) as (draft,):
        draft.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _is_list_or_missing(value: object) -> bool:
    return value is None or isinstance(value, list)


_HEAD_FIELDS = {
    "head": is_text,
    "since": is_count,
    "path": list_of(is_text),
    "public_key": is_text,
    "keys": _is_list_or_missing,  # files of older versions lack it
}
_RECORD_FIELDS = {
    "record": lambda value: isinstance(value, dict),
    "path": list_of(is_text),
    "head": is_text,
    "public_key": is_text,
    "keys": _is_list_or_missing,
}
