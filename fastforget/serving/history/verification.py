"""Whether the folder of an archive holds what its log says."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from fastforget.serving.history.archive import LOG
from fastforget.serving.history.contents import Contents
from fastforget.serving.history.entries import now
from fastforget.serving.history.errors import ArchiveError
from fastforget.serving.history.log import read_log, verify_log
from fastforget.serving.history.receipt_files import ReceiptFiles

__all__ = ["verify_archive"]


def verify_archive(folder: str | PathLike[str], known: str | None = None) -> tuple[int, int]:
    """Check the log of an archive, and that its receipts are those on record; nothing is changed.

    Args:
        folder: Of the archive.
        known: Hash of a record that must be in the log, kept elsewhere.

    Returns:
        The number of records beside the first, and of edits.

    Raises:
        OSError: There is no such archive, or a file cannot be read.
        ValueError: The log was changed, or lacks the known record.
        ArchiveError: It is not that of an archive. Or a receipt is missing, was changed, belongs to no edit, or holds
            old values that must be gone.
    """
    log = Path(folder) / LOG
    count = verify_log(log, known)
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
