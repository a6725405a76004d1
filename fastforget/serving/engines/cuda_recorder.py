"""CUDA graphs: work on a device that is recorded once, and run again with one launch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

__all__ = ["CAPTURING", "Recorder"]

_Result = TypeVar("_Result")
# Held while a graph is captured: whoever waits for a whole device meanwhile spoils the capture, and fails.
CAPTURING = threading.Lock()
_WARM_UP = 3  # runs until libraries have made their plans and taken their workspaces


class Recorder:
    """Records work on a device, and lets one recording at a time run.

    Args:
        device: A CUDA device.

    Raises:
        ValueError: It is another one.
    """

    def __init__(self, device: torch.device) -> None:
        if device.type != "cuda":
            raise ValueError(f"`model` must be on a CUDA device for CUDA graphs, got {device}")
        # PyTorch shares memory between captures of one pool only if they are on one stream.
        self._device, self._pool, self._aside = device, torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)
        self._lock, self._done = threading.Lock(), torch.cuda.Event()

    def record(self, work: Callable[[], _Result]) -> tuple[Callable[[], None], _Result]:
        """Record what a function launches; other threads may predict meanwhile, but not wait for the device.

        Args:
            work: Launches the same each time, on the current stream, without waiting for the device.

        Returns:
            What launches it all again, to be called in a `turn`, and what the function returned. Tensors in the latter
            are written each time, and their memory is nobody else's; intermediate results share memory with those of
            other recordings.
        """
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        self._aside.wait_stream(before)
        # The stream is set out here too: where a capture fails, PyTorch's own context does not put it back.
        with CAPTURING, torch.cuda.device(self._device), torch.cuda.stream(self._aside):
            for _ in range(_WARM_UP):
                work()
            torch._C._cuda_clearCublasWorkspaces()  # noqa: SLF001 (a graph needs one that no other graph uses)
            # "global", the default, would fail other threads that allocate memory
            with torch.cuda.graph(graph, pool=self._pool, stream=self._aside, capture_error_mode="thread_local"):
                made = work()
            torch._C._cuda_clearCublasWorkspaces()  # noqa: SLF001
        before.wait_stream(self._aside)
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
