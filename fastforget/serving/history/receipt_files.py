"""The receipts of an archive: a file of new values for each edit, and one of old ones as long as they are kept."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from fastforget.edits.receipt import Receipt
from fastforget.files.durable import sync
from fastforget.serving.history.errors import ArchiveError

__all__ = ["ReceiptFiles"]

_OWN = re.compile(r"(\d{6,})\.safetensors")
_DRAFT = re.compile(r"\.\d{6,}\.safetensors\.[0-9a-f]{8}")  # see fastforget.files.durable


class ReceiptFiles:
    """The folders ``edits`` and ``undo`` of an archive, with a file for each edit.

    Args:
        folder: That of the archive.
        new: Whether there is no log of it yet.

    Raises:
        OSError: They cannot be made.
        ArchiveError: There is no log, but one of them holds something: it belongs to somebody else.
    """

    def __init__(self, folder: Path, *, new: bool) -> None:
        self._edits, self._undo = folder / "edits", folder / "undo"
        for part in (self._edits, self._undo):
            if new and part.is_dir() and any(part.iterdir()):
                raise ArchiveError(
                    f"`{folder}` must be the folder of an archive, or have nothing in `{part.name}`: there are files "
                    "there, but no log of requests"
                )
        for part in (folder, self._edits, self._undo):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write(self, number: int, receipt: Receipt, *, undo: bool) -> dict[str, str]:
        """Write the files of an edit durably.

        Args:
            number: Of the edit.
            receipt: What it changed.
            undo: Whether the old values are kept.

        Returns:
            The SHA-256 of each file, by its folder.

        Raises:
            OSError: A file cannot be written.
            ValueError: A file cannot be read again.
        """
        digests = {"edits": _write_durably(receipt.without_undo(), self._edits / _name(number))}
        if undo:
            digests["undo"] = _write_durably(receipt, self._undo / _name(number))
        return digests

    def read(self, number: int, digests: Mapping[str, str], *, undo: bool) -> Receipt:
        """Read and check the receipt of an edit.

        Args:
            number: Of the edit.
            digests: The SHA-256 of each file, by its folder.
            undo: Whether the old values may still be there; they may have expired just now.

        Returns:
            The receipt, with the old values if they are there.

        Raises:
            OSError: Its file is missing.
            ArchiveError: The file is not the one that was written.
        """
        path = self._undo / _name(number)
        content = _content(path) if undo else None
        if content is None:
            path = self._edits / _name(number)
            content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != digests[path.parent.name]:
            raise ArchiveError(_other_file(path, number))
        return Receipt.load(path)

    def verify(self, number: int, digests: Mapping[str, str], *, undo: bool) -> None:
        """Check the files of an edit without reading what they hold.

        Args:
            number: Of the edit.
            digests: The SHA-256 of each file, by its folder.
            undo: Whether the old values may still be there; somebody may have removed them earlier.

        Raises:
            OSError: A file cannot be read.
            ArchiveError: The new values are missing, a file is not the one that was written, or old values are there
                that must be gone.
        """
        for part in (self._edits, self._undo):
            path, digest = part / _name(number), digests.get(part.name)
            content = _content(path)
            if content is None and digest is not None and part == self._edits:
                raise ArchiveError(f"`{path}` must be there: it is the receipt of edit {number}")
            if content is not None and (digest is None or (part == self._undo and not undo)):
                raise ArchiveError(f"`{path}` must not be there: by the log, edit {number} has no such file any more")
            if content is not None and hashlib.sha256(content).hexdigest() != digest:
                raise ArchiveError(_other_file(path, number))

    def remove(self, number: int) -> None:
        """Remove the files of an edit that was not entered."""
        for part in (self._edits, self._undo):
            (part / _name(number)).unlink(missing_ok=True)

    def remove_undo(self, number: int) -> None:
        """Remove the old values of an edit durably."""
        (self._undo / _name(number)).unlink(missing_ok=True)
        sync(self._undo)

    def unknown(self, entered: int) -> list[Path]:
        """Return the files that a process which died has left: of an edit that was not entered, or half written.

        Args:
            entered: How many edits were entered.

        Returns:
            Their paths. What has another name than an archive gives is not ours, and none of them.

        Raises:
            ArchiveError: As for `check`.
        """
        self.check(entered)
        known = {_name(number) for number in range(1, entered + 1)}
        return [path for path in self._own() if path.name not in known]

    def check(self, entered: int) -> None:
        """Check that there are no receipts of edits that the log once knew, and no longer does.

        A process that died can have left those of one edit.

        Args:
            entered: How many edits were entered.

        Raises:
            ArchiveError: There are some.
        """
        last = max((int(name[1]) for path in self._own() if (name := _OWN.fullmatch(path.name))), default=0)
        if last > entered + 1:
            raise ArchiveError(
                f"the log must know edit {last}, whose receipt is in `{self._edits.parent}`, but it ends with edit "
                f"{entered}: an older log was put in its place. Nothing was removed"
            )

    def _own(self) -> Iterator[Path]:
        """Yield the files with names that an archive gives."""
        for part in (self._edits, self._undo):
            yield from (path for path in part.iterdir() if _OWN.fullmatch(path.name) or _DRAFT.fullmatch(path.name))


def _write_durably(receipt: Receipt, path: Path) -> str:
    """Write a file that only its owner may read, read it again, and return its SHA-256."""
    receipt.save(path)  # whole, and on the disk
    path.chmod(0o600)
    sync(path)
    Receipt.load(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _other_file(path: Path, number: int) -> str:
    return f"`{path}` must be the receipt of edit {number}: its SHA-256 is not that in the log"


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _name(number: int) -> str:
    return f"{number:06d}.safetensors"
