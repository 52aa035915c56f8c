"""Which paths a service has.

    POST /v1/<Service>/<Method>        every method; the body is the request in JSON
    GET  /v1/<service>/<what>?field=…  methods that change nothing

`v1` is the last part of the proto package. In the readable form the service stands without "Service" and the method
without a leading Get or List, both in lower case with hyphens: MonitoringService.ListAlerts is `/v1/monitoring/alerts`.
A method changes nothing when its proto says `idempotency_level = NO_SIDE_EFFECTS`, or when its name begins with Get,
List, Find or Summarize.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from services.runtime.grpc_binding import MAX_STREAMS, Admission
from services.runtime.identity import Identify

_READS: Final = re.compile(r"(Get|List|Find|Summarize)(?=[A-Z])")
_SHORTENED: Final = re.compile(r"(Get|List)(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Bound:
    """A service, who answers its methods, and who may call it.

    `implementation` has `async def name(request, call)` for each unary method and an async generator of that form for
    each stream, as for gRPC. Streams have a room of their own: they last, and must not keep short calls out.
    """

    service: ServiceDescriptor
    implementation: object
    identify: Identify
    admission: Admission
    streams: Admission = field(default_factory=lambda: Admission(MAX_STREAMS))

    def room_of(self, method: MethodDescriptor) -> Admission:
        """Gives what lets calls of a method in."""
        return self.streams if method.server_streaming else self.admission


@dataclass(frozen=True, slots=True)
class Route:
    """A method and its paths."""

    bound: Bound
    method: MethodDescriptor
    post: str
    get: str | None


def routes_of(services: Sequence[Bound]) -> list[Route]:
    """Gives the routes of all methods, in the services' order.

    Raises:
        ValueError: two methods would have the same path.
    """
    found = [
        Route(bound, method, f"/{_version(bound.service)}/{bound.service.name}/{method.name}", readable_path(method))
        for bound in services
        for method in bound.service.methods
        if not method.client_streaming
    ]
    paths = [path for route in found for path in (route.post, route.get) if path is not None]
    doubled = sorted({path for path in paths if paths.count(path) > 1})
    if doubled:
        raise ValueError(f"several methods have the path {doubled[0]}")
    return found


def readable_path(method: MethodDescriptor) -> str | None:
    """Gives the path of the readable form; None for a method that may change something."""
    level = method.GetOptions().idempotency_level
    if level != MethodOptions.NO_SIDE_EFFECTS and not _READS.match(method.name):
        return None
    service = method.containing_service
    what = _SHORTENED.sub("", method.name, count=1)
    return f"/{_version(service)}/{_hyphens(service.name.removesuffix('Service'))}/{_hyphens(what)}"


def _version(service: ServiceDescriptor) -> str:
    return str(service.file.package.rpartition(".")[2])


def _hyphens(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()
