"""Whether the router is there and willing: its own health service says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Final

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from services.client.backoff import Backoff
from services.client.outcomes import Ask
from services.client.status import CALLERS_OWN, Failure

_CHECK: Final = "/grpc.health.v1.Health/Check"
_BACKOFF: Final = Backoff(0.02, 0.5)


async def wait_until_serving(ask: Ask, clock: Callable[[], float], until: float, chance: Random) -> bool:
    """Waits until the router says SERVING; False when it does not by `until`, on the loop's clock.

    Raises:
        Unauthenticated, PermissionDenied: the router refuses this caller.
    """
    payload = HealthCheckRequest().SerializeToString()
    attempt = 0
    while (left := until - clock()) > 0:
        reply = await ask(_CHECK, payload, until)
        if not isinstance(reply, Failure):
            if HealthCheckResponse.FromString(reply).status == HealthCheckResponse.SERVING:
                return True
        elif isinstance(reply.error, CALLERS_OWN):
            raise reply.error
        await asyncio.sleep(min(left, _BACKOFF.delay(attempt, chance)))
        attempt += 1
    return False
