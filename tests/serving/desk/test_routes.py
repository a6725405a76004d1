"""What the page asks the service for."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from serving.archive_workers import CODES, network
from serving.desk.conftest import NAMES, live_model
from serving.history.archives import until

from fastforget import ForgettingError
from fastforget.serving import LiveModel

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient

from fastforget.serving.web import application


@contextmanager
def client(live: LiveModel, **settings: Any) -> Iterator[TestClient]:
    app = application(live, names=NAMES, every=0.01, **settings)
    with TestClient(app, raise_server_exceptions=False, base_url="http://127.0.0.1:8000") as found:
        yield found


def done(web: TestClient, name: str, cls: int) -> dict[str, Any]:
    assert web.post("/requests", json={"classes": [cls], "asked_by": "a person", "request": name}).status_code == 202
    until(lambda: web.get(f"/requests/{name}").json()["done"])
    found: dict[str, Any] = web.get(f"/requests/{name}").json()
    return found


def test_what_is_known_before_a_request_is_filed(tmp_path: Path) -> None:
    with client(live_model(tmp_path, undo="expire:30d"), deadline=14) as web:
        done(web, "one", 3)
        desk = web.get("/desk").json()
    assert desk["classes"][3] == {"number": 3, "name": "coat", "forgotten": True}
    assert [one["forgotten"] for one in desk["classes"]] == [False, False, False, True, False, False]
    assert (desk["deadline"], desk["undo"]) == (14, "expire:30d")
    kept = datetime.fromisoformat(desk["undo_until"]) - datetime.fromisoformat(desk["time"])
    assert kept == timedelta(days=30)
    with client(LiveModel(network()), deadline=14) as web:
        assert web.get("/desk").json()["classes"] == []


def test_undoing(tmp_path: Path) -> None:
    live = live_model(tmp_path)
    with client(live) as web:
        done(web, "one/a b", 3)
        done(web, "two", 4)
        undo = {"asked_by": "an officer: the wrong person"}
        assert web.get("/requests/one/a b").json()["undo"] == {"possible": True, "until": None, "also": ["two"]}
        refused = web.post("/undo/one/a b", json=undo)
        assert (refused.status_code, live.version.classes) == (409, (3, 4))
        assert "`also` must name what would be undone" in refused.json()["detail"]
        assert web.post("/undo/one/a b", json={"asked_by": ""}).status_code == 422
        assert web.post("/undo/none", json=undo).status_code == 404
        found = web.post("/undo/one/a b", json={**undo, "also": ["two"]}).json()
        assert (found["state"], found["reverted"]["asked_by"]) == ("reverted", "an officer: the wrong person")
        assert [one["state"] for one in web.get("/requests").json()] == ["reverted", "reverted"]
        assert web.post("/undo/two", json=undo).status_code == 422
        assert done(web, "three", 4)["state"] == "done"
    assert live.version.classes == (4,)


def test_an_edit_that_came_between_is_not_undone_with_it() -> None:
    live = LiveModel(network(), CODES)
    live.forget(3)
    live.forget(4)
    with pytest.raises(ForgettingError, match=r"^version 2 was made meanwhile$"):
        live.revert(0, current=1)
    assert live.revert(0, current=2).classes == ()


def test_exports_of_all_and_of_one(tmp_path: Path) -> None:
    with client(live_model(tmp_path)) as web:
        assert web.get("/export/json").status_code == 404
        done(web, "one", 3)
        done(web, "two", 4)
        web.post("/undo/two", json={"asked_by": "an officer"})
        every = web.get("/export/json").json()
        assert [one["fields"]["kind"] for one in every["records"]] == ["key", "asked", "edit", "asked", "edit", "edit"]
        assert every["head"]
        one = web.get("/export/json", params={"request": "one"}).json()["records"]
        assert [(record["fields"]["kind"], record["fields"]["class_names"]) for record in one] == [
            ("asked", ["coat"]),
            ("edit", ["coat"]),
        ]
        two = json.loads(web.get("/export/json?request=two").text)["records"]
        assert [record["fields"].get("asked_by") for record in two] == ["a person", "a person", "an officer"]
        assert web.get("/export/csv").headers["content-type"] == "text/csv; charset=utf-8"
        assert "<td>coat</td>" in web.get("/export/html").text
        assert web.get("/export/pdf").status_code == web.get("/export/json?request=three").status_code == 404
    with client(LiveModel(network(), CODES)) as web:
        assert web.get("/export/json").status_code == 404


def test_exports_and_undoing_need_their_tokens(tmp_path: Path) -> None:
    live = live_model(tmp_path)
    with client(live, token={"ask": "a secret to ask with"}) as web:
        for answer in (web.get("/export/json"), web.get("/requests"), web.post("/undo/one", json={"asked_by": "x"})):
            assert answer.status_code == 403
        assert web.get("/desk").status_code == 401
        live.forget(3)
        desk = web.get("/desk", headers={"Authorization": "Bearer a secret to ask with"}).json()
        assert not any(one["forgotten"] for one in desk["classes"])  # that is for who may see requests
