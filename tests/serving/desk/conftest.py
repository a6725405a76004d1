"""A desk in a browser without a window: the system's Chromium, driven by Playwright.

FASTFORGET_SCREENSHOTS=folder keeps pictures. FASTFORGET_NEEDS_BROWSER=1 makes a missing browser an error.
"""

import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from serving.archive_workers import CODES, network

from fastforget.files.signing import SigningKey
from fastforget.serving import Archive, LiveModel

TOKEN = "a secret of this test"  # noqa: S105 (of this test alone)
NAMES = ["trouser", "pullover", "dress", "coat", "sandal", "</script><b>bag</b>"]


def needed(module: str) -> Any:
    """Import what only `make services` installs; skip without, unless it must be there."""
    if os.environ.get("FASTFORGET_NEEDS_BROWSER"):
        return __import__(module, fromlist=["x"])
    return pytest.importorskip(module)


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


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None and not os.environ.get("FASTFORGET_NEEDS_BROWSER"):
        pytest.skip("needs Chromium")
    with needed("playwright.sync_api").sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page; what it says on the console, and errors of scripts, end the test."""
    said: list[str] = []
    contexts = []

    def open_page(url: str, *, width: int = 1280, dark: bool = False, locale: str = "en-GB") -> Any:
        context = chromium.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            locale=locale,
            timezone_id="UTC",
            accept_downloads=True,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda line: said.append(line.text) if _is_trouble(line) else None)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


def _is_trouble(line: Any) -> bool:
    return line.type in ("error", "warning") and "the server responded with a status of " not in line.text


@pytest.fixture
def pictured() -> Callable[[Any, str], None]:
    """Keeps a picture of a whole page where one is wanted."""
    folder = os.environ.get("FASTFORGET_SCREENSHOTS")

    def keep(page: Any, name: str) -> None:
        if folder:
            page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)

    return keep
