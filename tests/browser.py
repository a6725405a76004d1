"""A browser without a window for the tests of pages: the system's Chromium, driven by Playwright, and axe-core.

FASTFORGET_SCREENSHOTS=folder keeps pictures. FASTFORGET_NEEDS_BROWSER=1 makes a missing browser an error.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


def needed(module: str) -> Any:
    """Import what only `make services` installs; skip without, unless it must be there."""
    if os.environ.get("FASTFORGET_NEEDS_BROWSER"):
        return __import__(module, fromlist=["x"])
    return pytest.importorskip(module)


def assert_accessible(page: Any) -> None:
    """No violation of any rule of axe-core, and nothing wider than the page."""
    axe = needed("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page, options={"resultTypes": ["violations"]})
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


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
