"""Serve with LitServe: every worker has a copy of the model, and every worker gets the edit.

    # with the extra services
    python examples/litserve_service.py --folder service --port 8000 --workers 2

    curl localhost:8000/predict -H 'Content-Type: application/json' -d '{"forget": 3, "asked_by": "me"}'

A request to forget goes to one worker, as any other request. That worker puts it on record in the archive, which all
follow.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import digits_service
import litserve
import torch


class Digits(litserve.LitAPI):
    """A worker."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def setup(self, device: str) -> None:  # noqa: ARG002 (LitServe's signature)
        self.live = digits_service.live(self.folder)
        self.live.follow(every=0.1)

    def predict(self, request: dict[str, Any]) -> dict[str, Any]:
        if "forget" in request:
            return asdict(self.live.ask(request["forget"], asked_by=request.get("asked_by", "")))
        found = self.live.predict(torch.tensor(request["inputs"], dtype=self.live.dtype, device=self.live.device))
        return {"outputs": found.outputs.tolist(), "version": found.version, "worker": os.getpid()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("service"), help="network, codes and archive")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    digits_service.prepare(given.folder)
    server = litserve.LitServer(Digits(given.folder.absolute()), accelerator="cpu", workers_per_device=given.workers)
    server.run(host="127.0.0.1", port=given.port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
