"""Which receipts of an archive must go, and which are lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastforget.serving.history.contents import Contents
from fastforget.serving.history.entries import now
from fastforget.serving.history.errors import ArchiveError
from fastforget.serving.history.receipt_files import ReceiptFiles
from fastforget.serving.history.records import Record

__all__ = ["unneeded_files"]


def unneeded_files(folder: Path, records: Sequence[Record]) -> tuple[list[tuple[Path, str]], list[str]]:
    """Return the files that a process which died left, and old values that must be gone; and what is lost.

    Args:
        folder: Of an archive.
        records: Those of its log.

    Returns:
        The files to remove, each with the reason; and texts that say which receipts are missing or were changed.

    Raises:
        OSError: A file cannot be read.
    """
    parts = [folder / part for part in ("edits", "undo")]
    missing = [part for part in parts if not part.is_dir()]
    if missing:
        return [], [f"`{missing[0]}` must be there: bring it back from a backup"]
    try:
        contents = Contents().followed_by(record.fields for record in records)
        files = ReceiptFiles(folder, new=False)
        unknown = files.unknown(len(contents.entries))
    except (ValueError, TypeError, KeyError) as error:
        return [], [f"the receipts cannot be compared with the log: {error}"]
    removable = [(path, f"remove `{path}`, which belongs to no edit") for path in unknown]
    lost, due = [], set(contents.due(now()))
    for entry in contents.entries:
        kept = entry.number not in contents.expired and entry.number not in due
        old = folder / "undo" / f"{entry.number:06d}.safetensors"
        if not kept and old.exists():
            removable.append((old, f"remove `{old}`, old values that must be gone by the log"))
        try:
            files.verify(entry.number, contents.digests[entry.number], undo=True)
        except ArchiveError as error:
            lost.append(str(error))
    return removable, lost
