"""A live model behind HTTP: predictions, requests to forget, ways back, health, and a page to file a request on."""

from __future__ import annotations

import hmac
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import cache, partial
from importlib.resources import files
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastforget.errors import ForgettingError
from fastforget.serving.live import LiveModel

try:
    from fastapi import APIRouter, Body, Depends, FastAPI, Header, HTTPException, Request
    from fastapi.responses import HTMLResponse, JSONResponse
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("serving by HTTP needs FastAPI: pip install 'fastforget[serve]'") from error

__all__ = ["application"]


def application(
    live: LiveModel,
    *,
    token: str | None = None,
    names: Sequence[str] | None = None,
    decode: Callable[[Any], Any] | None = None,
    every: float = 0.5,
) -> FastAPI:
    """Return an ASGI application that serves a live model.

    ======  =======================  ===========================================================================
    GET     ``/``                    a page on which a person files a request, and follows it
    POST    ``/predict``             ``{"inputs": nested lists}`` gives ``{"outputs": ..., "version": n}``
    POST    ``/requests``            ``{"classes": [3], "asked_by": "...", "request": "ticket-17"}``; 202
    GET     ``/requests``            all of them, with what became of them; ``/requests/{name}`` one
    GET     ``/versions``            all versions
    POST    ``/versions/{n}/revert`` go back
    GET     ``/health``              200, or 503 where the weights are not those of the version
    ======  =======================  ===========================================================================

    A request is on record when 202 comes back, and is carried out by the thread of `LiveModel.follow`, which the
    application starts and ends: with an archive that several processes share, by any of them, and all follow.

    Args:
        live: The model; predictions run in the threads of the server.
        token: What callers must send as ``Authorization: Bearer ...`` to file a request, to see requests, and to go
            back. Without, anybody can who reaches the port.
        names: What the classes are called, for the page.
        decode: Makes the model's input of what came as ``inputs``; by default a tensor of the dtype of the weights.
        every: Seconds between two looks of `LiveModel.follow`.

    Returns:
        The application, for uvicorn or any other ASGI server.

    Raises:
        ModuleNotFoundError: FastAPI is not installed.
        ValueError: The token is empty.
    """
    if token is not None and not token:
        raise ValueError("`token` must not be empty")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        live.follow(every)
        yield
        live.close()

    app = FastAPI(title="fastforget", lifespan=lifespan)
    for error in (ForgettingError, TimeoutError, TypeError, ValueError, RuntimeError, OSError):
        app.add_exception_handler(error, _refused)
    app.include_router(_for_all(live, _page(names), decode or partial(_tensor, live.dtype)))
    app.include_router(_for_some(live), dependencies=[Depends(_holder_of(token))])
    return app


def _for_all(live: LiveModel, page: str, decode: Callable[[Any], Any]) -> APIRouter:
    """What anybody may do who reaches the port."""
    router = APIRouter()

    @router.get("/", response_class=HTMLResponse)
    def show_page() -> str:
        return page

    @router.post("/predict")
    def predict(inputs: Annotated[Any, Body(embed=True)]) -> dict[str, Any]:
        found = live.predict(decode(inputs))
        outputs = pytree.tree_map_only(Tensor, lambda tensor: tensor.tolist(), found.outputs)
        return {"outputs": outputs, "version": found.version}

    @router.get("/health")
    def health() -> JSONResponse:
        found = live.health()
        return JSONResponse(found, 503 if found["intact"] is False else 200)

    return router


def _for_some(live: LiveModel) -> APIRouter:
    """What needs the token."""
    router = APIRouter()

    @router.post("/requests", status_code=202)
    def ask(
        classes: Annotated[list[int], Body()],
        asked_by: Annotated[str, Body(max_length=2000)] = "",
        request: Annotated[str | None, Body(max_length=200)] = None,
    ) -> dict[str, Any]:
        return asdict(live.ask(classes, request=request, asked_by=asked_by))

    @router.get("/requests")
    def requests() -> list[dict[str, Any]]:
        return [asdict(one) for one in live.requests()]

    @router.get("/requests/{name}")
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


def _holder_of(token: str | None) -> Callable[[str], None]:
    def check(authorization: Annotated[str, Header()] = "") -> None:
        if token is not None and not hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "this needs the token", {"WWW-Authenticate": "Bearer"})

    return check


def _refused(_: Request, error: Exception) -> JSONResponse:
    """Say what was wrong: with what was sent, at the moment, or here."""
    if isinstance(error, (ForgettingError, TimeoutError)):
        status = 409
    else:
        status = 422 if isinstance(error, (TypeError, ValueError, RuntimeError)) else 500
    return JSONResponse({"detail": str(error)}, status)


def _tensor(dtype: torch.dtype, given: Any) -> Tensor:
    try:
        return torch.tensor(given, dtype=dtype)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"`inputs` must be nested lists of numbers of equal lengths: {error}") from error


def _page(names: Sequence[str] | None) -> str:
    text = json.dumps(list(names or [])).replace("<", "\\u003c")  # nothing in a name can end the script
    return _template().replace("/* names */ []", text)


@cache
def _template() -> str:
    return files("fastforget.serving").joinpath("request_page.html").read_text("utf-8")
