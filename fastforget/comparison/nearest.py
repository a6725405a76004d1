"""What somebody meant who misspelt a name."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

__all__ = ["did_you_mean"]


def did_you_mean(given: str, known: Collection[str]) -> str:
    """Return a question for the end of an error, or nothing where no name is near.

    Args:
        given: The name that is not known.
        known: The names that are.

    Returns:
        The text, for instance ``; did you mean 'epochs'?``.

    Example:
        >>> did_you_mean("epoch", ["epochs", "lr"])
        "; did you mean 'epochs'?"
    """
    by_case = {name.lower(): name for name in known}
    near = get_close_matches(given.lower(), by_case, n=1)
    return f"; did you mean {by_case[near[0]]!r}?" if near else ""
