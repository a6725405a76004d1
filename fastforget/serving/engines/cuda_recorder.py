"""CUDA graphs: work on a device that is recorded once and run again with one launch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

__all__ = ["Recorder"]

_T = TypeVar("_T")
_WARM_UP = 3  # runs until libraries have made their plans and taken their workspaces


class Recorder:
    """Records work on a device, and has what was recorded run one after the other.

    Args:
        device: A CUDA device.

    Raises:
        ValueError: It is another one.
    """

    def __init__(self, device: torch.device) -> None:
        if device.type != "cuda":
            raise ValueError(f"`model` must be on a CUDA device for CUDA graphs, got {device}")
        self._device, self._pool = device, torch.cuda.graph_pool_handle()
        self._lock, self._done = threading.Lock(), torch.cuda.Event()

    def record(self, work: Callable[[], _T]) -> tuple[Callable[[], None], _T]:
        """Record what a function launches; other threads may use the device meanwhile.

        Args:
            work: Launches the same each time, on the current stream, without waiting for the device.

        Returns:
            What launches it all again, to be called in a `turn`, and what the function returned: tensors in it are
            written each time, and their memory is nobody else's. Intermediate results share memory with those of other
            recordings.
        """
        with torch.cuda.device(self._device):
            aside, graph = torch.cuda.Stream(self._device), torch.cuda.CUDAGraph()
            aside.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UP):
                    work()
            torch.cuda.current_stream(self._device).wait_stream(aside)
            # "global", the default, would fail other threads that allocate memory
            with torch.cuda.graph(graph, pool=self._pool, stream=aside, capture_error_mode="thread_local"):
                made = work()
        return graph.replay, made

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Use recordings and their memory: on the current stream of this thread, after all earlier turns."""
        with self._lock, torch.cuda.device(self._device):
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(self._done)
            try:
                yield
            finally:
                self._done.record(stream)
