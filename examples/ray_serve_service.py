"""Serve with Ray Serve: `reconfigure` brings replicas, on one machine or many, to a version without a restart.

    # with the extra services
    python examples/ray_serve_service.py --folder service --replicas 2 --forget 3

One replica forgets, and puts the edit in the archive. Then the deployment gets the version as its user_config. Every
replica comes to that version, also one that starts later. On several machines, all must see the folder.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from pathlib import Path
from typing import Any

import digits_service
import ray
import torch
from ray import serve
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
from ray.serve import Application

DASHBOARD = "http://127.0.0.1:8265"


@serve.deployment
class Digits:
    """A replica."""

    def __init__(self, folder: str) -> None:
        self.live = digits_service.live(Path(folder))

    def reconfigure(self, config: dict[str, Any]) -> None:
        """Come to the version of the deployment, or a later one."""
        reached = self.live.catch_up().number
        if reached < config["version"]:
            raise RuntimeError(f"the archive must hold version {config['version']}, it ends at {reached}")

    def check_health(self) -> None:
        """Have Serve replace a replica whose weights are not those of its version."""
        if self.live.health()["intact"] is False:
            raise RuntimeError("the weights are not those of the version")

    def predict(self, inputs: list[Any]) -> dict[str, Any]:
        found = self.live.predict(torch.tensor(inputs, dtype=self.live.dtype, device=self.live.device))
        return {"outputs": found.outputs.tolist(), "version": found.version, "replica": os.getpid()}

    def forget(self, cls: int, asked_by: str) -> int:
        return self.live.forget(cls, asked_by=asked_by).number


def build(given: dict[str, str]) -> Application:
    """Return the application of a config. Serve calls this function by name."""
    return Digits.bind(given["folder"])  # type: ignore[attr-defined, no-any-return]


def deploy(folder: Path, replicas: int, version: int) -> None:
    """Deploy, or bring the deployment to a version, as `serve deploy config.yaml` does."""
    deployment = {"name": "Digits", "num_replicas": replicas, "user_config": {"version": version}}
    app = {
        "name": "digits",
        "import_path": "ray_serve_service:build",
        "args": {"folder": str(folder)},
        "runtime_env": {"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}},
        "deployments": [{**deployment, "ray_actor_options": {"num_cpus": 0.5}}],
    }
    ServeSubmissionClient(DASHBOARD).deploy_applications({"applications": [app]})
    while (state := serve.status().applications.get("digits")) is None or state.status != "RUNNING":
        if state is not None and state.status == "DEPLOY_FAILED":
            raise RuntimeError(state.message)
        time.sleep(0.2)


def answering(handle: Any, replicas: int, without: int | None = None) -> dict[int, int]:
    """Ask until this many replicas have answered. Return the version that each names, by its process."""
    image, found = torch.zeros(1, 1, 8, 8).tolist(), dict[int, int]()
    while len(found) < replicas:
        try:
            answer = handle.predict.remote(image).result()
        except ray.exceptions.RayActorError:  # it was killed during the request
            continue
        if answer["replica"] != without:
            found[answer["replica"]] = answer["version"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("service"), help="network, codes and archive")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--forget", type=int, default=3, metavar="CLASS")
    given = parser.parse_args()
    folder = given.folder.absolute()
    digits_service.prepare(folder)
    ray.init(include_dashboard=True, logging_level="warning", log_to_driver=False)
    try:
        deploy(folder, given.replicas, 0)
        handle = serve.get_app_handle("digits")
        before = answering(handle, given.replicas)
        version = handle.forget.remote(given.forget, "the example").result()
        deploy(folder, given.replicas, version)
        after = answering(handle, given.replicas)
        said = [sorted(set(found.values())) for found in (after, before)]
        print(f"forgot class {given.forget}; versions that answer: {said[0]}, before: {said[1]}")
        print(f"replicas that were started anew: {len(after.keys() - before.keys())}")
        os.kill(min(after), signal.SIGKILL)  # Serve starts another, which comes to the version in the archive
        again = answering(handle, given.replicas, without=min(after))
        print(f"after one was killed: {len(again)} replicas answer, versions {sorted(set(again.values()))}")
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
