"""Progress bars, on standard error."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeVar

__all__ = ["with_progress"]

_T = TypeVar("_T")


def with_progress(items: Collection[_T], title: str, unit: str) -> Iterator[_T]:
    """Yield items and show a bar, if standard error is a terminal. The bar disappears at the end.

    Args:
        items: The items.
        title: The text before the bar.
        unit: What one item is.

    Yields:
        The items.

    Raises:
        ModuleNotFoundError: tqdm is not installed.
    """
    try:
        from tqdm import tqdm  # noqa: PLC0415 (of the extra "cli")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the progress bar needs tqdm: pip install 'fastforget[cli]'") from error
    # `disable=None`: no bar where standard error is not a terminal.
    yield from tqdm(items, desc=title, unit=unit, disable=None, leave=False)
