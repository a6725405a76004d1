"""The signed head of an archive's log: whoever changes the log without the key is found out.

``requests.jsonl.signed`` holds the head of the tree of all records, signed. A record of the log names the key, and from
there on every record is followed by a new signed head. A process that was killed leaves it at most one record behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastforget.serving.history.errors import ArchiveError
from fastforget.serving.history.head import replace_durably
from fastforget.serving.history.log_tree import LogTree
from fastforget.serving.history.tree_head import TreeHead

if TYPE_CHECKING:
    from fastforget.files.signing import PublicKey, SigningKey

__all__ = ["Seal", "check_signed", "read_signed"]


class Seal:
    """Checks and renews the signed head of a log; the process that uses it must hold the log's lock.

    Args:
        log: The log.
        tree: Of its records.
        key: What signs.
    """

    def __init__(self, log: Path, tree: LogTree, key: SigningKey) -> None:
        self._log, self._tree, self._key = log, tree, key

    @property
    def public(self) -> PublicKey:
        """What checks the signatures."""
        return self._key.public

    def check(self) -> None:
        """Check that the key, or nobody so far, signed the log.

        Raises:
            OSError: A file cannot be read.
            ArchiveError: Another key did, or the log is not the one that was signed.
        """
        self._tree.read()
        if self._tree.key is not None or read_signed(self._log) is not None:
            check_signed(self._log, self._tree, self._key.public)

    def renew(self) -> None:
        """Sign the log as it is, if it was not yet.

        Raises:
            OSError: The head cannot be written.
            ArchiveError: The log was changed.
        """
        size = len(self._tree.read())
        signed = read_signed(self._log)
        if signed is None or signed.size != size:
            replace_durably(_path(self._log), self._tree.head(size).signed(self._key).note)


def read_signed(log: Path) -> TreeHead | None:
    """Return the signed head of a log; None if there is none.

    Args:
        log: The log.

    Returns:
        The head; nothing says yet that its signature is right.

    Raises:
        OSError: It cannot be read.
        ArchiveError: It is no head.
    """
    try:
        return TreeHead.parse(_path(log).read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:  # a text in another encoding is one, too
        raise ArchiveError(f"`{_path(log)}` is not usable: {error}") from error


def check_signed(log: Path, tree: LogTree, key: PublicKey) -> int:
    """Check that the holder of a key signed a log.

    Args:
        log: The log.
        tree: Of its records.
        key: The public key.

    Returns:
        How many records were signed, the first one included: all of them, or all but the last one.

    Raises:
        OSError: A file cannot be read.
        ArchiveError: The log names another key or none, or it is not the one that was signed.
    """
    signed = read_signed(log)  # first: the log may grow meanwhile, but only by one before it is signed again
    size = len(tree.read())
    if tree.key is None:
        raise ArchiveError(f"`{log}` must be signed by the key {key.text}, but it names no key")
    begun, named = tree.key
    if named != key.text:
        raise ArchiveError(f"`{log}` must be signed by the key {key.text}, but it names the key {named}")
    if signed is None:
        if begun != size - 1:
            raise ArchiveError(f"`{_path(log)}` must be there: the records of `{log}` are signed since record {begun}")
        return 0
    signed.check_signature(key)
    if signed.size > size:
        raise ArchiveError(f"`{log}` must hold the {signed.size} records that were signed, got {size}")
    if tree.head(signed.size).text != signed.text:
        raise ArchiveError(f"`{log}` must be the log that was signed: a record below {signed.size} was changed")
    if signed.size < size - 1:
        raise ArchiveError(f"`{log}` must be signed up to its end, but records from number {signed.size} on are not")
    return signed.size


def _path(log: Path) -> Path:
    return log.with_name(log.name + ".signed")
