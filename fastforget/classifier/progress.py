"""Progress bars: on a terminal, and in notebooks."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from typing import Any

__all__ = ["in_notebook", "progress_bar"]


def in_notebook() -> bool:
    """Return whether this program runs in the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


def progress_bar(items: Iterable[Any] | None = None, *, shown: bool = True, **settings: Any) -> Any:
    """Return a bar of tqdm. It is seen where standard error is a terminal, and in notebooks.

    Args:
        items: What is gone through; None where the caller counts.
        shown: False for a bar that is never seen.
        settings: As for ``tqdm``, for instance ``total`` and ``desc``.

    Returns:
        The bar, which yields the items.

    Raises:
        ModuleNotFoundError: There is no tqdm.
    """
    try:
        from tqdm import tqdm  # noqa: PLC0415 (not every installation has it)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the progress bar needs tqdm: pip install tqdm") from error
    if not shown or not in_notebook():
        return tqdm(items, disable=None if shown else True, **settings)  # None: not where it is no terminal
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that ipywidgets are not installed: then it is a bar of text
        from tqdm.auto import tqdm as notebook_tqdm  # noqa: PLC0415 (the widget, where there is one)
    return notebook_tqdm(items, **settings)
