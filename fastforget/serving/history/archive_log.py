"""The log of an archive: what its records say, and how more are added."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from fastforget.serving.history.contents import Contents
from fastforget.serving.history.errors import ArchiveError
from fastforget.serving.history.locks import retry
from fastforget.serving.history.log import Position, RequestLog, read_since

__all__ = ["ArchiveLog"]

_PATIENCE = 5.0  # seconds that another process may take for a line
_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}


class ArchiveLog:
    """Reads what is new in a log when it is asked, and appends to it; other processes and threads do the same.

    Args:
        path: The file; made by the first record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
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
        """Complete the last record of a process that crashed, or of a machine that lost power.

        Raises:
            OSError: The log cannot be opened; where it can only be read, nothing is done.
            TimeoutError: Another process did not end a line in time.
            ArchiveError: It was changed.
        """
        try:
            if self.path.exists():
                with self.opened():
                    pass
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise

    @contextmanager
    def opened(self) -> Iterator[RequestLog]:
        """Open the log to append to it; meanwhile no other process can.

        Yields:
            The log, without an unfinished line of a crashed process.

        Raises:
            OSError: It cannot be opened.
            TimeoutError: Another process did not end a line in time.
            ArchiveError: It was changed.
        """
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
