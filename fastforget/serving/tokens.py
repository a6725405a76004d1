"""Tokens by role: who may file requests, who may see them, and who may go back; wrong ones are slowed."""

from __future__ import annotations

import hmac
import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

from fastapi import HTTPException, Request

from fastforget.serving.access import Guard, check_token, from_this_machine

__all__ = ["ROLES", "Brake", "guards"]

ROLES = ("ask", "see", "revert")

_FREE, _LONGEST = 5, 60.0  # wrong tokens without a pause, and the longest pause in seconds
_ADDRESSES = 10_000  # that are remembered


class Brake:
    """Makes an address wait after wrong tokens, ever longer; a token that it sends meanwhile is not looked at.

    After five wrong ones the pause is a second, then two, four and so on, up to a minute. A right one ends it.

    Args:
        clock: Tells the time, seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()  # by address: how many, and until when to wait

    def pause(self, address: str) -> float:
        """Return for how many seconds an address must wait before its token is looked at."""
        with self._lock:
            return max(0.0, self._wrong.get(_network(address), (0, 0.0))[1] - self._clock())

    def note(self, address: str, *, right: bool) -> None:
        """Note that an address sent a token."""
        network = _network(address)
        with self._lock:
            count, _ = self._wrong.pop(network, (0, 0.0))
            if right:
                return
            count += 1
            pause = min(2.0 ** (count - _FREE - 1), _LONGEST) if count > _FREE else 0.0
            self._wrong[network] = count, self._clock() + pause
            if len(self._wrong) > _ADDRESSES:
                self._wrong.popitem(last=False)


def guards(token: str | Mapping[str, str] | None, brake: Brake | None = None) -> dict[str, Guard]:
    """Return what lets callers in, by role.

    Args:
        token: For all roles; or one for each, by `ROLES`, and a role without one is for nobody. None lets programs and
            pages of this machine in.
        brake: Slows wrong tokens; a new one by default.

    Returns:
        The guards. They raise 401 for a missing or wrong token, 403 where nobody may come in, 429 for who must wait.

    Raises:
        ValueError: A token is short, or no header could hold it; or there is no such role.
    """
    if token is None:
        return dict.fromkeys(ROLES, from_this_machine)
    tokens = dict.fromkeys(ROLES, token) if isinstance(token, str) else dict(token)
    for role, one in tokens.items():
        check_token(one)
        if role not in ROLES:
            raise ValueError(f"`token` must be by the roles {', '.join(ROLES)}, got {role!r}")
    slowed = brake or Brake()
    return {role: _holder_of(tokens[role], slowed) if role in tokens else _nobody for role in ROLES}


def _holder_of(token: str, brake: Brake) -> Guard:
    """Return what refuses a request without the token."""

    def check(request: Request) -> None:
        sent = request.headers.get("authorization")
        if sent is None:  # a page that was just opened guesses nothing
            raise _unauthorized()
        address = request.client.host if request.client else ""
        if pause := brake.pause(address):
            seconds = str(int(pause) + 1)
            raise HTTPException(429, f"too many wrong tokens: wait {seconds} s", {"Retry-After": seconds})
        right = hmac.compare_digest(sent.encode(), f"Bearer {token}".encode())
        brake.note(address, right=right)
        if not right:
            raise _unauthorized()

    return check


def _nobody(_: Request) -> None:
    raise HTTPException(403, "no token is set for this")


def _unauthorized() -> HTTPException:
    return HTTPException(401, "this needs the token", {"WWW-Authenticate": "Bearer"})


def _network(address: str) -> str:
    """Return the address, or the network that one user of IPv6 has."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return address if found.version == 4 else str(ipaddress.ip_network((found, 64), strict=False))
