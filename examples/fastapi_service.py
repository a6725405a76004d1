"""Serve with FastAPI and uvicorn: any number of worker processes, one archive.

    # with the extras demo and serve
    python examples/fastapi_service.py --folder service --port 8000 --workers 2

Then open http://127.0.0.1:8000 and file a request, or:

    curl -X POST localhost:8000/requests -H 'Content-Type: application/json' -d '{"classes": [3], "asked_by": "me"}'

The worker that gets the request puts it on record. One of the workers carries it out, and all follow. If
FASTFORGET_TOKEN is set in the environment, filing requests needs that token.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import digits_service
import uvicorn
from fastapi import FastAPI

from fastforget.serving.web import application


def create() -> FastAPI:
    """Return the application of one worker."""
    live = digits_service.live(Path(os.environ["FASTFORGET_FOLDER"]))
    return application(live, token=os.environ.get("FASTFORGET_TOKEN"), names=[str(digit) for digit in range(10)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("service"), help="network, codes and archive")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    digits_service.prepare(given.folder)
    os.environ["FASTFORGET_FOLDER"] = str(given.folder.absolute())
    uvicorn.run(
        "fastapi_service:create",
        factory=True,
        port=given.port,
        workers=given.workers,
        app_dir=str(Path(__file__).parent),
        log_level="warning",
    )


if __name__ == "__main__":
    main()
