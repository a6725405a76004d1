"""Tokens by role: who may file requests, who may see them, and who may go back; wrong ones are slowed.

A token is a secret that was agreed on, or one that an issuer signed.
"""

from __future__ import annotations

import hmac
import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial

from fastapi import HTTPException, Request

from fastforget.serving.access import Guard, check_token, from_this_machine
from fastforget.serving.issuer import IssuedTokens, Issuer

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


def guards(
    token: str | Mapping[str, str] | None, brake: Brake | None = None, *, issuer: Issuer | None = None
) -> dict[str, Guard]:
    """Return what lets callers in, by role.

    Args:
        token: For all roles; or one for each, by `ROLES`, and a role without one is for nobody. None lets programs and
            pages of this machine in, if there is no issuer.
        brake: Slows wrong tokens; a new one by default.
        issuer: Whose signed tokens let callers in as well.

    Returns:
        The guards. They raise 401 for a missing or wrong token, 403 where nobody may come in or the issuer gives the
        holder another role, 429 for who must wait.

    Raises:
        ModuleNotFoundError: There is an issuer, and the extra ``jwt`` is not installed.
        OSError: Its keys cannot be read.
        ValueError: A token is short, or no header could hold it; there is no such role; or the issuer's keys are none.
    """
    if token is None and issuer is None:
        return dict.fromkeys(ROLES, from_this_machine)
    tokens = dict.fromkeys(ROLES, token) if isinstance(token, str) else dict(token or {})
    for role, one in tokens.items():
        check_token(one)
        if role not in ROLES:
            raise ValueError(f"`token` must be by the roles {', '.join(ROLES)}, got {role!r}")
    slowed, issued = brake or Brake(), None if issuer is None else IssuedTokens(issuer)
    given = () if issuer is None else issuer.roles
    let_in = {role: partial(_may, role, tokens.get(role), issued) for role in ROLES if role in tokens or role in given}
    return {role: _holder_of(let_in[role], slowed) if role in let_in else _nobody for role in ROLES}


def _may(role: str, token: str | None, issued: IssuedTokens | None, sent: str) -> bool | None:
    """Say whether an authorization lets in; None for one that is wrong."""
    if token is not None and hmac.compare_digest(sent.encode(), f"Bearer {token}".encode()):
        return True
    kind, _, signed = sent.partition(" ")
    if issued is None or kind.lower() != "bearer":
        return None
    roles = issued.roles(signed)
    return None if roles is None else role in roles


def _holder_of(may: Callable[[str], bool | None], brake: Brake) -> Guard:
    """Return what refuses a request without a token that lets in."""

    def check(request: Request) -> None:
        sent = request.headers.get("authorization")
        if sent is None:  # a page that was just opened guesses nothing
            raise _unauthorized()
        address = request.client.host if request.client else ""
        if pause := brake.pause(address):
            seconds = str(int(pause) + 1)
            raise HTTPException(429, f"too many wrong tokens: wait {seconds} s", {"Retry-After": seconds})
        found = may(sent)
        brake.note(address, right=found is not None)
        if found is None:
            raise _unauthorized()
        if not found:
            raise HTTPException(403, "the token does not give this role")

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
