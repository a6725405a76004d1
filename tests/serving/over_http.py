"""An application that listens on a port of its own while a test talks to it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def listening(application: Any, **settings: Any) -> Iterator[tuple[str, int]]:
    """Serve it in a thread; yield host and port. Settings are those of uvicorn."""
    uvicorn = pytest.importorskip("uvicorn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        free.listen(100)
        server = uvicorn.Server(uvicorn.Config(application, **{"log_level": "warning", **settings}))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [free]})
        thread.start()
        try:
            yield free.getsockname()
        finally:
            server.should_exit = True
            thread.join(60)
