"""Predictions from many threads at full speed while classes are forgotten and brought back.

    python benchmarks/serving_load.py --predictions 50000 --edits 100

Every answer is compared, bit for bit, with that of the version that it names. Latencies are those of predictions that
began while an edit was being worked out or copied in, and of those of a run without edits before. ``held`` is how long
predictions were kept out. Two networks: that of the digits with its codes, and an untrained ResNet-18 of 11M
parameters, with receipts of as many elements as one_shot changes and of all of them.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import machine
import torch
from networks import resnet18_cifar, settled
from torch import Tensor, nn

from fastforget import MnemonicCodes, Receipt, fingerprint
from fastforget.demo.data import load_digits
from fastforget.demo.models import small_resnet
from fastforget.demo.training import train
from fastforget.receipt import Edit
from fastforget.serving import LiveModel

OUTPUT = Path(__file__).parent / "results" / "serving-load.json"
Row = dict[str, Any]
Answer = tuple[float, float, int, int, Tensor]  # began, took, input, version, output


def load(live: LiveModel, inputs: list[Tensor], count: int, threads: int) -> list[Answer]:
    """Predict so many times from so many threads; an error in one ends the run."""
    numbers, found, errors = itertools.count(), list[Answer](), list[BaseException]()

    def client() -> None:
        try:
            while (number := next(numbers)) < count and not errors:
                place = number % len(inputs)
                began = time.perf_counter()
                prediction = live.predict(inputs[place])
                took = time.perf_counter() - began
                found.append((began, took, place, prediction.version, prediction.outputs))
        except BaseException as error:  # noqa: BLE001 (raised below)
            errors.append(error)

    clients = [threading.Thread(target=client) for _ in range(threads)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    if errors:
        raise errors[0]
    return found


def edited(live: LiveModel, edits: Iterator[Callable[[], object]], count: int, stop: threading.Event) -> list[Row]:
    """Make edits one after another until the predictions are over; return when each began and ended."""
    spans: list[Row] = []
    for edit in itertools.islice(edits, count):
        if stop.wait(0.02):
            break
        began = time.perf_counter()
        edit()
        spans.append({"began": began, "ended": time.perf_counter(), "held": live.version.seconds})
    return spans


def torn(live: LiveModel, model: nn.Module, inputs: list[Tensor], answers: list[Answer]) -> int:
    """Count the answers that are not, to the bit, those of the version they name."""
    weights: dict[str, list[Tensor]] = {}
    wrong = 0
    by_version: dict[int, list[Answer]] = {}
    for answer in answers:
        by_version.setdefault(answer[3], []).append(answer)
    for version in live.versions:
        if version.fingerprint not in weights:
            edited = copy.deepcopy(model)
            for receipt in live.receipts(version.number):
                receipt.apply(edited)
            with torch.no_grad():
                weights[version.fingerprint] = [edited(x) for x in inputs]
        known = weights[version.fingerprint]
        wrong += sum(not torch.equal(answer[4], known[answer[2]]) for answer in by_version.get(version.number, []))
    return wrong


def row(
    name: str, model: nn.Module, live: LiveModel, inputs: list[Tensor], edits: Any, given: argparse.Namespace
) -> Row:
    quiet = load(live, inputs, given.predictions // 5, given.threads)
    stop, spans = threading.Event(), list[Row]()
    editor = threading.Thread(target=lambda: spans.extend(edited(live, edits, given.edits, stop)))
    editor.start()
    answers = load(live, inputs, given.predictions, given.threads)
    stop.set()
    editor.join()
    during = [a for a in answers if any(s["began"] <= a[0] <= s["ended"] for s in spans)]
    p50, p99 = (_quantile(quiet, share) for share in (0.5, 0.99))
    found = {
        "name": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "predictions": len(answers),
        "edits": len(spans),
        "torn": torn(live, model, inputs, answers),
        "versions_seen": len({answer[3] for answer in answers}),
        "p50_ms": round(1e3 * p50, 2),
        "p99_ms": round(1e3 * p99, 2),
        "p99_during_edits_ms": round(1e3 * _quantile(during, 0.99), 2) if during else None,
        "during_edits": len(during),
        "held_ms": round(1e3 * max(span["held"] for span in spans), 2),
        "edit_ms": round(1e3 * max(span["ended"] - span["began"] for span in spans), 1),
    }
    print(found, flush=True)
    return found


def _quantile(answers: list[Answer], share: float) -> float:
    took = sorted(answer[1] for answer in answers)
    return took[min(len(took) - 1, int(share * len(took)))]


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", type=int, default=50_000)
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    torch.set_num_threads(1)  # each client is a thread already
    rows = []
    model, codes, inputs = digits()
    live = LiveModel(copy.deepcopy(model), codes)
    rows.append(row("digits, forget and back", model, live, inputs, forget_and_back(live), given))
    model = settled(resnet18_cifar())
    inputs = list(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).split(1))
    given.predictions //= 10
    for name, share in (("0.3 % of the elements", 0.003), ("all elements", None)):
        live = LiveModel(copy.deepcopy(model))
        receipts = [made_up(model, share, seed) for seed in range(2)]
        rows.append(row(f"ResNet-18, {name}", model, live, inputs, apply_and_back(live, receipts), given))
    given.output.write_text(
        json.dumps({"machine": machine.facts(), "threads": given.threads, "rows": rows}, indent=1) + "\n"
    )
    for found in rows:
        if found["torn"]:
            raise SystemExit(f"{found['name']}: {found['torn']} answers are those of no version")


if __name__ == "__main__":
    main()
