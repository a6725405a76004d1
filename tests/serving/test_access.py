"""Who may do what over HTTP, how long a caller may take, and what a supervisor is told."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from serving.archive_workers import CODES, X, network
from serving.history.archives import until
from serving.over_http import listening
from torch import nn

from fastforget.serving import LiveModel

pytest.importorskip("fastapi")
from fastapi import FastAPI
from fastapi.testclient import TestClient
from serving.test_web import HERE, client

from fastforget.serving import slow_callers
from fastforget.serving.access import BodyLimit
from fastforget.serving.tokens import Brake
from fastforget.serving.web import application, router

TOKENS = {"ask": "a secret to file with", "see": "a secret to see with", "revert": "a secret to go back with"}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def statuses(web: TestClient, headers: dict[str, str]) -> dict[str, int]:
    return {
        "ask": web.post("/requests", json={"classes": [3], "request": "a"}, headers=headers).status_code,
        "see": web.get("/requests", headers=headers).status_code,
        "revert": web.post("/versions/0/revert", json={}, headers=headers).status_code,
    }


@pytest.mark.parametrize("role", list(TOKENS))
def test_each_role_has_its_token(role: str) -> None:
    with client(LiveModel(network(), CODES), token=TOKENS) as web:  # type: ignore[arg-type]
        found = statuses(web, bearer(TOKENS[role]))
        assert found == {one: 401 if one != role else 202 if one == "ask" else 200 for one in TOKENS}
        assert ("classes" in web.get("/health", headers=bearer(TOKENS[role])).json()) == (role == "see")


def test_a_role_without_a_token_is_for_nobody() -> None:
    live = LiveModel(network(), CODES)
    with client(live, token={"ask": TOKENS["ask"]}) as web:  # type: ignore[arg-type]
        assert statuses(web, bearer(TOKENS["ask"])) == {"ask": 202, "see": 403, "revert": 403}
    with pytest.raises(ValueError, match=r"^`token` must be by the roles ask, see, revert, got 'file'$"):
        application(live, token={"file": TOKENS["ask"]})
    with pytest.raises(ValueError, match="at least 16"):
        application(live, token={"ask": "short"})


def test_wrong_tokens_make_an_address_wait_ever_longer() -> None:
    now = [0.0]
    brake = Brake(lambda: now[0])
    pauses = []
    for _ in range(14):
        brake.note("192.0.2.1", right=False)
        pauses.append(brake.pause("192.0.2.1"))
    assert pauses == [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert brake.pause("192.0.2.2") == 0
    now[0] += 59
    assert brake.pause("192.0.2.1") == 1
    now[0] += 2
    assert brake.pause("192.0.2.1") == 0
    brake.note("192.0.2.1", right=True)
    brake.note("192.0.2.1", right=False)
    assert brake.pause("192.0.2.1") == 0
    for n in range(7):  # one user of IPv6 has a whole network
        brake.note(f"2001:db8::{n}", right=False)
    assert brake.pause("2001:db8::ffff") > 0
    assert brake.pause("2001:db8:0:1::1") == 0


def test_the_brake_remembers_so_many_addresses_and_no_more() -> None:
    brake = Brake()
    for n in range(10_100):
        brake.note(f"client {n}", right=False)
    assert len(brake._wrong) == 10_000


def test_a_right_token_does_not_help_who_must_wait() -> None:
    """Else it could still be guessed; who sends no token waits for nothing."""
    live = LiveModel(network(), CODES)
    with client(live, token=TOKENS) as web:  # type: ignore[arg-type]
        found = [web.get("/requests", headers=bearer(f"a wrong token, {n}")).status_code for n in range(8)]
        assert found == [401] * 6 + [429] * 2
        answer = web.get("/requests", headers=bearer(TOKENS["see"]))
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert "classes" not in web.get("/health", headers=bearer(TOKENS["see"])).json()
        assert web.get("/requests").status_code == 401
        assert web.post("/predict", json={"inputs": X.tolist()}).status_code == 200
        time.sleep(1.1)
        assert web.get("/requests", headers=bearer(TOKENS["see"])).status_code == 200


class Slow(nn.Module):
    """A network of which one prediction can be held."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.held, self.inside = network(), False, threading.Event()
        self.go = threading.Event()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Slow":
        made = Slow()
        made.inner.load_state_dict(self.inner.state_dict())
        return made.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.held:
            self.inside.set()
            self.go.wait(30)
        found: torch.Tensor = self.inner(x)
        return found


