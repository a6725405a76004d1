"""A desk, served over HTTP."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, opened, pictured  # noqa: F401 (fixtures)
from serving.archive_workers import CODES, network

from fastforget.files.signing import SigningKey
from fastforget.serving import Archive, LiveModel

TOKEN = "a secret of this test"  # noqa: S105 (of this test alone)
NAMES = ["trouser", "pullover", "dress", "coat", "sandal", "</script><b>bag</b>"]


@contextmanager
def served(live: LiveModel, **settings: Any) -> Iterator[str]:
    """Serve it over HTTP; yield the address of the page."""
    uvicorn = pytest.importorskip("uvicorn")
    from fastforget.serving.web import application

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(application(live, names=NAMES, every=0.05, **settings), log_level="warning")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(60)


def live_model(folder: Path, **settings: Any) -> LiveModel:
    """A model with a signed archive."""
    return LiveModel(network(), CODES, archive=Archive(folder / "archive", key=SigningKey.generate()), **settings)
