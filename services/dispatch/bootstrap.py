"""The dispatch service's composition root: dispatch.v1 on one side, a router's client on the other."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import AsyncIterator

from dispatch.v1 import dispatch_pb2
from services.client import TurnoutClient
from services.dispatch.service import DispatchService
from services.runtime.config import is_loopback
from services.runtime.grpc_binding import Admission, bind
from services.runtime.identifiers import uuid7_source
from services.runtime.serving import Server, serving

MAX_CONCURRENT_CALLS = 1024


@contextlib.asynccontextmanager
async def running(router: str, listen: str, *, token: str | None) -> AsyncIterator[Server]:
    """Serves dispatch.v1.DispatchService until the block ends. The router may be away: the rules rank then.

    Args:
        router: address of the router.
        listen: host:port or unix:path; port 0 takes a free one.
        token: credential towards the router.

    Raises:
        OSError: the address cannot be bound, or others could reach it.
    """
    if not is_loopback(listen):
        raise OSError(f"{listen} is open to others, and callers carry no credential here: listen on loopback")
    new_id = uuid7_source(lambda: time.time_ns() // 1_000_000, random.getrandbits)
    service = dispatch_pb2.DESCRIPTOR.services_by_name["DispatchService"]
    admission = Admission(MAX_CONCURRENT_CALLS)
    async with TurnoutClient(router, token) as client:
        handlers = DispatchService(client, new_id=new_id, now=time.time)
        async with serving(lambda _: [bind(service, handlers, admission=admission)], listen) as server:
            yield server
