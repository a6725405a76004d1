"""What Prometheus asks of a service. This needs the extra ``metrics``."""

from __future__ import annotations

import time
from collections import Counter as Count
from collections.abc import Iterator
from contextlib import contextmanager

from fastforget.serving.live import LiveModel

try:
    from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.exposition import CONTENT_TYPE_LATEST
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError("metrics need prometheus-client: pip install 'fastforget[metrics]'") from _error

__all__ = ["Metrics"]

_STATES = ("waiting", "done", "refused")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counts predictions and reads the rest from the live model when it is asked; no class is named.

    Args:
        live: The model.

    Attributes:
        content_type: Of `text`.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, live: LiveModel) -> None:
        self._registry = CollectorRegistry()
        self._seconds = Histogram(
            "fastforget_prediction_seconds",
            "Time of a prediction, with the wait for an edit.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._failed = Counter(
            "fastforget_predictions_failed", "Predictions that raised an error.", registry=self._registry
        )
        self._registry.register(_State(live))

    @contextmanager
    def prediction(self) -> Iterator[None]:
        """Time a prediction, and count it if it fails."""
        started = time.perf_counter()
        try:
            yield
        except BaseException:
            self._failed.inc()
            raise
        self._seconds.observe(time.perf_counter() - started)

    def text(self) -> bytes:
        """Return all of it in the text format of Prometheus."""
        return generate_latest(self._registry)


class _State(Collector):
    """Reads a live model; waits for no prediction."""

    def __init__(self, live: LiveModel) -> None:
        self._live = live

    def describe(self) -> list[Metric]:
        """Describe nothing beforehand, so that registering does not read the model."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read it now."""
        live, readiness = self._live, self._live.readiness()
        versions = live.versions
        yield GaugeMetricFamily("fastforget_version", "Number of the current version.", versions[-1].number)
        forgotten = len(versions[-1].classes)
        yield GaugeMetricFamily("fastforget_forgotten_classes", "Classes that are forgotten now.", forgotten)
        yield GaugeMetricFamily("fastforget_ready", "1 if the archive is followed without trouble.", readiness["ready"])
        yield GaugeMetricFamily("fastforget_follows", "1 if requests are carried out here.", readiness["follows"])
        held = sum(version.seconds for version in versions)
        yield CounterMetricFamily("fastforget_edits", "Edits and ways back since version 0.", len(versions) - 1)
        yield CounterMetricFamily("fastforget_held_seconds", "Time that edits kept predictions out here.", held)
        try:
            states = Count(request.state for request in live.requests())
        except (OSError, ValueError):  # of the archive; `fastforget_ready` says so
            return
        requests = GaugeMetricFamily("fastforget_requests", "Requests on record, by state.", labels=["state"])
        for state in _STATES:
            requests.add_metric([state], states[state])
        yield requests
