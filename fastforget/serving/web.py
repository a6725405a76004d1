"""A live model behind HTTP: predictions, requests to forget, ways back, health, and a page to file a request on."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import cache, partial
from importlib.resources import files
from typing import Annotated, Any
from urllib.parse import urlsplit

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastforget.errors import ForgettingError
from fastforget.forgetting.code_batch import DEVICE_ERRORS
from fastforget.serving.archive import ArchiveError
from fastforget.serving.live import LiveModel

try:
    from fastapi import APIRouter, Body, Depends, FastAPI, Header, HTTPException, Request
    from fastapi.responses import HTMLResponse, JSONResponse
    from pydantic import StrictInt
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("serving by HTTP needs FastAPI: pip install 'fastforget[serve]'") from error

__all__ = ["application"]

_LOG = logging.getLogger(__name__)
_HERE = ("127.0.0.1", "::1", "localhost")


def application(
    live: LiveModel,
    *,
    token: str | None = None,
    names: Sequence[str] | None = None,
    decode: Callable[[Any], Any] | None = None,
    every: float = 0.5,
    limit: int = 2**24,
) -> FastAPI:
    """Return an ASGI application that serves a live model.

    ======  ========================  ===========================================================================
    GET     ``/``                     a page on which a person files a request, and follows it
    POST    ``/predict``              ``{"inputs": nested lists}`` gives ``{"outputs": ..., "version": n}``
    POST    ``/requests``             ``{"classes": [3], "asked_by": "...", "request": "ticket-17"}``; 202
    GET     ``/requests``             all of them, with what became of them; ``/requests/{name}`` one
    GET     ``/versions``             all versions
    POST    ``/versions/{n}/revert``  go back
    GET     ``/health``               200, or 503 where the weights are not those of the version, or it cannot follow
    ======  ========================  ===========================================================================

    A request is on record when 202 comes back, and is carried out by the thread of `LiveModel.follow`, which the
    application starts and ends: with an archive that several processes share, by any of them, and all follow.

    Args:
        live: The model; predictions run in the threads of the server.
        token: What callers must send as ``Authorization: Bearer ...`` to file a request, to see requests, and to go
            back. Without, only this machine's programs and pages of this service can (``Host`` and ``Origin``).
        names: What the classes are called, for the page.
        decode: Makes the model's input of what came as ``inputs``; by default a tensor of the dtype of the weights,
            where these are. It must refuse, by ValueError, what the model cannot stand: on a CUDA device an index out
            of range ends the process's use of the device.
        every: Seconds between two looks of `LiveModel.follow`.
        limit: Bytes of a request's body beyond which it is refused, 413.

    Returns:
        The application, for uvicorn or any other ASGI server.

    Raises:
        ModuleNotFoundError: FastAPI is not installed.
        ValueError: The token is empty, or no header could hold it.
    """
    if token is not None and not (token and token.isascii() and token.isprintable()):
        raise ValueError("`token` must be printable ASCII characters, and at least one")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        live.follow(every)
        yield
        await asyncio.to_thread(live.close)

    app = FastAPI(title="fastforget", lifespan=lifespan)
    app.add_middleware(_Limit, limit=limit)  # type: ignore[arg-type, unused-ignore]
    for error in (ForgettingError, TimeoutError, TypeError, ValueError, OSError):
        app.add_exception_handler(error, _refused)
    app.include_router(_for_all(live, _page(names), decode or partial(_tensor, live)))
    app.include_router(_for_some(live), dependencies=[Depends(_from_here if token is None else _holder_of(token))])
    return app


def _for_all(live: LiveModel, page: str, decode: Callable[[Any], Any]) -> APIRouter:
    """What anybody may do who reaches the port."""
    router = APIRouter()

    @router.get("/", response_class=HTMLResponse)
    def show_page() -> str:
        return page

    @router.post("/predict")
    def predict(inputs: Annotated[Any, Body(embed=True)]) -> dict[str, Any]:
        try:
            found = live.predict(decode(inputs))
        except DEVICE_ERRORS:
            raise
        except (IndexError, RuntimeError, TypeError, ValueError) as error:  # what modules raise that do not take them
            raise HTTPException(422, f"the model does not take these inputs: {error}") from error
        outputs = pytree.tree_map_only(Tensor, lambda tensor: tensor.tolist(), found.outputs)
        return {"outputs": outputs, "version": found.version}

    @router.get("/health")
    def health() -> JSONResponse:
        found = live.health()
        well = found["intact"] and found["trouble"] is None
        # what the trouble is may name files, and this is for anybody: it is logged
        trouble = None if found["trouble"] is None else "it cannot follow its archive, see the log of the service"
        return JSONResponse({**found, "trouble": trouble}, 200 if well else 503)

    return router


def _for_some(live: LiveModel) -> APIRouter:
    """What needs the token."""
    router = APIRouter()

    @router.post("/requests", status_code=202)
    def ask(
        classes: Annotated[list[StrictInt], Body()],
        asked_by: Annotated[str, Body(max_length=2000)] = "",
        request: Annotated[str | None, Body(max_length=200)] = None,
    ) -> dict[str, Any]:
        return asdict(live.ask(classes, request=request, asked_by=asked_by))

    @router.get("/requests")
    def requests() -> list[dict[str, Any]]:
        return [asdict(one) for one in live.requests()]

    @router.get("/requests/{name:path}")
    def request(name: str) -> dict[str, Any]:
        for one in live.requests():
            if one.name == name:
                return asdict(one)
        raise HTTPException(404, f"there is no request {name!r}")

    @router.get("/versions")
    def versions() -> list[dict[str, Any]]:
        return [asdict(version) for version in live.versions]

    @router.post("/versions/{number}/revert")
    def revert(number: int, asked_by: Annotated[str, Body(embed=True, max_length=2000)] = "") -> dict[str, Any]:
        return asdict(live.revert(number, asked_by=asked_by))

    return router


def _holder_of(token: str) -> Callable[[str], None]:
    def check(authorization: Annotated[str, Header()] = "") -> None:
        if not hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "this needs the token", {"WWW-Authenticate": "Bearer"})

    return check


def _from_here(request: Request) -> None:
    """Refuse what a page of another site makes a browser on this machine send."""
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    name = urlsplit(f"//{host}").hostname
    if name not in _HERE or (origin is not None and urlsplit(origin).netloc != host):
        raise HTTPException(403, "without a token this is for programs and pages of this machine")
    if request.method == "POST" and not request.headers.get("content-type", "").startswith("application/json"):
        raise HTTPException(415, "the body must be application/json")


class _Limit:
    """Refuses bodies that are too large, before anything holds them."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if not said.isdigit() or int(said) > self._limit:
            await JSONResponse({"detail": f"a body must be of at most {self._limit} bytes"}, 413)(scope, receive, send)
            return
        left = self._limit

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:  # it came in parts, and said no length
                raise HTTPException(413, f"a body must be of at most {self._limit} bytes")
            return message

        await self._app(scope, counted, send)


def _refused(_: Request, error: Exception) -> JSONResponse:
    """Say what was wrong: with what was sent, at the moment, or here; of the latter no more than that."""
    if isinstance(error, (ForgettingError, TimeoutError)):
        return JSONResponse({"detail": str(error)}, 409)
    if isinstance(error, (OSError, ArchiveError)):
        _LOG.error("the archive cannot be used: %s", error)
        return JSONResponse({"detail": "the archive cannot be used, see the log of the service"}, 500)
    return JSONResponse({"detail": str(error)}, 422)


def _tensor(live: LiveModel, given: Any) -> Tensor:
    try:
        found = torch.tensor(given, dtype=live.dtype, device="cpu")
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"`inputs` must be nested lists of numbers of equal lengths: {error}") from error
    if not bool(found.isfinite().all()):
        raise ValueError("`inputs` must be finite, got NaN or infinity")
    return found.to(live.device)


def _page(names: Sequence[str] | None) -> str:
    text = json.dumps(list(names or [])).replace("<", "\\u003c")  # nothing in a name can end the script
    return _template().replace("/* names */ []", text)


@cache
def _template() -> str:
    return files("fastforget.serving").joinpath("request_page.html").read_text("utf-8")
