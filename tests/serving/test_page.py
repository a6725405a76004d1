"""The page on which a person files a request, in a browser without a window.

FASTFORGET_SCREENSHOT=page.png keeps a picture of it.
"""

import base64
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from serving.archive_workers import CODES, network
from serving.history.archives import until

from fastforget.serving import LiveModel
from fastforget.serving.history.proofs import RecordProof

uvicorn = pytest.importorskip("uvicorn")
client = pytest.importorskip("websockets.sync.client")
from fastforget.serving.web import application  # noqa: E402 (needs them)

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


class Page:
    """A page of the browser, by its DevTools protocol."""

    def __init__(self, connection: Any) -> None:
        self._connection, self._number = connection, 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while (answer := json.loads(self._connection.recv(timeout=60))).get("id") != self._number:
            pass
        found: dict[str, Any] = answer["result"]
        return found

    def value(self, expression: str) -> Any:
        """What JavaScript says."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression: str) -> None:
        end = time.monotonic() + 60
        while not self.value(expression):
            assert time.monotonic() < end, self.value("document.body.innerText")
            time.sleep(0.1)


@contextmanager
def served(live: LiveModel, token: str) -> Iterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        names = ["trouser", "pullover", "dress", "coat", "sandal", "</script>"]
        config = uvicorn.Config(application(live, token=token, names=names, every=0.05), log_level="warning")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(60)


@contextmanager
def browser(url: str, profile: Path) -> Iterator[Page]:
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    size = ["--window-size=900,760", f"--user-data-dir={profile}", url]
    process = subprocess.Popen([*command, *size], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    try:
        port = _written(profile / "DevToolsActivePort").splitlines()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=30) as answer:
            target = next(page for page in json.load(answer) if page["type"] == "page")
        with client.connect(target["webSocketDebuggerUrl"], max_size=None) as connection:
            page = Page(connection)
            page.until("typeof refresh === 'function'")
            yield page
    finally:
        process.terminate()
        process.wait(30)


def _written(path: Path) -> str:
    end = time.monotonic() + 60
    while not (path.exists() and "\n" in path.read_text()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return path.read_text()


def filed(page: Page, **fields: str) -> None:
    for name, value in fields.items():
        page.value(f"at({name!r}).value = {value!r}")
    page.value("document.querySelector('button').click()")


def test_a_person_files_requests_and_follows_them(tmp_path: Path) -> None:
    live = LiveModel(network(), CODES, archive=tmp_path / "archive")
    with served(live, "a secret of this test") as url, browser(url, tmp_path / "profile") as page:
        page.until("at('problem').textContent === 'this needs the token'")
        page.value("at('token').value = 'a secret of this test'; at('token').dispatchEvent(new Event('change'))")
        page.until("at('problem').textContent === ''")
        assert page.value("[...at('known').options].map(one => one.text).join()").startswith("trouser,pullover")
        filed(page, classes="3", asked_by="A. Person, by letter of 3 May", request="ticket-17")
        page.until("document.querySelector('.done')?.textContent.startsWith('done: version 1, disconnected, ')")
        page.until("at('service').textContent === 'Version 1; forgotten: 3 (coat)'")
        page.until("at('filed').textContent.startsWith('ticket-17 is on record, as record 1 with hash ')")
        page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        page.value("at('filed').querySelector('button').click()")
        kept = tmp_path / "proof-ticket-17.json"
        until(kept.exists)
        assert RecordProof.load(kept).record.fields["asked_by"] == "A. Person, by letter of 3 May"
        assert page.value("at('classes').value") == ""
        filed(page, classes="3", asked_by="the same, again", request="ticket-18")
        page.until("document.querySelector('.refused')?.textContent.includes('forgotten earlier')")
        filed(page, classes="coat", asked_by="somebody")
        page.until("at('problem').textContent.startsWith('A class must be a number')")
        filed(page, classes="9", asked_by="<b>somebody</b>")
        page.until("at('problem').textContent.includes('must lie in [0, 6)')")
        filed(page, classes="5", asked_by="<b>somebody</b>", request="ticket-19")
        page.until("document.querySelectorAll('.done').length === 2")
        assert page.value("document.querySelectorAll('td b').length") == 0
        picture = base64.b64decode(page.call("Page.captureScreenshot")["data"])
    assert picture.startswith(b"\x89PNG")
    if wanted := os.environ.get("FASTFORGET_SCREENSHOT"):
        Path(wanted).write_bytes(picture)
    assert live.version.classes == (3, 5)
