"""The tree over the records of a log, and where the requests stand in it."""

from __future__ import annotations

import threading
from pathlib import Path

from fastforget.serving.history.errors import ArchiveError
from fastforget.serving.history.key_changes import KeyChange
from fastforget.serving.history.log import Position, read_since
from fastforget.serving.history.merkle import MerkleTree, leaf_hash
from fastforget.serving.history.records import Record
from fastforget.serving.history.tree_head import TreeHead, origin_of

__all__ = ["LogTree", "leaf_of"]


class LogTree:
    """Reads what is new in a log when it is asked, from any thread; constant work for each record.

    Args:
        path: The log; there may be none yet.

    Attributes:
        changes: Which keys sign the log, the first one first; none where it is not signed.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._position: Position | None = None
        self._origin = ""
        self._asked: dict[str, Record] = {}
        self._records = MerkleTree()
        self.changes: tuple[KeyChange, ...] = ()

    def read(self) -> MerkleTree:
        """Return the tree of all records that are on the disk.

        Returns:
            The tree; it grows when others read.

        Raises:
            OSError: The log cannot be read.
            ArchiveError: It was changed.
        """
        with self._lock:
            try:
                records, position = read_since(self._path, self._position)
            except ValueError as error:
                raise ArchiveError(str(error)) from error
            for record in records:
                self._add(record)
            self._position = position
        return self._records

    def head(self, size: int) -> TreeHead:
        """Return the head of the tree of the first records, not signed; `read` must have seen them."""
        return TreeHead(self._origin, size, self._records.root(size))

    @property
    def origin(self) -> str:
        """Name of the log; `read` must have seen its first record."""
        return self._origin

    def changes_of(self, size: int) -> tuple[KeyChange, ...]:
        """Return the changes of keys among the first records; the last one names who signs their head."""
        return tuple(change for change in self.changes if change.number < size)

    def asked(self, name: str) -> Record | None:
        """Return the record by which a request was filed; `read` must have seen it."""
        return self._asked.get(name)

    def _add(self, record: Record) -> None:
        if not record.number:
            self._origin = origin_of(record.hash)
        if record.fields.get("kind") == "asked":
            self._asked.setdefault(str(record.fields.get("request")), record)
        if record.fields.get("kind") == "key":
            self.changes += (KeyChange.of_record(record.number, record.previous, record.fields),)
        self._records.append(leaf_of(record))


def leaf_of(record: Record) -> bytes:
    """Return the hash of a record as a leaf of the tree: that of its line, without the end of the line."""
    return leaf_hash(record.line().rstrip(b"\n"))
