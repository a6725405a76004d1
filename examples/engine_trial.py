"""Try an engine, for the examples: predict from threads, forget a class meanwhile, and go back."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import digits_service
import torch
from torch import Tensor

from fastforget.demo.data import load_digits
from fastforget.serving import LiveModel, Prediction
from fastforget.serving.engines import Engine

THREADS = 4


Found = list[tuple[int, Prediction]]  # number of the batch, prediction


def parse(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("service"), help="network, codes, export and archive")
    parser.add_argument("--forget", type=int, default=3, choices=range(10), metavar="CLASS", help="0 to 9")
    return parser.parse_args()


@contextmanager
def clients(live: LiveModel, batches: list[Tensor], found: Found) -> Iterator[Callable[[], None]]:
    """Predict from threads meanwhile. Yield a function that waits for a hundred more predictions."""
    stop = Event()

    def client() -> None:
        for number in itertools.cycle(range(len(batches))):
            if stop.is_set():
                return
            found.append((number, live.predict(batches[number])))
            time.sleep(0.001)

    with ThreadPoolExecutor(THREADS) as pool:
        running = [pool.submit(client) for _ in range(THREADS)]

        def wait() -> None:
            enough = len(found) + 100
            while len(found) < enough and not any(one.done() for one in running):  # one that ends early failed
                time.sleep(0.01)

        try:
            yield wait
        finally:
            stop.set()
    for one in running:
        one.result()


@torch.no_grad()
def answers(live: LiveModel, number: int, engine: Engine, folder: Path, batches: list[Tensor]) -> list[list[Tensor]]:
    """Rebuild a version from the trained network and its receipts. Return a new engine's answers and eager ones."""
    model, _ = digits_service.load(folder)
    engine.check(model)
    for receipt in live.receipts(number):
        receipt.apply(model)
    engine.stage(model)()
    return [[run(batch) for batch in batches] for run in (engine, model)]


def trial(folder: Path, cls: int, engine: Callable[[], Engine]) -> None:
    """Forget the class under load, start a second model in between, go back, and print the results."""

    def start() -> LiveModel:
        model, codes = digits_service.load(folder)
        return LiveModel(model, codes, engine=engine(), archive=folder / "archive")

    live, data, found = start(), load_digits(0), Found()
    if cls in live.version.classes:
        raise SystemExit(f"class {cls} is forgotten already, in version {live.version.number} of the archive")
    batches = list(data.x_test.split(50))
    with clients(live, batches, found) as wait:
        before = live.version
        wait()
        forgotten = live.forget(cls, asked_by="the example")
        wait()
        anew = start()
        reached, said = anew.version, [anew(batch) for batch in batches]
        back = live.revert(before.number, asked_by="the example")
        wait()

    known = {one.number: answers(live, one.number, engine(), folder, batches) for one in (before, forgotten, back)}
    asked, rest = data.y_test == cls, ~torch.isin(data.y_test, torch.tensor(forgotten.classes))
    print(f"version  predictions  accuracy: class {cls}  the rest  weights put in, predictions held")
    for version in (before, forgotten, back):
        right = (torch.cat(known[version.number][0]).argmax(1) == data.y_test).float()
        count = sum(one.version == version.number for _, one in found)
        held = "" if version is before else f"{version.seconds * 1000:.2f} ms"
        print(f"{version.number:7}  {count:11}  {right[asked].mean():17.1%}  {right[rest].mean():8.1%}  {held}")
    same = [torch.equal(one.outputs, known[one.version][0][batch]) for batch, one in found]
    far = max(float((one.outputs - known[one.version][1][batch]).abs().max()) for batch, one in found)
    print(f"bit for bit what another engine says in the version that they name: {sum(same)} of {len(same)} predictions")
    print(f"largest difference from what the eager model says in that version: {far:.1e}")
    alike = torch.equal(torch.cat(said), torch.cat(known[forgotten.number][0]))
    print(f"started anew before going back: version {reached.number}, {'the same' if alike else 'OTHER'} answers")
