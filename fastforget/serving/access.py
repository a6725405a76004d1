"""Who may use a service over HTTP, and how much may be sent."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Header, HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["BodyLimit", "check_token", "from_this_machine", "holder_of"]

_THIS_MACHINE = ("127.0.0.1", "::1", "localhost")


def check_token(token: str | None) -> None:
    """Raise ValueError for a token that is empty, or that no header could hold."""
    if token is not None and not (token and token.isascii() and token.isprintable()):
        raise ValueError("`token` must be printable ASCII characters, and at least one")


def holder_of(token: str) -> Callable[[str], None]:
    """Return what refuses, 401, a request without the token."""

    def check(authorization: Annotated[str, Header()] = "") -> None:
        if not hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "this needs the token", {"WWW-Authenticate": "Bearer"})

    return check


def from_this_machine(request: Request) -> None:
    """Refuse what a page of another site makes a browser on this machine send.

    Args:
        request: The request.

    Raises:
        HTTPException: 403 for another host or origin, 415 for a body that a form of another site could send.
    """
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    name = urlsplit(f"//{host}").hostname
    if name not in _THIS_MACHINE or (origin is not None and urlsplit(origin).netloc != host):
        raise HTTPException(403, "without a token this is for programs and pages of this machine")
    if request.method == "POST" and not request.headers.get("content-type", "").startswith("application/json"):
        raise HTTPException(415, "the body must be application/json")


class BodyLimit:
    """Refuses bodies that are too large, 413, before anything holds them.

    Args:
        app: What gets the others.
        limit: Bytes of a body.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit
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
        left = self._limit

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:  # it came in parts, and without a length
                raise HTTPException(413, self._refusal)
            return message

        await self._app(scope, counted, send)
