"""The metrics' own server: what it serves, and that silent connections gather no threads."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from services.runtime import metrics_server
from services.runtime.metrics_server import MAX_CONNECTIONS, MetricsServer, serve_metrics


@contextlib.contextmanager
def _served() -> Iterator[MetricsServer]:
    registry = CollectorRegistry()
    Counter("calls", "Calls.", registry=registry).inc(3)
    server, thread = serve_metrics("127.0.0.1", 0, registry)
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _read(port: int) -> bytes:
    asking = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(asking):
        asking.request("GET", "/metrics")
        return asking.getresponse().read()


def test_metrics_are_served() -> None:
    """In Prometheus' text form."""
    with _served() as server:
        assert b"calls_total 3.0" in _read(server.server_port)


def test_silent_connections_gather_no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most a few threads at once; the other connections end at once, and those that hold a place in a while."""
    monkeypatch.setattr(metrics_server._Handler, "timeout", 0.5)
    with _served() as server, contextlib.ExitStack() as stack:
        before = threading.active_count()
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.server_port), timeout=10))
            for _ in range(3 * MAX_CONNECTIONS)
        ]
        for one in silent[MAX_CONNECTIONS:]:
            assert one.recv(1) == b""
        assert threading.active_count() <= before + MAX_CONNECTIONS
        for one in silent:
            assert one.recv(1) == b""
        assert b"calls_total 3.0" in _read(server.server_port)
