"""Prometheus' metrics over HTTP, in threads beside the event loop: a few at once, each for a few seconds.

The client library's own server gives each connection a thread for as long as it stays open, so that connections without
a word would gather threads without bound in a process that others depend on.
"""

from __future__ import annotations

import socket
from socketserver import ThreadingMixIn
from threading import BoundedSemaphore, Thread
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

MAX_CONNECTIONS: Final = 16
SILENT_SECONDS: Final = 5.0
"""A connection that says nothing for so long, or does not read for so long, is ended."""


class MetricsServer(ThreadingMixIn, WSGIServer):
    """A thread for each of at most 16 connections; more are ended at once."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *given: Any) -> None:
        self._places = BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(*given)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Gives a connection its thread, or ends it."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serves a connection and gives its place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: what breaks here are connections, and whoever breaks one must not fill the log."""


class _Ipv6(MetricsServer):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = SILENT_SECONDS

    def log_message(self, *_: Any) -> None:
        """Keeps no log of accesses."""


def serve_metrics(host: str, port: int, registry: CollectorRegistry) -> tuple[MetricsServer, Thread]:
    """Serves a registry's metrics from now on; gives the server, whose port is `server_port`, and its thread.

    Args:
        host: an address without brackets.
        port: 0 takes a free one.
        registry: what is served.

    Raises:
        OSError: the address cannot be bound.
        OverflowError: there is no such port.
    """
    server = (_Ipv6 if ":" in host else MetricsServer)((host, port), _Handler)
    server.set_app(make_wsgi_app(registry))
    thread = Thread(target=server.serve_forever, daemon=True, name="metrics")
    thread.start()
    return server, thread
