"""Threads that ask a service for predictions at full speed."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

from torch import Tensor

__all__ = ["Answer", "Load", "Predict"]

Answer = tuple[float, float, int, int, Tensor]  # began, took, input, version, output
Predict = Callable[[int], tuple[int, Tensor]]  # input to version and output


class Load:
    """Predictions from several threads.

    Args:
        client: Makes what predicts, for each thread.
        inputs: How many different ones there are.
        threads: How many predict.
    """

    def __init__(self, client: Callable[[], Predict], inputs: int, threads: int) -> None:
        self._client, self._inputs, self._threads = client, inputs, threads
        self.failed: list[Exception] = []
        self.backwards = 0  # answers of an earlier version than the one before, of the same thread

    def run(self, count: int, go_on: Callable[[], bool] = bool) -> list[Answer]:
        """Predict so many times, and for as long as told to."""
        numbers, found = itertools.count(), list[Answer]()

        def predict_on() -> None:
            predict, last = self._client(), -1
            while (number := next(numbers)) < count or go_on():
                began = time.perf_counter()
                try:
                    version, output = predict(number % self._inputs)
                except Exception as error:  # noqa: BLE001 (counted; the run then fails)
                    self.failed.append(error)
                    predict = self._client()
                    continue
                found.append((began, time.perf_counter() - began, number % self._inputs, version, output))
                self.backwards += version < last
                last = version

        clients = [threading.Thread(target=predict_on) for _ in range(self._threads)]
        for one in clients:
            one.start()
        for one in clients:
            one.join()
        return found
