"""Live models on an archive, what its log holds, and threads beside them."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving.archive_workers import CODES, network
from torch import nn

from fastforget.serving import LiveModel, read_log


def live(folder: Path, model: nn.Module | None = None, **settings: Any) -> LiveModel:
    return LiveModel(model or network(), CODES, archive=folder, **settings)


@contextmanager
def in_thread(work: Any) -> Iterator[list[BaseException]]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 (given to the caller)
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield errors
    thread.join(30)


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    found = read_log(folder / "requests.jsonl", settled=True)
    return [dict(record.fields) for record in found if record.fields.get("kind") == kind]


def until(condition: Any) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
