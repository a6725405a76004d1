"""What archives raise."""

from __future__ import annotations

__all__ = ["ArchiveError"]


class ArchiveError(ValueError):
    """What is in the folder of an archive is not what was written there."""
