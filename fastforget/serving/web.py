"""A live model behind HTTP: predictions, requests to forget, ways back, health, and a page to file a request on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastforget.classifier.class_names import list_classes
from fastforget.classifier.fitting import DEVICE_ERRORS
from fastforget.serving.desk.cases import check_deadline
from fastforget.serving.desk.page import RequestPage
from fastforget.serving.desk.pictures import find_pictures
from fastforget.serving.history.entries import Version
from fastforget.serving.history.requests import Request as Filed
from fastforget.serving.issuer import Issuer
from fastforget.serving.live import LiveModel

if TYPE_CHECKING:
    from fastforget.serving.metrics import Metrics

try:
    from fastapi import APIRouter, Body, Depends, FastAPI, HTTPException, Query, Request
    from fastapi.responses import HTMLResponse, JSONResponse, Response
    from pydantic import StrictInt

    from fastforget.serving.access import BodyLimit, Guard, is_let_in
    from fastforget.serving.answers import AnsweringRoute
    from fastforget.serving.desk.routes import following, planning, undoing
    from fastforget.serving.tokens import guards
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError("serving by HTTP needs FastAPI: pip install 'fastforget[serve]'") from _error

__all__ = ["application", "router"]

_LOG = logging.getLogger(__name__)
_Found = TypeVar("_Found")

Classes = Annotated[list[StrictInt], Body()]
Name = Annotated[str | None, Body(max_length=200)]
AskedBy = Annotated[str, Body(max_length=2000)]


def application(
    live: LiveModel,
    *,
    token: str | Mapping[str, str] | None = None,
    names: Sequence[str] | None = None,
    decode: Callable[[Any], Any] | None = None,
    every: float = 0.5,
    limit: int = 2**24,
    metrics: bool = False,
    deadline: int = 30,
    pictures: str | PathLike[str] | None = None,
    issuer: Issuer | None = None,
) -> FastAPI:
    """Return an ASGI application that serves a live model.

    ======  ========================  ===========================================================================
    GET     ``/``                     a page on which a person files a request, follows it, and undoes it
    POST    ``/predict``              ``{"inputs": nested lists}`` gives ``{"outputs": ..., "version": n}``
    POST    ``/requests``             ``{"classes": [3], "asked_by": "...", "request": "ticket-17"}``; 202, with the
                                      ``proof`` that it is on record, see `LiveModel.proof`
    GET     ``/proofs/{name}``        that proof again
    GET     ``/log/head?since=n``     the head of the log for a witness, see `LiveModel.head`
    GET     ``/requests``             all of them, with what became of them; ``/requests/{name}`` one, and how it can be
                                      undone
    POST    ``/undo/{name}``          undo the edit of a request: ``{"asked_by": "who, and why"}``; with ``also``, the
                                      names of later requests that are undone with it
    GET     ``/export/{form}``        the record as ``csv``, ``json`` or ``html``; ``?request=name`` that of one
    GET     ``/desk``                 what the page says before a request is filed; ``/pictures/{cls}`` what it shows
    GET     ``/versions``             all versions
    POST    ``/versions/{n}/revert``  go back
    GET     ``/health``               200, or 503 where the weights are not those of the version, or it cannot follow;
                                      which classes are forgotten is for those alone who may see requests
    GET     ``/metrics``              for Prometheus, with ``metrics=True``
    GET     ``/livez``                200 as long as the process answers; waits for no prediction
    GET     ``/readyz``               200, or 503 where nobody follows the archive; likewise
    ======  ========================  ===========================================================================

    A request is on record when 202 comes back. The thread of `LiveModel.follow`, which the application starts and ends,
    carries it out. Where several processes share an archive, any of them does, and all follow.

    Args:
        live: The model; predictions run in the threads of the server.
        token: What callers must send as ``Authorization: Bearer ...`` to file a request, to see requests, and to go
            back; at least 16 characters. Or one for each of these roles, ``{"ask": ..., "see": ..., "revert": ...}``; a
            role without one is for nobody. After five wrong ones an address must wait, ever longer, 429. Without a
            token only this machine's programs and pages of this service can (``Host`` and ``Origin``), and not through
            a proxy.
        names: What the classes are called, for the page; requests and versions then have ``class_names`` beside
            ``classes``.
        decode: Makes the model's input of what came as ``inputs``; by default a tensor on the device of the weights and
            of their dtype. It must refuse, by ValueError, what the model cannot stand: on a CUDA device an index out of
            range ends the process's use of the device.
        every: Seconds between two looks of `LiveModel.follow`.
        limit: Bytes of a request's body beyond which it is refused, 413.
        metrics: Whether there is ``/metrics``, for who may see requests; this needs the extra ``metrics``. Each process
            tells its own.
        deadline: Days after filing by which a request is to be answered, as the page and ``/requests`` say.
        pictures: A folder with pictures of classes for the page, named by their numbers, such as ``3.png``.
        issuer: Whose signed tokens let callers in, too, or alone where there is no ``token``; needs the extra ``jwt``.

    Returns:
        The application, for uvicorn or any other ASGI server.

    Raises:
        ModuleNotFoundError: FastAPI is not installed.
        NotADirectoryError: There is no such folder of pictures.
        ValueError: A token is short, or no header could hold it; there is no such role; or deadline or keys are none.
    """
    app = FastAPI(title="fastforget", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(BodyLimit, limit=limit)  # type: ignore[arg-type, unused-ignore]
    app.include_router(
        router(
            live,
            token=token,
            names=names,
            decode=decode,
            every=every,
            metrics=metrics,
            deadline=deadline,
            pictures=pictures,
            issuer=issuer,
        )
    )
    return app


def router(
    live: LiveModel,
    *,
    token: str | Mapping[str, str] | None = None,
    names: Sequence[str] | None = None,
    decode: Callable[[Any], Any] | None = None,
    every: float = 0.5,
    metrics: bool = False,
    deadline: int = 30,
    pictures: str | PathLike[str] | None = None,
    issuer: Issuer | None = None,
) -> APIRouter:
    """Return the routes of `application`, for ``include_router`` of a FastAPI application of one's own.

    The router brings its lifespan: where it is included, the application's start begins the thread of
    `LiveModel.follow`, and its end ends it. An application that is *mounted* in another one has no lifespan; call
    `follow` and `close` there. Until then nobody carries requests out, and ``/readyz`` answers 503. Limits of bodies
    are the application's: ``app.add_middleware(BodyLimit, limit=2**24)``, from `fastforget.serving.access`.

    Args:
        live: As for `application`; likewise the others.
        token: What callers must send.
        names: What the classes are called.
        decode: Makes the model's input.
        every: Seconds between two looks.
        metrics: Whether there is ``/metrics``.
        deadline: Days after filing.
        pictures: A folder with pictures of classes.
        issuer: Whose signed tokens let callers in.

    Returns:
        The router. Its errors are answered within, and the application's own handlers stay as they are.

    Raises:
        ModuleNotFoundError: FastAPI is not installed.
        NotADirectoryError: There is no such folder of pictures.
        ValueError: A token is short, or no header could hold it; there is no such role; or deadline or keys are none.
    """
    check_deadline(deadline)
    allowed = guards(token, issuer=issuer)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        live.follow(every)
        try:
            yield
        finally:
            await asyncio.to_thread(live.close)

    whole = APIRouter(lifespan=lifespan, route_class=AnsweringRoute)
    whole.include_router(_probes(live))
    counted = _metrics(live) if metrics else None
    predicts = partial(_predict, live, decode or partial(_tensor, live))
    if counted is not None:
        whole.include_router(_metrics_route(counted), dependencies=[Depends(allowed["see"])])
        predicts = partial(_counted, counted, predicts)
    whole.include_router(_open_routes(live, RequestPage.make(), predicts, allowed["see"]))
    asking = partial(_asking, allowed["see"], find_pictures(pictures))
    for role, routes in (("ask", asking), ("see", _seeing), ("revert", _going_back)):
        whole.include_router(routes(live, names, deadline), dependencies=[Depends(allowed[role])])
    return whole


def _probes(live: LiveModel) -> APIRouter:
    """Return what a supervisor asks: it waits for no prediction, and takes no thread from them."""
    router = APIRouter(route_class=AnsweringRoute)

    @router.get("/livez")
    async def alive() -> dict[str, bool]:
        return {"alive": True}

    @router.get("/readyz")
    async def ready() -> JSONResponse:
        readiness = live.readiness()
        return JSONResponse(readiness, 200 if readiness["ready"] else 503)

    return router


def _open_routes(live: LiveModel, page: RequestPage, predicts: Callable[[Any], Any], allowed: Guard) -> APIRouter:
    """Return what anybody may do who reaches the port."""
    router = APIRouter(route_class=AnsweringRoute)

    @router.get("/", response_class=HTMLResponse)
    def show_page() -> HTMLResponse:
        return HTMLResponse(page.text, headers=page.headers)

    @router.post("/predict")
    def predict(inputs: Annotated[Any, Body(embed=True)]) -> dict[str, Any]:
        found: dict[str, Any] = predicts(inputs)
        return found

    @router.get("/health")
    def health(request: Request) -> JSONResponse:
        return _health(live, told=is_let_in(allowed, request))

    return router


def _metrics(live: LiveModel) -> Metrics:
    from fastforget.serving.metrics import Metrics  # noqa: PLC0415 (needs the extra "metrics")

    return Metrics(live)


def _counted(metrics: Metrics, predicts: Callable[[Any], Any], inputs: Any) -> Any:
    with metrics.prediction():
        return predicts(inputs)


def _metrics_route(metrics: Metrics) -> APIRouter:
    router = APIRouter(route_class=AnsweringRoute)

    @router.get("/metrics")
    def told() -> Response:
        return Response(metrics.text(), media_type=metrics.content_type)

    return router


def _asking(
    sees: Guard, pictures: Mapping[int, Path], live: LiveModel, names: Sequence[str] | None, deadline: int
) -> APIRouter:
    """Return what only who may file requests may do."""
    router = APIRouter(route_class=AnsweringRoute)
    router.include_router(planning(live, names, deadline, sees, pictures))

    @router.post("/requests", status_code=202)
    def ask(classes: Classes, asked_by: AskedBy = "", request: Name = None) -> dict[str, Any]:
        filed = live.ask(classes, request=request, asked_by=asked_by)
        proof = live.proof(filed.name)
        return {**_plain(filed, names), "proof": proof and proof.describe()}

    return router


def _seeing(live: LiveModel, names: Sequence[str] | None, deadline: int) -> APIRouter:
    """Return what only who may see requests may do."""
    router = APIRouter(route_class=AnsweringRoute)

    @router.get("/proofs/{name:path}")
    def proof(name: str) -> dict[str, Any]:
        return _found(live.proof(name), f"there is no proof of a request {name!r}").describe()

    @router.get("/log/head")
    def head(since: Annotated[int, Query(ge=0)] = 0) -> dict[str, Any]:
        return _found(live.head(since), "there is no log").describe()

    @router.get("/versions")
    def versions() -> list[dict[str, Any]]:
        return [_plain(version, names) for version in live.versions]

    router.include_router(following(live, names, deadline))
    return router


def _going_back(live: LiveModel, names: Sequence[str] | None, deadline: int) -> APIRouter:
    """Return what only who may undo may do."""
    router = APIRouter(route_class=AnsweringRoute)

    @router.post("/versions/{number}/revert")
    def revert(number: int, asked_by: Annotated[str, Body(embed=True, max_length=2000)] = "") -> dict[str, Any]:
        return _plain(live.revert(number, asked_by=asked_by), names)

    router.include_router(undoing(live, names, deadline))
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
    well = health["intact"] and health["follows"] and health["trouble"] is None
    # the trouble may name files, and this is for anybody: it is logged
    trouble = None if health["trouble"] is None else "it cannot follow its archive, see the log of the service"
    return JSONResponse({**health, "trouble": trouble}, 200 if well else 503)


def _plain(found: Filed | Version, names: Sequence[str] | None) -> dict[str, Any]:
    """Return it as JSON knows it, with the names of its classes where they are known."""
    named = {} if names is None else {"class_names": list_classes(found.classes, names)}
    return {**asdict(found), **named}


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
