"""The history of a live model in a folder that several processes share, and that outlives them.

::

    FOLDER/
      requests.jsonl             what was asked for and done, see `fastforget.serving.history.log`
      requests.jsonl.head        number and hash of its last record
      requests.jsonl.signed      hash of the tree of its records, signed, if there is a key
      edits/000001.safetensors   the new values of each edit
      undo/000001.safetensors    the same with the old values, as long as the policy says
      editing                    locked by the process that edits
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from fastforget.edits.receipt import Receipt
from fastforget.serving.history.archive_log import ArchiveLog
from fastforget.serving.history.contents import asked_record, edit_record, expired_record, refused_record
from fastforget.serving.history.entries import Entry, now
from fastforget.serving.history.locks import locked
from fastforget.serving.history.log import read_log
from fastforget.serving.history.proofs import HeadProof, RecordProof
from fastforget.serving.history.proving import prove_head, prove_request
from fastforget.serving.history.receipt_files import ReceiptFiles
from fastforget.serving.history.records import Record
from fastforget.serving.history.requests import Request, filed_before

if TYPE_CHECKING:
    from fastforget.files.signing import SigningKey

__all__ = ["LOG", "Archive", "ArchiveWriter"]

LOG = "requests.jsonl"

_PATIENCE = 5.0  # seconds that another process may take for its edit before old values are removed


class Archive:
    """Keeps receipts and a record of them in a folder; any number of processes read and write it in turn.

    An edit that was entered is decided: it is on the disk before any process makes it. A process that crashes meanwhile
    makes it when it starts again, and all others by `LiveModel.catch_up`. The folder tells what was forgotten as long
    as old values are kept in ``undo``: nobody else should be able to read it.

    Args:
        folder: Made if there is none.
        key: Signs the log after each record, so that whoever changes it without the key is found out. Once it was
            given, every process that writes needs it; others can read.

    Raises:
        OSError: It cannot be made.
        ArchiveError: Its log is not one of this library, was changed, or is signed by another key. Or the folder holds
            receipts that no log knows.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     len(Archive(folder).entries())
        0
    """

    def __init__(self, folder: str | PathLike[str], *, key: SigningKey | None = None) -> None:
        self.folder: Path = Path(folder)
        self._log = ArchiveLog(self.folder / LOG, key)
        self._receipts = ReceiptFiles(self.folder, new=not self.log.exists())
        self._log.settle()
        self._receipts.check(len(self.entries()))

    @property
    def log(self) -> Path:
        """The file of the log."""
        return self._log.path

    def entries(self) -> Sequence[Entry]:
        """Return all edits, in order; what is new in the log is read and checked.

        Returns:
            The edits.

        Raises:
            OSError: The log cannot be read.
            ArchiveError: It was changed.
        """
        return self._log.contents().entries

    def requests(self) -> Sequence[Request]:
        """Return the requests that were filed, in order, with what became of them; as `entries`."""
        return list(self._log.contents().requests.values())

    def records(self) -> Sequence[Record]:
        """Return all records of the log that are on the disk, the one that says what it is before them.

        Returns:
            The records; none before anything is written.

        Raises:
            OSError: The log cannot be read.
            ArchiveError: It was changed.
        """
        return read_log(self.log, settled=True) if self.log.exists() else ()

    def receipt(self, number: int) -> Receipt:
        """Return the receipt of an edit that is no revert, with the old values if they are still kept.

        Args:
            number: Of the edit.

        Returns:
            The receipt.

        Raises:
            OSError: Its file is missing.
            ArchiveError: The file is not the one that was entered.
        """
        contents = self._log.contents()
        digests, due = contents.digests[number], contents.entries[number - 1].due(now())
        return self._receipts.read(number, digests, undo="undo" in digests and not due)

    def ask(self, request: Request) -> Request:
        """File a request that is to be carried out.

        Args:
            request: It is waiting.

        Returns:
            The request that there is of this name: this one, or an earlier one with what became of it.

        Raises:
            OSError: The log cannot be written.
            ForgettingError: The name was used for something else.
        """
        with self._log.opened() as log:
            contents = self._log.contents()
            earlier = filed_before(request, contents.requests, contents.entries)
            if earlier is None:
                log.append(asked_record(request))
        return earlier or request

    def proof(self, name: str) -> RecordProof | None:
        """Return the proof that a request is on record, for whoever filed it.

        Args:
            name: Of the request.

        Returns:
            The proof, by the signed head if there is a key; None where no such request was filed.

        Raises:
            OSError: The log cannot be read.
            ArchiveError: It was changed.
        """
        return prove_request(self.log, self._log.tree, name)

    def change_key(self, key: SigningKey) -> None:
        """Hand over to another key, which signs the log from here on; the old one can then sign nothing that follows.

        Every process that writes needs the new key from then on.

        Args:
            key: The new key.

        Raises:
            OSError: The log cannot be written.
            TimeoutError: Another process did not end a line in time.
            ArchiveError: The archive was not opened with the key that signs it, or was changed.
            ValueError: The key signed before.
        """
        self._log.change_key(key)

    def head(self, since: int = 0) -> HeadProof:
        """Return the head of the log, for a witness.

        Args:
            since: How many records the witness saw.

        Returns:
            The head, and the proof that the log begins with these.

        Raises:
            OSError: The log cannot be read.
            ArchiveError: It was changed, or holds nothing yet.
            ValueError: The number is negative.
        """
        return prove_head(self.log, self._log.tree, since)

    @contextmanager
    def writing(self, patience: float) -> Iterator[ArchiveWriter]:
        """Keep other processes from editing; remove old values whose time is over.

        Args:
            patience: For how many seconds to wait for them.

        Yields:
            What makes entries.

        Raises:
            OSError: The archive cannot be written.
            TimeoutError: Another process did not end its edit in time.
        """
        with locked(self.folder / "editing", patience, f"another process edits `{self.folder}`"):
            with self._log.opened():
                pass  # which completes or removes the last record of a crashed process
            writer = ArchiveWriter(self._log, self._receipts)
            writer.expire(now())
            yield writer

    def expire(self, time: datetime) -> None:
        """Remove the files of old values whose time is over, and files left by a crashed process.

        Args:
            time: With a time zone.

        Raises:
            OSError: A file cannot be removed.
            TimeoutError: Another process did not end its edit in time.
        """
        contents = self._log.contents()
        if contents.due(time) or self._receipts.unknown(len(self.entries())):
            with self.writing(_PATIENCE) as writer:
                writer.expire(time)


class ArchiveWriter:
    """Makes entries for the process that holds the lock of an archive, see `Archive.writing`.

    Args:
        log: Of the archive.
        receipts: Likewise.
    """

    def __init__(self, log: ArchiveLog, receipts: ReceiptFiles) -> None:
        self._log, self._receipts = log, receipts

    def enter(self, entry: Entry, receipt: Receipt | None, make: Callable[[], None]) -> None:
        """Enter an edit durably, then make it.

        Args:
            entry: The edit.
            receipt: What it changed; None for a revert.
            make: Makes it. If this fails, the edit stays entered and is made later.

        Raises:
            OSError: It cannot be written; nothing is entered.
            ValueError: The receipt could not be read again.
        """
        try:
            digests: dict[str, str] = {}
            if receipt is not None:
                undo = receipt.reversible and not entry.due(now())
                digests = self._receipts.write(entry.number, receipt, undo=undo)
            self._log.append(edit_record(entry, digests))
        except BaseException:
            if entry.number > len(self._log.contents().entries):  # else it is entered, whatever came afterwards
                self._receipts.remove(entry.number)
            raise
        make()

    def refuse(self, request: str, asked_by: str, classes: Sequence[int], reason: str) -> None:
        """Note a request that was not carried out."""
        self._log.append(refused_record(request, asked_by, classes, reason))

    def expire(self, time: datetime) -> None:
        """Remove files that belong to no edit, and old values whose time is over; record the latter."""
        for path in self._receipts.unknown(len(self._log.contents().entries)):
            path.unlink(missing_ok=True)
        for number in self._log.contents().due(time):
            self._receipts.remove_undo(number)
            self._log.append(expired_record(number))
