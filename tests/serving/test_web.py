"""A live model behind HTTP."""

import base64
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from serving.archive_workers import CODES, X, network
from serving.history.archives import until

from fastforget import UnrecognisedCodesError, one_shot
from fastforget.serving import LiveModel

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient

from fastforget.serving.web import application

HERE = "http://127.0.0.1:8000"


@contextmanager
def client(live: LiveModel, token: str | None = None, names: Any = None, issuer: Any = None) -> Iterator[TestClient]:
    made = application(live, token=token, names=names, every=0.01, issuer=issuer)
    with TestClient(made, raise_server_exceptions=False, base_url=HERE) as found:
        yield found


def outcome(web: TestClient, name: str) -> dict[str, Any]:
    end = time.monotonic() + 20
    while (found := web.get(f"/requests/{name}").json())["state"] == "waiting":
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def test_what_json_cannot_say_again_is_refused() -> None:
    """JSON of Python reads infinities, and no answer may hold one."""
    with client(LiveModel(network(), CODES)) as web:
        for classes in ("[Infinity]", "[1e999]", "NaN"):
            answer = web.post(
                "/requests", content=f'{{"classes": {classes}}}', headers={"content-type": "application/json"}
            )
            assert answer.status_code == 422
            assert answer.json()["detail"][0].keys() == {"type", "loc", "msg"}


def test_a_request_from_beginning_to_end(tmp_path: Path) -> None:
    live, model = LiveModel(network(), CODES, archive=tmp_path / "archive"), network()
    with client(live) as web:
        before = web.post("/predict", json={"inputs": X.tolist()}).json()
        assert before["version"] == 0
        assert torch.equal(torch.tensor(before["outputs"]), model(X))
        asked = web.post("/requests", json={"classes": [3], "asked_by": "a person", "request": "ticket-17"})
        assert (asked.status_code, asked.json()["state"]) == (202, "waiting")
        done = outcome(web, "ticket-17")
        until(lambda: live.version.number == 1)  # on record, and made a moment later
        assert (done["version"], done["claims"], done["outcome"]) == (1, ["disconnected"], live.receipts(1)[0].outcome)
        assert done["outcome"].startswith("disconnected, ")
        assert done["outcome"].endswith(" nats deep")
        assert web.post("/requests", json={"classes": [3], "request": "ticket-17"}).json()["state"] == "done"
        assert web.post("/predict", json={"inputs": X.tolist()}).json()["version"] == 1
        again = web.post("/requests", json={"classes": [3], "asked_by": "a person"}).json()
        assert "forgotten earlier" in outcome(web, again["name"])["reason"]
        assert [one["state"] for one in web.get("/requests").json()] == ["done", "refused"]
        back = web.post("/versions/0/revert", json={"asked_by": "somebody else"}).json()
        assert (back["number"], back["classes"]) == (2, [])
        versions = web.get("/versions").json()
        assert [version["number"] for version in versions] == [0, 1, 2]
        assert [version["outcome"] for version in versions] == ["", done["outcome"], ""]
        assert web.post("/predict", json={"inputs": X.tolist()}).json() == {**before, "version": 2}
        assert web.get("/health").json()["version"] == 2
    assert not live._follower.running


def test_a_class_that_was_forgotten_before_the_service_began() -> None:
    model = network()
    one_shot(model, CODES, 3)
    live = LiveModel(model, CODES)
    with pytest.raises(UnrecognisedCodesError, match="but class 3 seems to be forgotten already"):
        live.forget(3)
    with client(live) as web:
        asked = web.post("/requests", json={"classes": [3], "asked_by": "a person"}).json()
        found = outcome(web, asked["name"])
        assert found["state"] == "refused"
        assert "but class 3 seems to be forgotten already: it assigns none of the" in found["reason"]
        assert web.get("/health").json()["version"] == 0


