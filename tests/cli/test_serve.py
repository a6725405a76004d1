"""`fastforget serve`, asked by HTTP."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from cli.command_line import CODES, FORGET, NET, CommandLine, Outcome

from fastforget.cli import serve

pytest.importorskip("uvicorn")
from fastapi.testclient import TestClient

from fastforget.cli.serve import application

SERVE = ("serve", *NET, *CODES, "--archive", "archive")


def request(port: int, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Authorization": "Bearer a secret of this test"}
    message = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", data, headers)
    with urllib.request.urlopen(message, timeout=10) as answer:  # noqa: S310
        return json.load(answer)


def poll(port: int, path: str, wanted: Any) -> Any:
    end = time.monotonic() + 60
    while True:
        try:
            if wanted(found := request(port, path)):
                return found
        except urllib.error.HTTPError:
            raise
        except (urllib.error.URLError, ConnectionError):
            pass
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_service_forgets_and_remembers_that_it_did(model_folder: Path, fastforget: CommandLine) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "fastforget", *SERVE, "--port", str(port)]
    environment = {**os.environ, "FASTFORGET_TOKEN": "a secret of this test", "OMP_NUM_THREADS": "1"}
    for version in (0, 1):  # the second one starts where the first one ended
        process = subprocess.Popen(command, env=environment)  # noqa: S603
        try:
            assert poll(port, "health", bool)["version"] == version
            if not version:
                request(port, "requests", {"classes": [2], "asked_by": "a test", "request": "ticket"})
                poll(port, "requests/ticket", lambda found: found["state"] == "done")
            with socket.create_connection(("127.0.0.1", port)) as half:  # a request that never ends holds nobody
                half.sendall(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
                time.sleep(0.2)
                process.terminate()
                process.wait(30)
        finally:
            process.kill()
            process.wait(30)
    printed = fastforget.output("log", "verify", "archive/requests.jsonl")
    assert "2 records, none changed" in printed  # one for the request, one when it was done


def test_a_service_knows_what_its_checkpoint_has_forgotten(
    model_folder: Path, fastforget: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fastforget.output(*FORGET)
    found = []

    class Uvicorn:
        """Makes the application as a worker does, and asks it once."""

        @staticmethod
        def run(*_: Any, **__: Any) -> None:
            with TestClient(serve.application(), base_url="http://127.0.0.1") as client:
                found.append(client.get("/health").json()["classes"])

    monkeypatch.setattr(serve, "_import_uvicorn", lambda: Uvicorn)
    monkeypatch.delenv("FASTFORGET_SERVE", raising=False)
    assert fastforget(*SERVE, "--checkpoint", "new.safetensors").status == 0
    line = fastforget.error_line(*SERVE, "--checkpoint", "new.safetensors", "--forgotten", "1")
    assert line.startswith("`--forgotten` must name the classes that are forgotten according to `new.safetensors`, [2]")
    assert fastforget(*SERVE, "--forgotten", "1", "--archive", "another").status == 0
    assert found == [[2], [1]]


def assert_one_line_error(outcome: Outcome, text: str) -> None:
    assert outcome.status == 1
    assert text in outcome.err
    assert outcome.err.count("\n") == 1


def test_refusals(model_folder: Path, fastforget: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTFORGET_TOKEN", raising=False)
    everywhere = ("--host", "0.0.0.0")  # noqa: S104
    assert_one_line_error(
        fastforget(*SERVE, *everywhere), "`FASTFORGET_TOKEN` must be set where others reach the service"
    )
    assert_one_line_error(fastforget(*SERVE, "--undo", "soon"), "`undo` must be")
    assert_one_line_error(fastforget(*SERVE, "--checkpoint", "none.safetensors"), "none.safetensors")


def test_tokens_of_an_issuer(
    model_folder: Path, fastforget: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They are enough where others reach the service."""
    pytest.importorskip("jwt")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    key = ed25519.Ed25519PrivateKey.generate()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "issuer.pem").write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))
    for name in ("", "_ASK", "_SEE", "_REVERT"):
        monkeypatch.delenv(f"FASTFORGET_TOKEN{name}", raising=False)
    named = ("--issuer", "https://id.example", "--audience", "here", "--issuer-keys", str(tmp_path / "issuer.pem"))
    everywhere = ("--host", "0.0.0.0")  # noqa: S104
    assert started(fastforget, monkeypatch, *named, *everywhere)[4] == "tokens: set"
    roles = ("--issuer-role", "see=auditor", "--issuer-role", "ask=officer")
    assert started(fastforget, monkeypatch, *named, *roles)[4] == "tokens: set; nobody may revert"
    outcome = fastforget(*SERVE, *named[:4])
    assert outcome.status == 2
    assert "`--issuer-keys` must be given, too" in " ".join(outcome.err.replace("│", " ").split())
    outcome = fastforget(*SERVE, *named, "--issuer-role", "see")
    assert outcome.status == 2
    assert "`--issuer-role` must be ROLE=VALUE, got see" in " ".join(outcome.err.replace("│", " ").split())
    assert_one_line_error(
        fastforget(*SERVE, *named, "--issuer-role", "all=officer"), "`roles` must say what stands for"
    )
    assert_one_line_error(fastforget(*SERVE, *named[:5], "none.json"), "none.json")
    monkeypatch.setitem(sys.modules, "jwt", None)
    assert_one_line_error(fastforget(*SERVE, *named), "tokens of an issuer need PyJWT: pip install 'fastforget[jwt]'")


