"""Prometheus metrics of a model server; label children are bound once, so that a batch costs a few microseconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

_log = structlog.get_logger(__name__)
_RESULTS: Final = {3: "invalid_argument", 4: "deadline_exceeded", 8: "resource_exhausted", 13: "internal"}
_QUIET_SECONDS: Final = 1.0
"""Failures of the model are logged at most this often; the counter has them all."""


class ModelMetrics:
    """Implements the batcher's Observer."""

    def __init__(self, registry: CollectorRegistry, *, clock: Callable[[], float]) -> None:
        calls = Counter("turnout_model_calls", "Calls by result.", ["result"], registry=registry)
        self._answered = calls.labels("ok")
        self._refused = {code: calls.labels(result) for code, result in _RESULTS.items()}
        self._batch_rows = Histogram(
            "turnout_model_batch_rows",
            "Rows of a run of the model.",
            registry=registry,
            buckets=(1, 2, 4, 8, 16, 32, 128, 1000),
        )
        self._batch_seconds = Histogram(
            "turnout_model_batch_seconds",
            "Duration of a run of the model.",
            registry=registry,
            buckets=(5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 1e-2, 5e-2, 0.25, 1),
        )
        self._by_model = Histogram(
            "ml_inference_duration_seconds",
            "Duration of a run of the model, by family/variant.",
            ["model_name"],
            registry=registry,
            buckets=(5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 1e-2, 5e-2, 0.25, 1),
        )
        self._inference: Histogram | None = None
        self._waiting = Gauge("turnout_model_waiting_rows", "Rows that wait for a run.", registry=registry)
        self._streams = Gauge("turnout_model_streams", "Open inference streams.", registry=registry)
        self._info = Info("turnout_model", "What is served.", registry=registry)
        self._clock = clock
        self._last_log = float("-inf")

    def describe(self, *, family: str, variant: str, version: str) -> None:
        """States what is served."""
        self._info.info({"family": family, "variant": variant, "version": version})
        self._inference = self._by_model.labels(f"{family}/{variant}")

    def watch_queue(self, waiting_rows: Callable[[], float]) -> None:
        """Has the queue's length read when metrics are scraped."""
        self._waiting.set_function(waiting_rows)

    def stream_opened(self) -> None:
        """A stream began."""
        self._streams.inc()

    def stream_closed(self) -> None:
        """A stream ended."""
        self._streams.dec()

    def ran(self, calls: int, rows: int, seconds: float) -> None:
        """Counts a batch."""
        self._answered.inc(calls)
        self._batch_rows.observe(rows)
        self._batch_seconds.observe(seconds)
        if self._inference is not None:
            self._inference.observe(seconds)

    def refused(self, code: int) -> None:
        """Counts a call that failed."""
        self._refused[code].inc()

    def broke(self, error: Exception) -> None:
        """Logs why the model failed on a call, at most once a second."""
        now = self._clock()
        if now - self._last_log >= _QUIET_SECONDS:
            self._last_log = now
            _log.error("model failed on a call", error=type(error).__name__, exc_info=error)
