"""Measure predictions from eight threads at full speed while classes are forgotten and brought back.

    python benchmarks/serving_load.py --predictions 50000 --edits 100
    python benchmarks/serving_load.py --predictions 200000 --edits 500 --only "digits in one process"

Predictions go on until there are as many as asked for, and all edits are made. Every answer is compared, bit for bit,
with the version that it names, and none may go back to an earlier one within a client. Failed predictions are counted.
Two latencies are recorded: that of predictions that began while an edit was worked out or written, and that of the same
service without edits, before and after. ``held`` is how long predictions were kept out.

1. Over HTTP on loopback: uvicorn runs `fastforget.serving.web` in a process of its own. The network of the digits knows
   its codes, and an archive keeps the edits.
2. Without HTTP, in one process: the same network.
3. Without HTTP: an untrained ResNet-18 of 11M parameters. One kind of receipt changes as many elements as `one_shot`
   does, another changes all of them.

Rows go to benchmarks/results/quality/serving-load.json, with ``--only`` that row alone. benchmarks/quality/pages.py
writes them into the table of docs/results/serving.md.
"""

from __future__ import annotations

import argparse
import copy
import http.client
import itertools
import json
import multiprocessing
import shlex
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import machine
import torch
import uvicorn
from clients import Answer, Load, Predict
from networks import resnet18_cifar, settled
from torch import Tensor, nn

from fastforget import MnemonicCodes, Receipt, fingerprint
from fastforget.demo.data import load_digits
from fastforget.demo.models import small_resnet
from fastforget.demo.training import train
from fastforget.edits.edit import Edit
from fastforget.serving import Archive, LiveModel
from fastforget.serving.web import application

OUTPUT = Path(__file__).parent / "results" / "quality" / "serving-load.json"
Row = dict[str, Any]


def edited(edits: Iterator[Callable[[], object]], count: int) -> list[tuple[float, float]]:
    """Make edits one after another. Return when each began and ended."""
    spans = []
    for edit in itertools.islice(edits, count):
        time.sleep(0.02)
        began = time.perf_counter()
        edit()
        spans.append((began, time.perf_counter()))
    return spans


def torn(
    versions: dict[int, tuple[Receipt, ...]], model: nn.Module, inputs: list[Tensor], answers: list[Answer]
) -> int:
    """Count the answers that differ in any bit from the version that they name."""
    wrong, by_version = 0, dict[int, list[Answer]]()
    for answer in answers:
        by_version.setdefault(answer[3], []).append(answer)
    for version, said in by_version.items():
        changed = copy.deepcopy(model)
        for receipt in versions[version]:
            receipt.apply(changed)
        with torch.no_grad():
            known = [changed(x) for x in inputs]
        wrong += sum(not torch.equal(answer[4], known[answer[2]]) for answer in said)
    return wrong