@pytest.mark.parametrize(
    ("path", "sent", "status", "text"),
    [
        ("/predict", {"inputs": "text"}, 422, "`inputs` must be nested lists of numbers"),
        ("/predict", {"inputs": [[1.0], [1.0, 2.0]]}, 422, "`inputs` must be nested lists of numbers"),
        ("/predict", {"inputs": [[1.0, 2.0]]}, 422, "the model does not take these inputs"),
        ("/predict", {}, 422, "Field required"),
        ("/requests", {"classes": [6]}, 422, "`cls` must lie in [0, 6), got [6]"),
        ("/requests", {"classes": []}, 422, "`cls` must name at least one class, got none"),
        ("/requests", {"classes": ["x"]}, 422, "valid integer"),
        ("/requests", {"classes": [True]}, 422, "valid integer"),
        ("/requests", {"classes": [1], "asked_by": "x" * 2001}, 422, "at most 2000"),
        ("/versions/3/revert", {"asked_by": ""}, 422, "`number` must be that of a version, 0 to 0, got 3"),
    ],
)
def test_what_cannot_be_done(path: str, sent: Any, status: int, text: str) -> None:
    with client(LiveModel(network(), CODES)) as web:
        answer = web.post(path, json=sent)
        assert (answer.status_code, text in str(answer.json()["detail"])) == (status, True), answer.text
        assert web.get("/requests/unknown").status_code == 404
        assert web.get("/requests").json() == []
        assert web.get("/health").json()["intact"]


def test_only_who_has_the_token_can_edit() -> None:
    live = LiveModel(network(), CODES)
    for sent in (
        {},
        {"Authorization": "a secret of this test"},
        {"Authorization": "Bearer a secret of this tes"},
        {"Authorization": "Bearer é"},
    ):
        with client(live, token="a secret of this test") as web:  # noqa: S106
            assert web.get("/").status_code == web.get("/health").status_code == 200
            assert web.post("/predict", json={"inputs": X.tolist()}).status_code == 200
            headers = {name: value.encode() for name, value in sent.items()}
            assert web.post("/requests", json={"classes": [3]}, headers=headers).status_code == 401
            assert web.post("/versions/0/revert", json={"asked_by": ""}, headers=headers).status_code == 401
            assert web.get("/requests", headers=headers).status_code == 401
            assert web.get("/versions", headers=headers).status_code == 401
    assert live.requests() == ()
    with client(live, token="a secret of this test") as web:  # noqa: S106
        right = {"Authorization": "Bearer a secret of this test"}
        assert web.post("/requests", json={"classes": [3]}, headers=right).status_code == 202
    for wrong in ("", "fifteen letters", "s\u00e9cret of this test", "two\nlines of this test"):
        with pytest.raises(ValueError, match=r"^`token` must be printable ASCII characters, at least 16 of them$"):
            application(live, token=wrong)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),
        ({"Origin": HERE}, 202),
        ({"Host": "localhost:1"}, 202),
        ({"Host": "[::1]:1"}, 202),
        ({"Origin": "http://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:9"}, 403),
        ({"Host": "elsewhere.example"}, 403),  # which its owner made to be this machine
        ({"X-Forwarded-For": "192.0.2.1"}, 403),
        ({"Via": "1.1 proxy"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": ""}, 415),
    ],
)
def test_pages_of_other_sites_cannot_file_or_undo(headers: dict[str, str], status: int) -> None:
    live = LiveModel(network(), CODES)
    with client(live) as web:
        sent = {"Content-Type": "application/json", **headers}
        assert web.post("/requests", content='{"classes": [3]}', headers=sent).status_code == status
        undone = web.post("/versions/0/revert", headers=sent).status_code
        assert undone == (200 if status == 202 else status)
        if status == 403:
            assert web.get("/requests", headers=headers).status_code == 403
        assert bool(live.requests()) == (status == 202)


def test_which_classes_are_forgotten_is_not_for_everybody() -> None:
    """A class may be a person."""
    live = LiveModel(network(), CODES)
    live.forget(3)
    with client(live, token="a secret of this test") as web:  # noqa: S106
        right = {"Authorization": "Bearer a secret of this test"}
        assert web.get("/health", headers=right).json()["classes"] == [3]
        for headers in ({}, {"Authorization": "Bearer another"}):
            found = web.get("/health", headers=headers)
            assert found.status_code == 200
            assert "classes" not in found.json()
    with client(live) as web:
        assert web.get("/health").json()["classes"] == [3]
        assert "classes" not in web.get("/health", headers={"Host": "elsewhere.example"}).json()
        assert web.get("/docs").status_code == web.get("/openapi.json").status_code == 404


def test_the_page_runs_its_own_script_alone() -> None:
    with client(LiveModel(network(), CODES), names=["<b>", "two", "3", "4", "5", "6"]) as web:
        answer = web.get("/")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        for tag in ("script", "style"):
            content = answer.text.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policy
        assert answer.headers["x-frame-options"] == "DENY"


