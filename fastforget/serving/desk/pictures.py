"""Pictures of classes, for the page."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

__all__ = ["TYPES", "find_pictures"]

TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


def find_pictures(folder: str | PathLike[str] | None) -> Mapping[int, Path]:
    """Return the pictures in a folder by class: files named by their numbers, such as ``3.png``.

    Args:
        folder: The folder, or None.

    Returns:
        The files; none without a folder. Files of other names and kinds are left out.

    Raises:
        NotADirectoryError: It is no folder.
    """
    if folder is None:
        return {}
    found = Path(folder)
    if not found.is_dir():
        raise NotADirectoryError(f"`pictures` must be a folder, got `{found}`")
    files = [path for path in sorted(found.iterdir()) if path.suffix.lower() in TYPES and path.stem.isdecimal()]
    return {int(path.stem): path for path in files if path.is_file()}
