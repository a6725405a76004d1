"""A live model behind HTTP: predictions, requests to forget, ways back, health, and a page to file a request on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastforget.classifier.class_names import list_classes
from fastforget.classifier.fitting import DEVICE_ERRORS
from fastforget.errors import ForgettingError
from fastforget.serving.history.entries import Version
from fastforget.serving.history.errors import ArchiveError
from fastforget.serving.history.requests import Request as Filed
from fastforget.serving.live import LiveModel
from fastforget.serving.request_page import RequestPage

try:
    from fastapi import APIRouter, Body, Depends, FastAPI, HTTPException, Query, Request
    from fastapi.responses import HTMLResponse, JSONResponse
    from pydantic import StrictInt

    from fastforget.serving.access import BodyLimit, Guard, check_token, from_this_machine, holder_of, is_let_in
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("serving by HTTP needs FastAPI: pip install 'fastforget[serve]'") from error

__all__ = ["application"]

_LOG = logging.getLogger(__name__)
_Found = TypeVar("_Found")

Classes = Annotated[list[StrictInt], Body()]
Name = Annotated[str | None, Body(max_length=200)]
AskedBy = Annotated[str, Body(max_length=2000)]


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
    POST    ``/requests``             ``{"classes": [3], "asked_by": "...", "request": "ticket-17"}``; 202, with the
                                      ``proof`` that it is on record, see `LiveModel.proof`
    GET     ``/proofs/{name}``        that proof again
    GET     ``/log/head?since=n``     the head of the log for a witness, see `LiveModel.head`
    GET     ``/requests``             all of them, with what became of them; ``/requests/{name}`` one
    GET     ``/versions``             all versions
    POST    ``/versions/{n}/revert``  go back
    GET     ``/health``               200, or 503 where the weights are not those of the version, or it cannot follow;
                                      which classes are forgotten is for those alone who may file requests
    ======  ========================  ===========================================================================

    A request is on record when 202 comes back. The thread of `LiveModel.follow`, which the application starts and ends,
    carries it out. Where several processes share an archive, any of them does, and all follow.

    Args:
        live: The model; predictions run in the threads of the server.
        token: What callers must send as ``Authorization: Bearer ...`` to file a request, to see requests, and to go
            back; at least 16 characters. Without, only this machine's programs and pages of this service can
            (``Host`` and ``Origin``), and not through a proxy.
        names: What the classes are called, for the page; requests and versions then have ``class_names`` beside
            ``classes``.
        decode: Makes the model's input of what came as ``inputs``; by default a tensor on the device of the weights and
            of their dtype. It must refuse, by ValueError, what the model cannot stand: on a CUDA device an index out of
            range ends the process's use of the device.
        every: Seconds between two looks of `LiveModel.follow`.
        limit: Bytes of a request's body beyond which it is refused, 413.

    Returns:
        The application, for uvicorn or any other ASGI server.

    Raises:
        ModuleNotFoundError: FastAPI is not installed.
        ValueError: The token is short, or no header could hold it.
    """
    check_token(token)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        live.follow(every)
        yield
        await asyncio.to_thread(live.close)

    app = FastAPI(title="fastforget", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(BodyLimit, limit=limit)  # type: ignore[arg-type, unused-ignore]
    for error, answer in _ANSWERS.items():
        app.add_exception_handler(error, answer)
    allowed = from_this_machine if token is None else holder_of(token)
    app.include_router(_open_routes(live, RequestPage.of(names), decode or partial(_tensor, live), allowed))
    app.include_router(_guarded_routes(live, names), dependencies=[Depends(allowed)])
    return app


def _open_routes(live: LiveModel, page: RequestPage, decode: Callable[[Any], Any], allowed: Guard) -> APIRouter:
    """Return what anybody may do who reaches the port."""
    router = APIRouter()

    @router.get("/", response_class=HTMLResponse)
    def show_page() -> HTMLResponse:
        return HTMLResponse(page.text, headers=page.headers)

    @router.post("/predict")
    def predict(inputs: Annotated[Any, Body(embed=True)]) -> dict[str, Any]:
        return _predict(live, decode, inputs)

    @router.get("/health")
    def health(request: Request) -> JSONResponse:
        return _health(live, told=is_let_in(allowed, request))

    return router


def _guarded_routes(live: LiveModel, names: Sequence[str] | None) -> APIRouter:
    """Return what only callers may do who are allowed to."""
    router = APIRouter()

    @router.post("/requests", status_code=202)
    def ask(classes: Classes, asked_by: AskedBy = "", request: Name = None) -> dict[str, Any]:
        filed = live.ask(classes, request=request, asked_by=asked_by)
        proof = live.proof(filed.name)
        return {**_plain(filed, names), "proof": proof and proof.describe()}

    @router.get("/proofs/{name:path}")
    def proof(name: str) -> dict[str, Any]:
        return _found(live.proof(name), f"there is no proof of a request {name!r}").describe()

    @router.get("/log/head")
    def head(since: Annotated[int, Query(ge=0)] = 0) -> dict[str, Any]:
        return _found(live.head(since), "there is no log").describe()

    @router.get("/requests")
    def requests() -> list[dict[str, Any]]:
        return [_plain(request, names) for request in live.requests()]

    @router.get("/requests/{name:path}")
    def request(name: str) -> dict[str, Any]:
        return _plain(_request(live, name), names)

    @router.get("/versions")
    def versions() -> list[dict[str, Any]]:
        return [_plain(version, names) for version in live.versions]

    @router.post("/versions/{number}/revert")
    def revert(number: int, asked_by: Annotated[str, Body(embed=True, max_length=2000)] = "") -> dict[str, Any]:
        return _plain(live.revert(number, asked_by=asked_by), names)

    return router


def _predict(live: LiveModel, decode: Callable[[Any], Any], inputs: Any) -> dict[str, Any]:
    try:
        prediction = live.predict(decode(inputs))
    except DEVICE_ERRORS:
        raise
    except (IndexError, RuntimeError, TypeError, ValueError) as error:  # what modules raise that do not take them
        raise HTTPException(422, f"the model does not take these inputs: {error}") from error
    outputs = pytree.tree_map_only(Tensor, lambda tensor: tensor.tolist(), prediction.outputs)
    return {"outputs": outputs, "version": prediction.version}


def _health(live: LiveModel, *, told: bool) -> JSONResponse:
    health = live.health()
    if not told:  # a class may be a person
        del health["classes"]
    well = health["intact"] and health["trouble"] is None
    # the trouble may name files, and this is for anybody: it is logged
    trouble = None if health["trouble"] is None else "it cannot follow its archive, see the log of the service"
    return JSONResponse({**health, "trouble": trouble}, 200 if well else 503)


def _plain(found: Filed | Version, names: Sequence[str] | None) -> dict[str, Any]:
    """Return it as JSON knows it, with the names of its classes where they are known."""
    named = {} if names is None else {"class_names": list_classes(found.classes, names)}
    return {**asdict(found), **named}


def _request(live: LiveModel, name: str) -> Filed:
    found = [request for request in live.requests() if request.name == name]
    return _found(found[0] if found else None, f"there is no request {name!r}")


def _found(found: _Found | None, otherwise: str) -> _Found:
    if found is None:
        raise HTTPException(404, otherwise)
    return found


def _tensor(live: LiveModel, given: Any) -> Tensor:
    try:
        tensor = torch.tensor(given, dtype=live.dtype, device="cpu")
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"`inputs` must be nested lists of numbers of equal lengths: {error}") from error
    if not bool(tensor.isfinite().all()):
        raise ValueError("`inputs` must be finite, got NaN or infinity")
    return tensor.to(live.device)


def _conflict(_: Request, error: Exception) -> JSONResponse:
    """Say what cannot be done at the moment."""
    return JSONResponse({"detail": str(error)}, 409)


def _invalid(_: Request, error: Exception) -> JSONResponse:
    """Say what was wrong with what was sent."""
    return JSONResponse({"detail": str(error)}, 422)


def _archive_fails(_: Request, error: Exception) -> JSONResponse:
    """Say that something is wrong here, and no more than that."""
    _LOG.error("the archive cannot be used: %s", error)
    return JSONResponse({"detail": "the archive cannot be used, see the log of the service"}, 500)


# The nearest base class of an error counts.
_ANSWERS = {
    ForgettingError: _conflict,
    TimeoutError: _conflict,
    TypeError: _invalid,
    ValueError: _invalid,
    OSError: _archive_fails,
    ArchiveError: _archive_fails,
}