def test_a_way_back_that_was_gone_is_not_gone_again() -> None:
    live = LiveModel(network(), CODES)
    with client(live) as web:
        live.forget(3)
        found = [web.post("/versions/0/revert", json={"asked_by": ""}).json()["number"] for _ in range(3)]
    assert found == [2, 2, 2]


@pytest.mark.parametrize("number", ["NaN", "1e400", "-Infinity"])
def test_inputs_must_be_finite(number: str) -> None:
    with client(LiveModel(network(), CODES)) as web:
        body = '{"inputs": [[' + number + ", 0" * 11 + "]]}"
        answer = web.post("/predict", content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, "must be finite" in answer.text) == (422, True)


def test_bodies_that_are_too_large() -> None:
    live = LiveModel(network(), CODES)
    with TestClient(application(live, token="a secret of this test", limit=1000), base_url=HERE) as web:  # noqa: S106
        assert web.post("/requests", content=b" " * 1001).status_code == 413
        assert web.post("/predict", content=(b" " * 300 for _ in range(5))).status_code == 413
        assert web.post("/predict", json={"inputs": [[0.0] * 12]}).status_code == 200
    with client(live) as web:
        lists = b'{"inputs": [' + b"[]," * 250_000 + b"[]]}"
        refused = web.post("/predict", content=lists, headers={"Content-Type": "application/json"})
        assert refused.status_code == 413
        assert "at most 250000 lists" in refused.text


def test_what_is_wrong_here_is_not_told_to_everybody(tmp_path: Path) -> None:
    live = LiveModel(network(), CODES, archive=tmp_path / "archive")
    with client(live) as web:
        web.post("/requests", json={"classes": [3], "request": "a/b"})
        assert outcome(web, "a/b")["state"] == "done"
        while web.get("/health").json()["version"] == 0:  # on record, and made a moment later
            time.sleep(0.01)
        log = tmp_path / "archive" / "requests.jsonl"
        log.with_name(log.name + ".head").write_text("{}")
        answers = [web.post("/requests", json={"classes": [4]}), web.get("/requests")]
        end = time.monotonic() + 20
        while web.get("/health").status_code == 200:
            assert time.monotonic() < end
            time.sleep(0.01)
        answers.append(web.get("/health"))
        assert [answer.status_code for answer in answers] == [500, 500, 503]
        assert all(str(tmp_path) not in answer.text for answer in answers)
        assert web.post("/predict", json={"inputs": X.tolist()}).json()["version"] == 1


def test_inputs_of_another_kind() -> None:
    """Whole numbers are numbers; what the model takes, the caller says."""
    live = LiveModel(network(), CODES)
    with client(live) as web:
        plain = web.post("/predict", json={"inputs": [[1] * 12]}).json()
    app = application(live, decode=lambda given: torch.full((1, 12), given["all"], dtype=torch.float32))
    with TestClient(app, base_url=HERE) as web:
        assert web.post("/predict", json={"inputs": {"all": 1}}).json() == plain


def test_weights_that_somebody_else_changed() -> None:
    model = network()
    with client(LiveModel(model, CODES)) as web:
        with torch.no_grad():
            next(model.parameters()).add_(1)
        assert web.get("/health").status_code == 503


def test_classes_by_name() -> None:
    live = LiveModel(network(), CODES)
    with client(live, names=["ape", "bee"]) as web:
        asked = web.post("/requests", json={"classes": [1, 3], "request": "a"}).json()
        assert (asked["classes"], asked["class_names"]) == ([1, 3], ["bee", None])
        assert web.get("/requests").json()[0]["class_names"] == ["bee", None]
        assert web.get("/requests/a").json()["class_names"] == ["bee", None]
        assert web.get("/versions").json()[0]["class_names"] == []


def test_the_page_names_no_class_and_ends_no_element() -> None:
    """What classes are called is for who may file requests."""
    with client(LiveModel(network(), CODES), names=["</script><script>alert(1)</script>"]) as web:
        text = web.get("/").text
        assert text.count("</script>") == text.count("<script") == 2
        assert "alert(1)" not in text
        assert web.get("/desk").json()["classes"][0]["name"] == "</script><script>alert(1)</script>"
    with client(LiveModel(network(), CODES), "a secret of this test") as web:
        assert web.get("/desk").status_code == 401
