"""Whether the folder of an archive holds what its log says."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from fastforget.serving.history.archive import LOG
from fastforget.serving.history.contents import Contents
from fastforget.serving.history.entries import now
from fastforget.serving.history.errors import ArchiveError
from fastforget.serving.history.log import read_log, verify_log
from fastforget.serving.history.log_tree import LogTree
from fastforget.serving.history.receipt_files import ReceiptFiles
from fastforget.serving.history.seal import check_signed

if TYPE_CHECKING:
    from fastforget.files.signing import PublicKey

__all__ = ["verify_archive", "verify_signatures"]


def verify_archive(
    folder: str | PathLike[str], known: str | None = None, *, key: PublicKey | None = None
) -> tuple[int, int]:
    """Check the log of an archive, and that its receipts are those on record; nothing is changed.

    Args:
        folder: Of the archive.
        known: Hash of a record that must be in the log, kept elsewhere.
        key: Who must have signed the log, or handed over to who did. Without, it is the key that the log names.

    Returns:
        The number of records beside the first, and of edits.

    Raises:
        OSError: There is no such archive, or a file cannot be read.
        ValueError: The log was changed, or lacks the known record.
        ArchiveError: It is not that of an archive. Or a receipt is missing, was changed, belongs to no edit, or holds
            old values that must be gone. Or the log was not signed, or not by the key.
        ModuleNotFoundError: The log is signed, and the extra ``signing`` is not installed.
    """
    log = Path(folder) / LOG
    count = verify_log(log, known)
    verify_signatures(log, key)
    try:
        contents = Contents().followed_by(record.fields for record in read_log(log))
    except (TypeError, KeyError) as error:
        raise ArchiveError(f"`{log}` must be the log of an archive: {error}") from error
    receipts, due = ReceiptFiles(Path(folder), new=False), set(contents.due(now()))
    receipts.check(len(contents.entries))
    for entry in contents.entries:
        kept = entry.number not in contents.expired and entry.number not in due
        receipts.verify(entry.number, contents.digests[entry.number], undo=kept)
    return count, len(contents.entries)


def verify_signatures(log: Path, key: PublicKey | None = None) -> bool:
    """Check that a log is the one that was signed.

    Args:
        log: The log.
        key: Who must have signed it, or handed over to who did; by default the key that it names, if it names one.

    Returns:
        Whether it is signed.

    Raises:
        OSError: It cannot be read.
        ArchiveError: It was changed, or it is not signed by the key.
        ModuleNotFoundError: It is signed, and the extra ``signing`` is not installed.
    """
    tree = LogTree(log)
    tree.read()
    if key is None and not tree.changes:
        return False
    check_signed(log, tree, key or _named_key(log, tree.changes[-1].public_key))
    return True


def _named_key(log: Path, named: str) -> PublicKey:
    from fastforget.files.signing import PublicKey  # noqa: PLC0415 (needs the extra "signing", for what is signed only)

    try:
        return PublicKey.from_text(named)
    except ValueError as error:
        raise ArchiveError(f"`{log}` must name the key that signs it: {error}") from error
