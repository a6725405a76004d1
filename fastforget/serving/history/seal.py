"""The signed head of an archive's log: whoever changes the log without the key is found out.

``requests.jsonl.signed`` holds the head of the tree of all records, signed. A record of the log names the key, and from
there on every record is followed by a new signed head. A process that was killed leaves it at most one record behind.
A key can hand over to another one, see `fastforget.serving.history.key_changes`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastforget.serving.history.errors import ArchiveError
from fastforget.serving.history.head import replace_durably
from fastforget.serving.history.key_changes import KeyChange, check_changes
from fastforget.serving.history.log import RequestLog
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
        """Check that the key signs the log, or nobody so far.

        Raises:
            OSError: A file cannot be read.
            ArchiveError: Another key does, or the log is not the one that was signed.
        """
        self._tree.read()
        if not self._tree.changes and read_signed(self._log) is None:
            return
        check_signed(self._log, self._tree, self._key.public)
        last = self._tree.changes[-1]
        if last.public_key != self.public.text:
            raise ArchiveError(
                f"`{self._log}` must be signed by the key {last.public_key} since record {last.number}: the key "
                f"{self.public.text} handed over to it"
            )

    def begin(self, log: RequestLog) -> None:
        """Put on record that the key signs from here on."""
        self._tree.read()
        change = KeyChange.made(self._tree.origin, log.last.number + 1, log.last.hash, self._key, None)
        log.append(change.fields())

    def hand_over(self, log: RequestLog, key: SigningKey) -> Seal:
        """Put on record that another key signs from here on.

        Args:
            log: The log, open.
            key: The other key.

        Returns:
            Its seal, not renewed yet.

        Raises:
            OSError: The log cannot be written.
            ValueError: The key signed before.
        """
        self._tree.read()
        if any(change.public_key == key.public.text for change in self._tree.changes):
            raise ValueError(f"the new key must be one that never signed this log, got {key.public.text}")
        change = KeyChange.made(self._tree.origin, log.last.number + 1, log.last.hash, key, self._key)
        log.append(change.fields())
        return Seal(self._log, self._tree, key)

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
        key: The public key, or an earlier one that handed over to it.

    Returns:
        How many records were signed, the first one included: all of them, or all but the last one.

    Raises:
        OSError: A file cannot be read.
        ArchiveError: The log names another key or none, or it is not the one that was signed.
    """
    signed = read_signed(log)  # first: the log may grow meanwhile, but only by one before it is signed again
    size = len(tree.read())
    if not tree.changes:
        raise ArchiveError(f"`{log}` must be signed by the key {key.text}, but it names no key")
    first, last = tree.changes[0], tree.changes[-1]
    if all(change.public_key != key.text for change in tree.changes):
        raise ArchiveError(f"`{log}` must be signed by the key {key.text}, but it names the key {last.public_key}")
    check_changes(tree.changes, tree.origin)
    if signed is None:
        if first.number != size - 1:
            raise ArchiveError(
                f"`{_path(log)}` must be there: the records of `{log}` are signed since record {first.number}"
            )
        first.check_accepted(tree.origin)  # which stands for the head that a killed process did not write
        return 0
    signed.check_signature(_signer(log, tree, signed.size))
    if signed.size > size:
        raise ArchiveError(f"`{log}` must hold the {signed.size} records that were signed, got {size}")
    if tree.head(signed.size).text != signed.text:
        raise ArchiveError(f"`{log}` must be the log that was signed: a record below {signed.size} was changed")
    if signed.size < size - 1:
        raise ArchiveError(f"`{log}` must be signed up to its end, but records from number {signed.size} on are not")
    return signed.size


def _signer(log: Path, tree: LogTree, size: int) -> PublicKey:
    """Return the key that must have signed a head."""
    from fastforget.files.signing import PublicKey  # noqa: PLC0415 (needs the extra "signing")

    changes = tree.changes_of(size)
    if not changes:
        raise ArchiveError(f"`{log}` must name the key that signs it before it is signed")
    return PublicKey.from_text(changes[-1].public_key)


def _path(log: Path) -> Path:
    return log.with_name(log.name + ".signed")
