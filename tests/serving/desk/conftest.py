"""A desk, served over HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from serving.archive_workers import CODES, network
from serving.over_http import listening

from fastforget.files.signing import SigningKey
from fastforget.serving import Archive, LiveModel

TOKEN = "a secret of this test"  # noqa: S105 (of this test alone)
NAMES = ["trouser", "pullover", "dress", "coat", "sandal", "</script><b>bag</b>"]


@contextmanager
def served(live: LiveModel, **settings: Any) -> Iterator[str]:
    """Serve it over HTTP; yield the address of the page."""
    pytest.importorskip("fastapi")
    from fastforget.serving.web import application

    with listening(application(live, names=NAMES, every=0.05, **settings)) as (host, port):
        yield f"http://{host}:{port}/"


def live_model(folder: Path, **settings: Any) -> LiveModel:
    """A model with a signed archive."""
    return LiveModel(network(), CODES, archive=Archive(folder / "archive", key=SigningKey.generate()), **settings)
