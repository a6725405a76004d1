"""`fastforget serve`, from the outside."""

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
from command_line import CODES, NET, CommandLine, Outcome

pytest.importorskip("uvicorn")
SERVE = ("serve", *NET, *CODES, "--archive", "archive")


def asked(port: int, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Authorization": "Bearer secret"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", data, headers)
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        return json.load(answer)


def until(port: int, path: str, wanted: Any) -> Any:
    end = time.monotonic() + 60
    while True:
        try:
            if wanted(found := asked(port, path)):
                return found
        except urllib.error.HTTPError:
            raise
        except (urllib.error.URLError, ConnectionError):
            pass
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_service_forgets_and_remembers_that_it_did(filled: Path, fastforget: CommandLine) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "fastforget", *SERVE, "--port", str(port)]
    environment = {**os.environ, "FASTFORGET_TOKEN": "secret", "OMP_NUM_THREADS": "1"}
    for version in (0, 1):  # the second one starts where the first one ended
        process = subprocess.Popen(command, env=environment)  # noqa: S603
        try:
            assert until(port, "health", bool)["version"] == version
            if not version:
                asked(port, "requests", {"classes": [2], "asked_by": "a test", "request": "ticket"})
                until(port, "requests/ticket", lambda found: found["state"] == "done")
        finally:
            process.terminate()
            process.wait(30)
    assert "2 records, none changed" in fastforget.done(
        "log", "verify", "archive/requests.jsonl"
    )  # asked for, and done


def one_line(outcome: Outcome, text: str) -> None:
    assert outcome.status == 1
    assert text in outcome.err
    assert outcome.err.count("\n") == 1


def test_refusals(filled: Path, fastforget: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTFORGET_TOKEN", raising=False)
    one_line(fastforget(*SERVE, "--host", "0.0.0.0"), "`FASTFORGET_TOKEN` must be set where others reach the service")  # noqa: S104
    one_line(fastforget(*SERVE, "--undo", "soon"), "`undo` must be")
    one_line(fastforget(*SERVE, "--checkpoint", "none.safetensors"), "none.safetensors")
