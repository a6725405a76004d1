"""Who may use a service over HTTP, and how much may be sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias
from urllib.parse import urlsplit

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["BodyLimit", "Guard", "check_token", "from_this_machine", "is_let_in"]

Guard: TypeAlias = Callable[[Request], None]

_SHORTEST = 16  # characters of a token
_CONTAINERS = 250_000  # lists and objects in a body: each takes a hundred times the bytes that were sent
_THIS_MACHINE = ("127.0.0.1", "::1", "localhost")
_OF_PROXIES = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")


def check_token(token: str | None) -> None:
    """Raise ValueError for a token that is short, or that no header could hold."""
    if token is not None and not (len(token) >= _SHORTEST and token.isascii() and token.isprintable()):
        raise ValueError(f"`token` must be printable ASCII characters, at least {_SHORTEST} of them")


def is_let_in(guard: Guard, request: Request) -> bool:
    """Return whether a guard lets a request in."""
    try:
        guard(request)
    except HTTPException:
        return False
    return True


def from_this_machine(request: Request) -> None:
    """Refuse what a page of another site makes a browser on this machine send, and what a proxy passes on.

    Args:
        request: The request.

    Raises:
        HTTPException: 403 for another host or origin and for a proxy, 415 for a body that a form of another site could
            send.
    """
    if any(name in request.headers for name in _OF_PROXIES):
        raise HTTPException(403, "without a token this is not for requests that a proxy passes on")
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    name = urlsplit(f"//{host}").hostname
    if name not in _THIS_MACHINE or (origin is not None and urlsplit(origin).netloc != host):
        raise HTTPException(403, "without a token this is for programs and pages of this machine")
    if request.method == "POST" and not request.headers.get("content-type", "").startswith("application/json"):
        raise HTTPException(415, "the body must be application/json")


class BodyLimit:
    """Refuses bodies that are too large, or hold too many lists, 413, or come too slowly, 408, before they are read.

    Args:
        app: What gets the others.
        limit: Bytes of a body.
        seconds: How long a body may take to come.
    """

    def __init__(self, app: ASGIApp, limit: int, seconds: float = 30.0) -> None:
        self._app, self._limit, self._seconds = app, limit, seconds
        self._refusal = f"a body must be of at most {limit} bytes"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._limit:
            await JSONResponse({"detail": self._refusal}, 413)(scope, receive, send)
            return
        left, containers, whole = self._limit, 0, False
        end = asyncio.get_running_loop().time() + self._seconds

        async def counted() -> Message:
            nonlocal left, containers, whole
            if whole:  # what comes next is that the caller goes away, whenever that is
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), end - asyncio.get_running_loop().time())
            except asyncio.TimeoutError:
                raise HTTPException(408, f"a body must come within {self._seconds:g} s") from None
            whole = not message.get("more_body", False)
            body = message.get("body", b"")
            left -= len(body)
            containers += body.count(b"[") + body.count(b"{")
            if left < 0:  # it came in parts, and without a length
                raise HTTPException(413, self._refusal)
            if containers > _CONTAINERS:
                raise HTTPException(413, f"a body must hold at most {_CONTAINERS} lists and objects")
            return message

        await self._app(scope, counted, send)
