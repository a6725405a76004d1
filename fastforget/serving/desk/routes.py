"""What the page of the desk asks the service for, beside filing a request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body, HTTPException, Query, Request
from fastapi.responses import Response

from fastforget.classifier.class_names import list_classes
from fastforget.errors import ForgettingError
from fastforget.serving.access import Guard, is_let_in
from fastforget.serving.answers import AnsweringRoute
from fastforget.serving.desk.cases import Cases
from fastforget.serving.history.entries import now
from fastforget.serving.history.export import FORMATS, exported
from fastforget.serving.history.undo_policy import kept_until
from fastforget.serving.live import LiveModel

__all__ = ["desk_of", "following", "planning", "undoing"]

_TYPES = {"csv": "text/csv; charset=utf-8", "json": "application/json", "html": "text/html; charset=utf-8"}


def desk_of(live: LiveModel, deadline: int) -> Cases:
    """Return what became of the requests of a live model.

    Args:
        live: The model.
        deadline: Days after filing by which a request is to be answered.

    Returns:
        The cases.
    """
    history = live.history
    return Cases(history.requests(), history.entries(), live.versions, deadline, now())


def planning(live: LiveModel, names: Sequence[str] | None, deadline: int, sees: Guard) -> APIRouter:
    """Return what whoever files a request must know before.

    Args:
        live: The model.
        names: What classes are called.
        deadline: Days after filing.
        sees: Lets in who may see requests; which classes are forgotten is for them alone.

    Returns:
        The route ``/desk``.
    """
    router = APIRouter(route_class=AnsweringRoute)

    @router.get("/desk")
    def plan(request: Request) -> dict[str, Any]:
        count = 0 if live.codes is None else len(live.codes)
        forgotten = live.version.classes if is_let_in(sees, request) else ()
        time = now()
        return {
            "classes": [
                {"number": cls, "name": name, "forgotten": cls in forgotten}
                for cls, name in enumerate(list_classes(range(count), names or []))
            ],
            "deadline": deadline,
            "undo": live.undo,
            "undo_until": kept_until(live.undo, time),
            "time": time.isoformat(),
        }

    return router


def following(live: LiveModel, names: Sequence[str] | None, deadline: int) -> APIRouter:
    """Return what whoever follows requests asks for.

    Args:
        live: The model.
        names: What classes are called.
        deadline: Days after filing.

    Returns:
        The routes ``/requests``, ``/requests/{name}`` and ``/export/{form}``.
    """
    router = APIRouter(route_class=AnsweringRoute)

    @router.get("/requests")
    def requests() -> list[dict[str, Any]]:
        return [_named(case, names) for case in desk_of(live, deadline).all()]

    @router.get("/requests/{name:path}")
    def request(name: str) -> dict[str, Any]:
        return _named(_case(desk_of(live, deadline), name), names)

    @router.get("/export/{form}")
    def export(form: str, request: Annotated[str | None, Query()] = None) -> Response:
        if form not in FORMATS:
            raise HTTPException(404, f"the form must be one of {', '.join(FORMATS)}, got {form!r}")
        records = list(live.history.records())
        if not records:
            raise HTTPException(404, "there is no record: the service has no archive")
        if request is not None:
            reverted = _case(desk_of(live, deadline), request)["reverted"]
            undone = {"kind": "edit", "number": reverted["version"]} if reverted else {"request": request}
            about = [
                one
                for one in records[1:]
                if one.fields.get("request") == request or undone.items() <= dict(one.fields).items()
            ]
            records = [records[0], *about]
        head = live.head()
        text = exported(records, form, names, None if head is None else head.head)
        return Response(text, media_type=_TYPES[form])

    return router


def undoing(live: LiveModel, names: Sequence[str] | None, deadline: int) -> APIRouter:
    """Return the way to undo a request.

    Args:
        live: The model.
        names: What classes are called.
        deadline: Days after filing.

    Returns:
        The route ``/undo/{name}``: ``{"asked_by": "who, and why", "also": [...]}``. ``also`` names the requests whose
        edits were made later, and are undone with it; if it does not name all of them, nothing is done, 409.
    """
    router = APIRouter(route_class=AnsweringRoute)

    @router.post("/undo/{name:path}")
    def undo(
        name: str,
        asked_by: Annotated[str, Body(min_length=1, max_length=2000)],
        also: Annotated[list[str] | None, Body()] = None,
    ) -> dict[str, Any]:
        desk, current = desk_of(live, deadline), live.version.number
        _case(desk, name)
        number, undone = desk.way_back(name)
        if sorted(also or []) != sorted(undone):
            raise ForgettingError(f"`also` must name what would be undone with {name!r}: {undone}")
        live.revert(number, asked_by=asked_by, current=current)
        return _named(_case(desk_of(live, deadline), name), names)

    return router


def _case(desk: Cases, name: str) -> dict[str, Any]:
    found = desk.one(name)
    if found is None:
        raise HTTPException(404, f"there is no request {name!r}")
    return found


def _named(case: dict[str, Any], names: Sequence[str] | None) -> dict[str, Any]:
    return case if names is None else {**case, "class_names": list_classes(case["classes"], names)}