NAMED = """
from types import SimpleNamespace
from nets import mlp

def named():
    model = mlp()
    model.config = SimpleNamespace(id2label={0: "cat", 1: "dog", 2: "eel", 3: "fox"})
    return model
"""


@pytest.mark.parametrize(("file", "shown"), [(None, ["cat", "dog", "eel", "fox"]), ("names.txt", ["a", "b"])])
def test_names_of_classes(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, file: str | None, shown: list[str]
) -> None:
    """Those in the file; else those that the model's configuration has."""
    (model_folder / "named.py").write_text(NAMED)
    (model_folder / "names.txt").write_text("a\nb\n")
    monkeypatch.setitem(sys.modules, "named", None)  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "named")
    options: dict[str, Any] = {
        "model": "named:named",
        "checkpoint": "net.safetensors",
        "codes": "codes.safetensors",
        "forgotten": None,
    }
    options |= {
        "archive": "archive",
        "undo": "keep",
        "sign": None,
        "metrics": False,
        "names": file,
        "deadline": 14,
        "pictures": None,
        "issuer": None,
    }
    monkeypatch.setenv("FASTFORGET_SERVE", json.dumps(options))
    with TestClient(application(), base_url="http://127.0.0.1:8000") as web:
        desk = web.get("/desk").json()
        assert ([one["name"] for one in desk["classes"]][: len(shown)], desk["deadline"]) == (shown, 14)


def started(fastforget: CommandLine, monkeypatch: pytest.MonkeyPatch, *more: str) -> list[str]:
    """What is said before the service listens."""

    class Uvicorn:
        @staticmethod
        def run(*_: Any, **__: Any) -> None:
            pass

    monkeypatch.setattr(serve, "_import_uvicorn", lambda: Uvicorn)
    monkeypatch.delenv("FASTFORGET_SERVE", raising=False)
    outcome = fastforget(*SERVE, *more)
    assert (outcome.status, outcome.out) == (0, "")
    return [line.removeprefix("fastforget: ") for line in outcome.err.splitlines() if line.startswith("fastforget: ")]


def test_what_is_said_at_the_start(
    model_folder: Path, fastforget: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("", "_ASK", "_SEE", "_REVERT"):
        monkeypatch.delenv(f"FASTFORGET_TOKEN{name}", raising=False)
    lines = started(fastforget, monkeypatch, "--port", "8123")
    assert lines[0].startswith("serving http://127.0.0.1:8123/ ")
    assert lines[1] == "model: version 0"
    assert lines[2] == "codes: the model recognises 100% of those of classes that remain"
    assert lines[3] == "archive: archive can be written, not signed; 0 requests wait"
    assert lines[4].startswith("! no token: every user of this machine")
    assert lines[5].startswith("audit: none")
    monkeypatch.setenv("FASTFORGET_TOKEN_ASK", "a secret of this test")
    assert started(fastforget, monkeypatch)[4] == "tokens: set; nobody may see, revert"
    monkeypatch.setenv("FASTFORGET_TOKEN", "a secret of this test")
    assert started(fastforget, monkeypatch)[4] == "tokens: set"


def test_what_will_not_work_is_said_at_the_start(
    model_folder: Path, fastforget: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fastforget.output("codes", "--classes", "4", "--shape", "6", "--seed", "9", "--output", "unknown.safetensors")
    lines = started(fastforget, monkeypatch, "--codes", "unknown.safetensors")
    assert lines[2].startswith("! codes: the model recognises ")
    assert lines[2].endswith("requests will be refused, see `fastforget embed-check`")
    fastforget.output("codes", "--classes", "4", "--shape", "7", "--output", "other.safetensors")
    assert started(fastforget, monkeypatch, "--codes", "other.safetensors")[2].startswith("! codes: the model does not")
    with Path("archive/editing").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert started(fastforget, monkeypatch)[3].startswith(
            "! archive: archive cannot be written, so that no request"
        )
