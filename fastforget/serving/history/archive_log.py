"""The log of an archive: what its records say, and how more are added."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastforget.serving.history.contents import Contents
from fastforget.serving.history.errors import ArchiveError
from fastforget.serving.history.locks import retry
from fastforget.serving.history.log import Position, RequestLog, read_since
from fastforget.serving.history.log_tree import LogTree
from fastforget.serving.history.seal import Seal

if TYPE_CHECKING:
    from fastforget.files.signing import SigningKey

__all__ = ["ArchiveLog"]

_PATIENCE = 5.0  # seconds that another process may take for a line
_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}


class ArchiveLog:
    """Reads what is new in a log when it is asked, and appends to it; other processes and threads do the same.

    Args:
        path: The file; made by the first record.
        key: Signs the log after each record; None where nobody does.

    Attributes:
        tree: Of its records.
    """

    def __init__(self, path: Path, key: SigningKey | None = None) -> None:
        self.path: Path = path
        self.tree: LogTree = LogTree(path)
        self._seal = None if key is None else Seal(path, self.tree, key)
        self._known: tuple[Position | None, Contents] = (None, Contents())

    def contents(self) -> Contents:
        """Return what the records say; those that are new are read and checked.

        Returns:
            The contents.

        Raises:
            OSError: The log cannot be read.
            ArchiveError: It was changed.
        """
        position, contents = self._known
        try:
            records, position = read_since(self.path, position)
            if records:
                contents = contents.followed_by(record.fields for record in records)
                self._known = position, contents  # at once: other threads read it
        except (ValueError, TypeError, KeyError) as error:
            raise ArchiveError(str(error)) from error
        return contents

    def settle(self) -> None:
        """Complete the last record of a process that crashed, or of a machine that lost power; check who signed.

        Raises:
            OSError: The log cannot be opened; where it can only be read, nothing is completed.
            TimeoutError: Another process did not end a line in time.
            ArchiveError: It was changed, or another key signed it.
        """
        if not self.path.exists():
            return
        try:
            with self._locked():
                self._check_seal()
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise
            self._check_seal()

    @contextmanager
    def opened(self) -> Iterator[RequestLog]:
        """Open the log to append a record to it; meanwhile no other process can.

        Yields:
            The log, without an unfinished line of a crashed process. It is signed afterwards, if there is a key.

        Raises:
            OSError: It cannot be opened, or its signed head cannot be written.
            TimeoutError: Another process did not end a line in time.
            ArchiveError: It was changed, another key signed it, or somebody signs it and there is no key.
        """
        with self._locked() as log:
            self._check_seal()
            signer = self.contents().key
            if self._seal is None and signer is not None:
                raise ArchiveError(f"records of `{self.path}` are signed: give the key whose public part is {signer}")
            if self._seal is not None:
                if signer is None:
                    self._seal.begin(log)
                self._seal.renew()  # also what a process that crashed could not sign any more
            yield log
            if self._seal is not None:
                self._seal.renew()

    def change_key(self, key: SigningKey) -> None:
        """Hand over to another key, which signs the log from here on.

        Args:
            key: The new one.

        Raises:
            OSError: The log cannot be written.
            TimeoutError: Another process did not end a line in time.
            ArchiveError: The log was changed, or is not signed by the key that this was made with.
            ValueError: The key signed before.
        """
        if self._seal is None or self.contents().key is None:
            raise ArchiveError(f"`{self.path}` must be signed, and the key that signs it given, to change the key")
        with self.opened() as log:
            self._seal = self._seal.hand_over(log, key)

    def _check_seal(self) -> None:
        if self._seal is not None:
            self._seal.check()

    @contextmanager
    def _locked(self) -> Iterator[RequestLog]:
        """Open the log while no other process writes to it, and remove an unfinished line of one that crashed."""
        self.contents()
        otherwise = f"another process writes to `{self.path}`"
        try:
            log = retry(lambda: RequestLog(self.path, self._known[0]), _PATIENCE, otherwise)
        except ValueError as error:
            raise ArchiveError(str(error)) from error
        with closing(log):
            yield log

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a record durably.

        Args:
            record: Its fields.

        Raises:
            OSError: It cannot be written.
            TimeoutError: Another process did not end a line in time.
            ArchiveError: The log was changed.
        """
        with self.opened() as log:
            log.append(record)
