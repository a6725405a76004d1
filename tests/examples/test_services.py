"""The service examples run as commands and answer by HTTP."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastforget.serving import Archive, verify_log

EXAMPLES = Path(__file__).parents[2] / "examples"
IMAGE = [[[[0.0] * 8] * 8]]
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "default",
}  # warnings of other libraries are no errors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the network and the archive that the examples share, one after another."""
    made = tmp_path_factory.mktemp("service")
    command = [sys.executable, str(EXAMPLES / "digits_service.py"), str(made)]
    subprocess.run(command, check=True, env=ENVIRONMENT, timeout=300)  # noqa: S603
    return made


@contextmanager
def running(name: str, *arguments: str) -> Iterator[str]:
    """Run an example, yield its address, and kill its processes at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(EXAMPLES / name), "--port", str(port), *arguments]
    process = subprocess.Popen(command, env=ENVIRONMENT, start_new_session=True)  # noqa: S603
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def call(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return json.load(answer)


def wait_until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Wait until a condition holds. A service that does not answer yet counts as not holding."""
    end = time.monotonic() + seconds
    while True:
        try:
            if found := condition():
                return found
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        assert time.monotonic() < end
        time.sleep(0.1)


def versions(url: str) -> set[int]:
    """Return the versions of thirty answers, from any worker."""
    return {call(f"{url}/predict", {"inputs": IMAGE})["version"] for _ in range(30)}


def workers(url: str) -> set[int]:
    return {call(f"{url}/predict", {"inputs": IMAGE})["worker"] for _ in range(60)}


def test_fastapi(folder: Path) -> None:
    pytest.importorskip("uvicorn")
    with running("fastapi_service.py", "--folder", str(folder), "--workers", "2") as url:
        wait_until(lambda: call(f"{url}/health")["version"] == 0)
        assert "Requests to forget" in urllib.request.urlopen(url, timeout=30).read().decode()  # noqa: S310
        call(f"{url}/requests", {"classes": [3], "asked_by": "a test", "request": "ticket"})
        wait_until(lambda: call(f"{url}/requests/ticket")["state"] == "done")
        wait_until(lambda: versions(url) == {1})
    with running("fastapi_service.py", "--folder", str(folder), "--workers", "1") as url:
        wait_until(lambda: versions(url) == {1})  # the service was killed, and starts in the newest version
    verify_log(Archive(folder / "archive").log)


def test_litserve(folder: Path) -> None:
    pytest.importorskip("litserve")
    before = len(Archive(folder / "archive").entries())
    with running("litserve_service.py", "--folder", str(folder), "--workers", "2") as url:
        wait_until(lambda: versions(url) == {before})
        wait_until(lambda: len(workers(url)) == 2)
        first = workers(url)
        assert call(f"{url}/predict", {"forget": 5, "asked_by": "a test"})["state"] == "waiting"
        wait_until(lambda: versions(url) == {before + 1})
        assert workers(url) == first
    assert Archive(folder / "archive").entries()[-1].classes == (5,)


def test_ray_serve(folder: Path) -> None:
    """`reconfigure` brings two replicas to the version without a restart. A killed replica comes back in it."""
    pytest.importorskip("ray")
    before = len(Archive(folder / "archive").entries())
    command = [sys.executable, str(EXAMPLES / "ray_serve_service.py"), "--folder", str(folder), "--forget", "7"]
    found = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=400, check=False)  # noqa: S603
    assert found.returncode == 0, found.stderr
    assert f"forgot class 7; versions that answer: [{before + 1}], before: [{before}]" in found.stdout
    assert "replicas that were started anew: 0" in found.stdout
    assert f"after one was killed: 2 replicas answer, versions [{before + 1}]" in found.stdout


def test_ray_fisher(folder: Path) -> None:
    """Shares of replicas add up to the sum over all codes; all replicas make the edit that was made from it."""
    pytest.importorskip("ray")
    command = [sys.executable, str(EXAMPLES / "ray_fisher.py"), "--folder", str(folder), "--forget", "6"]
    found = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=400, check=False)  # noqa: S603
    assert found.returncode == 0, found.stderr
    assert "the Fisher of 40 codes, in shares of [20, 20]" in found.stdout
    assert "forgot class 6: 0 codes are assigned to it; 2 of 2 replicas match" in found.stdout
