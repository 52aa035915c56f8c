"""What HTTP tells Prometheus. Labels come from the services' descriptors and from the statuses that there are."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class HttpMetrics:
    """Counters of one server, on the registry that its composition root gives."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "turnout_http_requests",
            "Requests by service, method and HTTP status.",
            ["service", "method", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "turnout_http_request_duration_seconds",
            "Time from a request's arrival to its answer; of a stream, to its beginning.",
            ["service", "method"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0),
            registry=registry,
        )
        self._streams = Gauge("turnout_http_streams", "Open streams.", registry=registry)

    def answered(self, service: str, method: str, status: int, seconds: float) -> None:
        """Counts a request."""
        self._requests.labels(service, method, str(status)).inc()
        self._seconds.labels(service, method).observe(seconds)

    def stream_opened(self) -> None:
        """A stream began."""
        self._streams.inc()

    def stream_closed(self) -> None:
        """A stream ended."""
        self._streams.dec()