def row(
    name: str, client: Callable[[], Predict], inputs: int, edits: Any, given: argparse.Namespace
) -> tuple[Row, Any]:
    load, spans = Load(client, inputs, given.threads), list[tuple[float, float]]()
    editor = threading.Thread(target=lambda: spans.extend(edited(edits, given.edits)))
    quiet = load.run(given.predictions // 10)
    editor.start()
    answers = load.run(given.predictions, editor.is_alive)
    editor.join()
    quiet += load.run(given.predictions // 10)
    if len(spans) < given.edits:
        raise RuntimeError(f"{name}: {len(spans)} of {given.edits} edits were made")
    during = [a for a in answers if any(began <= a[0] <= ended for began, ended in spans)]
    found = {
        "name": name,
        "predictions": len(answers),
        "edits": len(spans),
        "versions_seen": len({answer[3] for answer in answers}),
        "p50_ms": round(1e3 * _quantile(quiet, 0.5), 2),
        "p99_ms": round(1e3 * _quantile(quiet, 0.99), 2),
        "p99_during_edits_ms": round(1e3 * _quantile(during, 0.99), 2) if during else None,
        "during_edits": len(during),
        "p99_times_idle": round(_quantile(during, 0.99) / _quantile(quiet, 0.99), 2) if during else None,
        "failed": len(load.failed),
        "backwards": load.backwards,
        "edit_ms": round(1e3 * max(ended - began for began, ended in spans), 1),
    }
    return found, answers


def _quantile(answers: list[Answer], share: float) -> float:
    took = sorted(answer[1] for answer in answers)
    return took[min(len(took) - 1, int(share * len(took)))]


def in_process(
    name: str, model: nn.Module, live: LiveModel, inputs: list[Tensor], edits: Any, given: argparse.Namespace
) -> Row:
    def client() -> Predict:
        def predict(place: int) -> tuple[int, Tensor]:
            found = live.predict(inputs[place])
            return found.version, found.outputs

        return predict

    found, answers = row(name, client, len(inputs), edits, given)
    known = {version.number: live.receipts(version.number) for version in live.versions}
    found["torn"] = torn(known, model, inputs, answers)
    found["held_ms"] = round(1e3 * max(version.seconds for version in live.versions), 2)
    found["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    return found


def serve(folder: Path, port: int) -> None:
    """Run the server, in its process."""
    torch.set_num_threads(1)
    model, codes, _ = digits()
    uvicorn.run(application(LiveModel(model, codes, archive=folder), every=0.02), port=port, log_level="error")


def over_http(given: argparse.Namespace) -> Row:
    model, _, inputs = digits()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as name:
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(Path(name), port), daemon=True)
        server.start()
        try:
            _connection(port)

            def ask(method: str, path: str, body: Any) -> Any:  # anew: the server closes idle connections
                return _connection(port)(method, path, body)

            found, answers = row("digits over HTTP", _client(port, inputs), len(inputs), _by_http(ask), given)
            made = ask("GET", "/versions", None)
            receipts = {version["number"]: version["edits"] for version in made}
            archive = Archive(name)
            known = {number: tuple(map(archive.receipt, edits)) for number, edits in receipts.items()}
            found["torn"] = torn(known, model, inputs, answers)
            found["held_ms"] = round(1e3 * max(version["seconds"] for version in made), 2)
        finally:
            server.terminate()
            server.join()
    found["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    return found


def _connection(port: int) -> Callable[[str, str, Any], Any]:
    """Wait for the server. Return a function that asks it over a connection that stays open."""
    end = time.monotonic() + 120
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.connect()
            break
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)

    def ask(method: str, path: str, body: Any) -> Any:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise RuntimeError(f"{method} {path}: {answer.status} {content!r}")
        return json.loads(content)

    return ask


def _client(port: int, inputs: list[Tensor]) -> Callable[[], Predict]:
    bodies = [{"inputs": x.tolist()} for x in inputs]

    def client() -> Predict:
        ask = _connection(port)

        def predict(place: int) -> tuple[int, Tensor]:
            found = ask("POST", "/predict", bodies[place])
            return found["version"], torch.tensor(found["outputs"])

        return predict

    return client


def _by_http(ask: Callable[[str, str, Any], Any]) -> Iterator[Callable[[], object]]:
    def forget(cls: int) -> None:
        name = ask("POST", "/requests", {"classes": [cls]})["name"]
        while (found := ask("GET", f"/requests/{name}", None))["state"] == "waiting":
            time.sleep(0.005)
        if found["state"] != "done":
            raise RuntimeError(found["reason"])

    for cls in itertools.cycle(range(10)):
        yield lambda cls=cls: forget(cls)  # type: ignore[misc]
        yield lambda: ask("POST", "/versions/0/revert", {"asked_by": "the benchmark"})


def digits() -> tuple[nn.Module, MnemonicCodes, list[Tensor]]:
    data = load_digits(0)
    codes = MnemonicCodes.generate(10, data.x_train.shape[1:], seed=0)
    model = small_resnet(num_classes=10, seed=0)
    train(model, data.x_train, data.y_train, codes, epochs=8, lr=0.1, batch_size=64, seed=0)
    return model, codes, list(data.x_test[:16].split(1))


def forget_and_back(live: LiveModel) -> Iterator[Callable[[], object]]:
    for cls in itertools.cycle(range(10)):
        yield lambda cls=cls: live.forget(cls)  # type: ignore[misc]
        yield lambda: live.revert(0)


def apply_and_back(live: LiveModel, receipts: list[Receipt]) -> Iterator[Callable[[], object]]:
    for receipt in itertools.cycle(receipts):
        yield lambda receipt=receipt: live.apply(receipt)  # type: ignore[misc]
        yield lambda: live.revert(0)


def made_up(model: nn.Module, share: float | None, seed: int) -> Receipt:
    """Return a receipt that changes a share of all elements, or all of them."""
    generator, changed, edits = torch.Generator().manual_seed(seed), copy.deepcopy(model), {}
    with torch.no_grad():
        for name, value in changed.named_parameters():
            size = value.numel()
            places = None if share is None else torch.randperm(size, generator=generator)[: max(1, int(share * size))]
            places = None if places is None else places.sort().values
            old = value.flatten().clone() if places is None else value.flatten()[places]
            new = old + 0.01 * torch.randn(len(old), generator=generator)
            edits[name] = Edit(tuple(value.shape), places, old, new)
            value.copy_(
                value.flatten().index_copy(0, torch.arange(size) if places is None else places, new).view_as(value)
            )
    created = datetime.now(timezone.utc).isoformat()
    total = sum(value.numel() for value in model.parameters())
    return Receipt(
        (), "made up", {}, 1.0, created, fingerprint(model), fingerprint(changed), total, {}, {}, edits=edits
    )


def digits_in_process(given: argparse.Namespace) -> Row:
    model, codes, inputs = digits()
    live = LiveModel(copy.deepcopy(model), codes)
    return in_process("digits in one process", model, live, inputs, forget_and_back(live), given)


def resnet(name: str, share: float | None, given: argparse.Namespace) -> Row:
    model = settled(resnet18_cifar())
    inputs = list(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).split(1))
    live = LiveModel(copy.deepcopy(model))
    receipts = [made_up(model, share, seed) for seed in range(2)]
    fewer = argparse.Namespace(**{**vars(given), "predictions": given.predictions // 10})
    return in_process(name, model, live, inputs, apply_and_back(live, receipts), fewer)


SERVICES: dict[str, Callable[[argparse.Namespace], Row]] = {
    "digits over HTTP": over_http,
    "digits in one process": digits_in_process,
    "ResNet-18, 0.3 % of the elements": partial(resnet, "ResNet-18, 0.3 % of the elements", 0.003),
    "ResNet-18, all elements": partial(resnet, "ResNet-18, all elements", None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", type=int, default=50_000)
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--only", choices=SERVICES)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    torch.set_num_threads(1)  # each client is a thread already
    rows = {row["name"]: row for row in json.loads(given.output.read_text())["rows"]} if given.output.exists() else {}
    measured = [given.only] if given.only else list(SERVICES)
    for name in measured:
        command = shlex.join(["serving_load.py", *sys.argv[1:]])
        rows[name] = SERVICES[name](given) | {"command": command, **machine.facts()}
        found = rows[name]
        print(
            f"{name}: {found['predictions']} predictions, {found['edits']} edits, {found['torn']} torn, "
            f"{found['failed']} failed, {found['backwards']} back to an earlier one; p99 {found['p99_ms']} ms idle, "
            f"{found['p99_during_edits_ms']} ms during edits: {found['p99_times_idle']} times",
            flush=True,
        )
    kept = [rows[name] for name in SERVICES if name in rows]
    given.output.write_text('{"rows": [\n' + ",\n".join(json.dumps(found) for found in kept) + "\n]}\n")
    for name in measured:
        if wrong := {kind: rows[name][kind] for kind in ("torn", "failed", "backwards") if rows[name][kind]}:
            raise SystemExit(f"{name}: {wrong}")


if __name__ == "__main__":
    main()
