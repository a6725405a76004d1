"""How long the old values of an edit are kept, with which it can be undone."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

__all__ = ["kept_until"]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def kept_until(policy: str, made: datetime) -> str | None:
    """Return until when the old values of an edit are kept.

    Args:
        policy: "keep", "never", or "expire:" and a period as "30d", "12h", "90m", "45s".
        made: When the edit is made, with a time zone.

    Returns:
        The time, ISO 8601; None for ever. For "never" it is the time of the edit.

    Raises:
        TypeError: The policy is no text.
        ValueError: It is none of these.

    Example:
        >>> from datetime import timezone
        >>> kept_until("expire:30d", datetime(2026, 1, 1, tzinfo=timezone.utc))
        '2026-01-31T00:00:00+00:00'
    """
    if not isinstance(policy, str):
        raise TypeError(f"`undo` must be a text, got {type(policy).__name__}")
    if policy == "keep":
        return None
    if policy == "never":
        return made.isoformat()
    period = re.fullmatch(r"expire:(\d{1,6})([smhd])", policy, re.ASCII)
    if not period:
        raise ValueError(f'`undo` must be "keep", "never" or "expire:" and a period as "30d" or "12h", got {policy!r}')
    return (made + timedelta(**{_UNITS[period[2]]: int(period[1])})).isoformat()
