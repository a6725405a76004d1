"""Processes that run the same function together, as ranks of a gloo group."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist

LIMIT = 60.0  # seconds after which ranks stop waiting for each other


class Ranks:
    """Processes that wait for work; they start once for all tests, since each loads PyTorch."""

    def __init__(self, count: int, folder: Path) -> None:
        self.count = count
        self._folder = folder
        self._started = 0
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []

    def run(self, job: Callable[..., None], *args: object) -> None:
        """Call a function of a test file on every rank, and fail if one of the ranks fails."""
        if not self._processes:
            self._start()
        for pipe in self._pipes:
            pipe.send((job.__code__.co_filename, job.__name__, args))
        answers = [pipe.recv() if pipe.poll(2 * LIMIT) else "no answer" for pipe in self._pipes]
        faults = [f"rank {rank}: {text}" for rank, text in enumerate(answers) if text is not None]
        if faults:
            self.stop()  # other ranks still wait for the failed one
            raise AssertionError("\n".join(faults))

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        self._processes, self._pipes = [], []

    def _start(self) -> None:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["fastforget.distributed"])
        self._started += 1
        rendezvous = self._folder / f"{self.count}-{self._started}"
        for rank in range(self.count):
            own, other = context.Pipe()
            process = context.Process(target=_serve, args=(rank, self.count, str(rendezvous), other), daemon=True)
            process.start()
            other.close()
            self._processes.append(process)
            self._pipes.append(own)


def _serve(rank: int, count: int, rendezvous: str, pipe: Connection) -> None:
    torch.set_num_threads(1)
    limit = timedelta(seconds=LIMIT)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=count, timeout=limit)
    warnings.simplefilter("error")
    loaded: dict[str, ModuleType] = {}
    while True:
        path, name, args = pipe.recv()
        try:
            if path not in loaded:
                loaded[path] = _load(path)
            getattr(loaded[path], name)(*args)
            pipe.send(None)
        except BaseException:  # noqa: BLE001 - the test reports it
            pipe.send(traceback.format_exc())


def _load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"jobs_{Path(path).stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
