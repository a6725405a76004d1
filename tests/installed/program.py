"""The program that was installed, as a user runs it."""

import json
import os
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

PROGRAM = Path(sys.executable).with_name("fastforget")
MODEL = ("--model", "network:digits")
NET = (*MODEL, "--checkpoint", "net.safetensors")
CODES = ("--codes", "codes.safetensors")

ran: set[str] = set()


def command(*arguments: str) -> str:
    """Run a command in the working directory; return what it printed."""
    ran.add(" ".join(arguments[: 2 if arguments[0] == "log" else 1]))
    done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, f"fastforget {' '.join(arguments)}: exit status {done.returncode}\n{done.stderr}"
    return done.stdout


def result(*arguments: str) -> Any:
    return json.loads(command(*arguments, "--json"))


@contextmanager
def service(*options: str) -> Iterator[Callable[..., bytes]]:
    """Run `fastforget serve`; yield what asks it."""
    ran.add("serve")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def ask(path: str, body: Any = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return answer.read()

    def answers() -> bool:
        assert process.poll() is None, "the service ended"
        try:
            return bool(ask("health"))
        except urllib.error.HTTPError:
            raise
        except (urllib.error.URLError, ConnectionError):
            return False

    environment = {name: value for name, value in os.environ.items() if name != "FASTFORGET_TOKEN"}
    process = subprocess.Popen([PROGRAM, "serve", *NET, *CODES, "--port", str(port), *options], env=environment)  # noqa: S603
    try:
        until(answers)
        yield ask
    finally:
        process.terminate()
        process.wait(60)


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end, "it took more than two minutes"
        time.sleep(0.1)
