"""Callers that take too long to say what they want: a connection is closed that does not send a request's headers.

uvicorn has a time limit for idle connections between two requests, but none before the first one or within headers.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

__all__ = ["SECONDS", "ImpatientProtocol"]

SECONDS = 20.0  # that the headers of a request may take


class ImpatientProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type, unused-ignore]
    """The protocol that uvicorn would choose, with a time limit for headers."""

    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the headers of the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request; go on waiting where it does not end the headers."""
        if self._limit is None and self._between_requests():
            self._wait()
        super().data_received(data)
        if not self._between_requests():
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._stop()
        super().connection_lost(exc)

    def _between_requests(self) -> bool:
        return self.cycle is None or bool(self.cycle.response_complete)

    def _wait(self) -> None:
        self._limit = self.loop.call_later(SECONDS, self._give_up)

    def _stop(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _give_up(self) -> None:
        self._limit = None
        if self._between_requests() and not self.transport.is_closing():
            self.transport.close()
