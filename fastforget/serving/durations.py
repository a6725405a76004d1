"""How long a service may wait."""

from __future__ import annotations

__all__ = ["LONGEST", "check_seconds"]

LONGEST = 10**6  # seconds; what threads can wait for is limited


def check_seconds(name: str, value: object) -> None:
    """Raise ValueError unless an argument is a time that a thread can wait."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= LONGEST:
        raise ValueError(f"`{name}` must be a positive number of seconds, at most {LONGEST}, got {value!r}")
