"""Files that appear whole or not at all, and that are on the disk once they appear."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

__all__ = ["sync", "whole_files"]


@contextmanager
def whole_files(*paths: str | PathLike[str]) -> Iterator[list[Path]]:
    """Write files that appear only if all of them were written.

    The block writes a draft beside each file. When it ends, the drafts are written to the disk and take the names of
    the files, in order. If it raises, the drafts are removed and the files are what they were before. Whatever must
    hold of a file, such as its mode or that it can be read again, is best seen to inside the block.

    Args:
        *paths: The files; those that exist are overwritten, links are followed.

    Yields:
        The drafts.

    Raises:
        OSError: A draft was not written, or the disk does not take it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with whole_files(Path(folder) / "note") as (draft,):
        ...         _ = draft.write_text("all of it")
        ...     (Path(folder) / "note").read_text()
        'all of it'
    """
    targets = [Path(path).resolve() for path in paths]
    drafts = [target.with_name(f".{target.name}.{secrets.token_hex(4)}") for target in targets]
    try:
        yield drafts
        for draft in drafts:
            sync(draft)  # or a name could be on the disk before what it stands for
        for draft, target in zip(drafts, targets, strict=True):
            draft.replace(target)
        for folder in {target.parent for target in targets}:
            sync(folder)
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)


def sync(path: str | PathLike[str]) -> None:
    """Have a file, or the names in a folder, written to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