def test_probes_do_not_wait_for_predictions_nor_for_threads() -> None:
    """Every thread of the server is held by a prediction, and an edit waits for them."""
    model = Slow().eval()
    live = LiveModel(model, CODES, patience=20)
    with served(live) as address:
        live.forget(3)
        model.held = True
        body = f'{{"inputs": {X.tolist()}}}'
        callers = [connection(address, "POST /predict", body) for _ in range(60)]
        try:
            assert model.inside.wait(20)
            time.sleep(0.2)
            for path in ("livez", "readyz"):
                started = time.monotonic()
                with connection(address, f"GET /{path}") as asked:
                    assert asked.recv(100).startswith(b"HTTP/1.1 200")
                assert time.monotonic() - started < 2
        finally:
            model.held = False
            model.go.set()
            for caller in callers:
                assert caller.recv(100).startswith(b"HTTP/1.1 200")
                caller.close()


@contextmanager
def served(live: LiveModel) -> Iterator[tuple[str, int]]:
    app = application(live, every=0.05)
    with listening(app, log_level="critical", http=slow_callers.ImpatientProtocol) as address:
        yield address


def connection(address: tuple[str, int], request: str, body: str = "") -> socket.socket:
    found = socket.create_connection(address, timeout=30)
    head = f"{request} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    found.sendall(f"{head}\r\n\r\n{body}".encode())
    return found


def answer(caller: socket.socket) -> bytes:
    found = b""
    while not found.endswith(b"}"):
        found += caller.recv(10_000)
    return found


def test_headers_must_come_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_callers, "SECONDS", 0.5)
    with served(LiveModel(network(), CODES)) as address:
        for sent in (b"", b"GET /livez HTTP/1.1\r\nHost: 127"):
            with socket.create_connection(address, timeout=10) as half:
                half.sendall(sent)
                started = time.monotonic()
                assert half.recv(100) == b""  # closed
                assert 0.3 < time.monotonic() - started < 5
        with connection(address, "GET /livez") as whole:  # and the half of a second one
            assert answer(whole).startswith(b"HTTP/1.1 200")
            whole.sendall(b"GET /livez HTTP/1.1\r\nHo")
            assert whole.recv(100) == b""
        with connection(address, "GET /livez") as whole:  # a second one at once
            for _ in range(3):
                assert answer(whole).startswith(b"HTTP/1.1 200")
                whole.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")


def test_a_long_answer_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_callers, "SECONDS", 0.2)
    model = Slow().eval()
    model.held = True
    with served(LiveModel(model, CODES)) as address:
        asked = connection(address, "POST /predict", f'{{"inputs": {X.tolist()}}}')
        time.sleep(0.6)
        model.go.set()
        assert asked.recv(10_000).startswith(b"HTTP/1.1 200")
        asked.close()


def test_a_body_must_come_in_time() -> None:
    async def run() -> list[Any]:
        sent: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            while (await receive()).get("more_body"):
                pass

        async def receive() -> Any:
            await asyncio.sleep(0.05)
            return {"type": "http.request", "body": b" ", "more_body": True}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "headers": []}
        with pytest.raises(Exception, match=r"a body must come within 0\.2 s"):
            await BodyLimit(app, 1000, 0.2)(scope, receive, send)
        return sent

    assert asyncio.run(run()) == []


def test_a_body_that_stops_is_answered_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BodyLimit.__init__, "__defaults__", (0.3,))
    with served(LiveModel(network(), CODES)) as address, socket.create_connection(address, timeout=10) as half:
        half.sendall(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
        assert half.recv(10_000).startswith(b"HTTP/1.1 408")


def test_a_router_in_an_application_of_ones_own(tmp_path: Path) -> None:
    """It brings its thread, answers its own errors, and leaves those of the application alone."""
    live, begun = LiveModel(network(), CODES, archive=tmp_path / "archive"), []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> Any:
        begun.append(True)
        yield

    app = FastAPI(lifespan=lifespan)

    @app.exception_handler(ValueError)
    async def own(_: Any, error: Exception) -> Any:
        from fastapi.responses import PlainTextResponse

        return PlainTextResponse("its own", 418)

    @app.get("/own")
    def fails() -> None:
        raise ValueError("not ours")

    app.include_router(router(live, every=0.01), prefix="/model")
    with TestClient(app, base_url=HERE) as web:
        assert begun == [True]
        assert web.get("/own").status_code == 418
        answer = web.post("/model/requests", json={"classes": [9]})
        assert (answer.status_code, "must lie in [0, 6)" in answer.text) == (422, True)
        assert web.post("/model/requests", json={"classes": [3]}).status_code == 202
        until(lambda: live.version.number == 1)
        assert web.get("/model/readyz").json() == {"ready": True, "version": 1, "follows": True}
    assert not live._follower.running


def test_health_says_when_nobody_follows() -> None:
    app, live = FastAPI(), LiveModel(network(), CODES)
    app.mount("/model", application(live))  # which runs no lifespan
    with TestClient(app, base_url=HERE) as web:
        assert web.get("/model/readyz").status_code == 503
        found = web.get("/model/health")
        assert (found.status_code, found.json()["follows"]) == (503, False)
        assert web.get("/model/livez").json() == {"alive": True}
        live.follow(0.01)
        assert web.get("/model/readyz").status_code == web.get("/model/health").status_code == 200
        live.close()
