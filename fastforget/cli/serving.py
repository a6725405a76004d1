"""`fastforget serve`."""

import json
import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from fastforget.cli import checkpoints
from fastforget.cli.options import MODEL, Checkpoint, Codes, Model
from fastforget.codes import MnemonicCodes
from fastforget.serving import LiveModel
from fastforget.serving.history import now
from fastforget.serving.undo import kept_until

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["application", "serve"]

_GIVEN, _TOKEN = "FASTFORGET_SERVE", "FASTFORGET_TOKEN"


def serve(
    model: Model,
    checkpoint: Checkpoint,
    codes: Codes,
    archive: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Where edits and the log are kept; all workers share it."),
    ],
    undo: Annotated[
        str, typer.Option(metavar="POLICY", help="How long edits can be undone: keep, never, or expire:30d.")
    ] = "keep",
    names: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What the classes are called, a line for each.", rich_help_panel=MODEL),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; by default this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with its own copy of the model.")] = 1,
) -> None:
    """Serve predictions and requests to forget by HTTP, with a page to file them on.

    Starts in the version that the archive says. Set the environment variable FASTFORGET_TOKEN to a secret that callers
    must send to file or to see requests; without it, this machine's users can.
    """
    _check(undo, host)
    given = {"model": model, "checkpoint": checkpoint, "codes": codes, "archive": archive, "names": names}
    os.environ[_GIVEN] = json.dumps({**{name: value and str(value) for name, value in given.items()}, "undo": undo})
    uvicorn = _uvicorn()
    application()  # what is wrong is said here, once, and not by every worker
    uvicorn.run(
        "fastforget.cli.serving:application", factory=True, host=host, port=port, workers=workers, log_level="warning"
    )


def _check(undo: str, host: str) -> None:
    kept_until(undo, now())
    if host not in ("127.0.0.1", "::1", "localhost") and not os.environ.get(_TOKEN):
        raise ValueError(
            f"`{_TOKEN}` must be set where others reach the service: on {host} anybody could file requests"
        )


def _uvicorn() -> ModuleType:
    try:
        import uvicorn  # noqa: PLC0415 (needs the extra "serve")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("serving by HTTP needs uvicorn: pip install 'fastforget[serve]'") from error
    return uvicorn


def application() -> "FastAPI":
    """Return the application of a worker process, as `serve` was told.

    Returns:
        The application.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file is not what it must be, or they do not fit together.
    """
    from fastforget.serving.web import application as of  # noqa: PLC0415 (needs the extra "serve")

    given = json.loads(os.environ[_GIVEN])
    model = checkpoints.load(given["model"], Path(given["checkpoint"])).model
    live = LiveModel(model, MnemonicCodes.load(given["codes"]), archive=given["archive"], undo=given["undo"])
    names = Path(given["names"]).read_text("utf-8").splitlines() if given["names"] else None
    return of(live, token=os.environ.get(_TOKEN), names=names)
