"""What errors of a live model are over HTTP: routes tell it themselves, so that any application can include them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from fastforget.errors import ForgettingError
from fastforget.serving.history.errors import ArchiveError

__all__ = ["AnsweringRoute"]

_LOG = logging.getLogger(__name__)


class AnsweringRoute(APIRoute):
    """A route that answers what cannot be done with the status and the words that belong to it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        answer = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await answer(request)
            except RequestValidationError as error:
                # What came is not sent back: JSON has no infinity, and bodies are long.
                said = [{key: one[key] for key in ("type", "loc", "msg")} for one in error.errors()]
                return JSONResponse({"detail": said}, 422)
            except _KNOWN as error:
                return _answer(error)

        return handler


def _answer(error: Exception) -> JSONResponse:
    if isinstance(error, (ForgettingError, TimeoutError)):  # cannot be done at the moment
        return JSONResponse({"detail": str(error)}, 409)
    if isinstance(error, (ArchiveError, OSError)):  # something is wrong here, and it may name files
        _LOG.error("the archive cannot be used: %s", error)
        return JSONResponse({"detail": "the archive cannot be used, see the log of the service"}, 500)
    return JSONResponse({"detail": str(error)}, 422)


_KNOWN = (ForgettingError, TimeoutError, TypeError, ValueError, OSError)  # an ArchiveError is a ValueError
