"""Progress bars, on standard error."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeVar

from fastforget.classifier.progress import progress_bar

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
    yield from progress_bar(items, desc=title, unit=unit, leave=False)
