"""The calls of MonitoringService about health, the books, drift, quality and distributions, without their transport."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, select

from bentos.family import Family
from monitoring.alerts.requests import check_family
from monitoring.cycle import answering
from monitoring.cycle.messages import drift_message, health_message
from monitoring.cycle.routers import RouterBook
from monitoring.cycle.running import Cycle, database_bytes
from monitoring.cycle.shadows import shadow_quality, shadows_of
from monitoring.ledger.aggregates import By, Totals, window_series, window_totals
from monitoring.ledger.counters import WAITING
from monitoring.ledger.levels import DAY_US, HOUR_US, MINUTE_US
from monitoring.ledger.reading import ShadowResults
from monitoring.ledger.tables import COUNTERS
from services.runtime.call import Call
from services.runtime.deadlines import in_time
from services.runtime.errors import InvalidArgument, NotFound
from services.runtime.identifiers import check_text
from turnout.v1 import monitoring_pb2 as pb

LONGEST_SECONDS: Final = 30.0
DEFAULT_WINDOW: Final = 86_400
SHORTEST_WINDOW: Final = 60
LONGEST_WINDOW: Final = 31_536_000
PAST_US: Final = 30 * DAY_US
"""Labelled decisions of so long before the window tell what probabilities mean."""
BLOCK_US: Final = DAY_US
"""In blocks of so long, which tell how much that moves."""
MAX_STEPS: Final = 48
STEPS_US: Final = (MINUTE_US, 5 * MINUTE_US, 15 * MINUTE_US, HOUR_US, 6 * HOUR_US, DAY_US)
SECOND_US: Final = 1_000_000
Groups = dict[tuple[str, ...], Totals]
Steps = list[tuple[int, Groups]]
"""Groups by the beginning of a step, oldest first."""
Shadows = list[tuple[tuple[str, str], ShadowResults]]
"""Results by experiment and variant."""


class CycleCalls:
    """The calls that a check cycle and the ledger's totals answer.

    Args:
        cycle: the running cycle.
        routers: what routers told.
        now_us: microseconds since 1970-01-01T00:00Z.
    """

    def __init__(self, cycle: Cycle, routers: RouterBook, *, now_us: Callable[[], int]) -> None:
        self._cycle, self._routers, self._now_us = cycle, routers, now_us

    async def health(self, request: pb.HealthRequest, call: Call) -> pb.HealthResponse:
        """Gives what the last cycle found; needs no database."""
        del call
        check_family(request.family)
        return health_message(self._cycle.health, request.family)

    async def ledger_status(self, request: pb.LedgerStatusRequest, call: Call) -> pb.LedgerStatusResponse:
        """Gives each router's books, and what the ledger itself holds.

        Raises:
            Unavailable: the database cannot be read.
        """
        del request

        def read(connection: Connection) -> tuple[int, int]:
            waiting = connection.scalar(select(COUNTERS.c.value).where(COUNTERS.c.name == WAITING))
            return int(waiting or 0), database_bytes(connection)

        waiting, size = await in_time(self._cycle.database.read(read), call, longest_seconds=LONGEST_SECONDS)
        return pb.LedgerStatusResponse(
            routers=self._routers.entries(), outcomes_waiting=max(waiting, 0), database_bytes=size
        )

    async def drift(self, request: pb.DriftRequest, call: Call) -> pb.DriftResponse:
        """Gives what the last cycle found, drift first; needs no database."""
        del call
        check_family(request.family)
        return drift_message(self._cycle.report, request)

    async def validation(self, request: pb.ValidationRequest, call: Call) -> pb.ValidationResponse:
        """Gives the quality of each arm and variant.

        Raises:
            InvalidArgument: the window is out of bounds.
            NotFound: there is no such family.
            Unavailable: the database cannot be read.
        """
        family = self._family(request.family)
        now_us, since_us = self._window(request.window_seconds)

        length_us = step_of(now_us - since_us)

        def read(connection: Connection) -> tuple[Groups, Steps, Steps, Shadows]:
            wanted = (family.name, request.arm, request.tenant)
            found = _totals(connection, *wanted, since_us, now_us)
            past = _series(connection, *wanted, max(since_us - PAST_US, 0), since_us, BLOCK_US)
            shadows = shadows_of(connection, family.name, request.tenant, since_us, now_us) if not request.arm else []
            return found, past, _series(connection, *wanted, since_us, now_us, length_us), shadows

        now, past, series, shadows = await in_time(
            self._cycle.database.read(read), call, longest_seconds=LONGEST_SECONDS
        )
        findings = [one for one in self._cycle.report.findings if one.family == family.name]
        reply = pb.ValidationResponse(computed_at_unix_us=now_us)
        for key, totals in sorted(now.items()):
            before = [groups[key] for _, groups in past if key in groups]
            quality = answering.variant_quality(
                family, key[0], key[1], totals, before, findings, since_us=since_us, until_us=now_us
            )
            for at, groups in series:
                if key in groups:
                    quality.steps.append(answering.quality_step(family, groups[key], at, at + length_us))
            reply.variants.append(quality)
        reply.shadows.extend(
            shadow_quality(family, name, results, since_us=since_us, until_us=now_us) for name, results in shadows
        )
        return reply

    async def distribution(self, request: pb.DistributionRequest, call: Call) -> pb.DistributionResponse:
        """Gives how values and confidences of each arm and variant are distributed.

        Raises:
            InvalidArgument: the window is out of bounds.
            NotFound: there is no such family.
            Unavailable: the database cannot be read.
        """
        family = self._family(request.family)
        now_us, since_us = self._window(request.window_seconds)
        read = self._cycle.database.read(_totals, family.name, request.arm, request.tenant, since_us, now_us)
        found = await in_time(read, call, longest_seconds=LONGEST_SECONDS)
        return pb.DistributionResponse(
            variants=[
                answering.variant_distribution(family, key[0], key[1], totals, since_us=since_us, until_us=now_us)
                for key, totals in sorted(found.items())
            ],
            computed_at_unix_us=now_us,
        )

    def _family(self, name: str) -> Family:
        if not name:
            raise InvalidArgument("family", "family must be named")
        check_text("family", name)
        family = self._cycle.families(name)
        if family is None:
            raise NotFound("family", f"there is no family {name[:64]!r}")
        return family

    def _window(self, seconds: int) -> tuple[int, int]:
        """Gives the window's end and beginning."""
        if seconds and not SHORTEST_WINDOW <= seconds <= LONGEST_WINDOW:
            limits = f"{SHORTEST_WINDOW} to {LONGEST_WINDOW}"
            raise InvalidArgument("window_seconds", f"window_seconds must be {limits}, or 0 for {DEFAULT_WINDOW}")
        now_us = self._now_us()
        return now_us, max(now_us - (seconds or DEFAULT_WINDOW) * SECOND_US, 0)


def _totals(  # noqa: PLR0917 - `Database.read` hands them on in this order
    connection: Connection, family: str, arm: str, tenant: str, since_us: int, until_us: int
) -> Groups:
    only: dict[By, str] = {"arm": arm, "tenant": tenant}
    return window_totals(connection, family, only, since_us, until_us, by=("arm", "variant"), populations=None)


def _series(  # noqa: PLR0917 - `Database.read` hands them on in this order
    connection: Connection, family: str, arm: str, tenant: str, since_us: int, until_us: int, length_us: int
) -> Steps:
    only: dict[By, str] = {"arm": arm, "tenant": tenant}
    by: tuple[By, ...] = ("arm", "variant")
    return window_series(connection, family, only, since_us, until_us, length_us=length_us, by=by, populations=None)


def step_of(span_us: int) -> int:
    """Gives the length of the steps that a window is shown in: at most 48 of them, whole minutes, hours or days."""
    for length in STEPS_US:
        if span_us <= MAX_STEPS * length:
            return length
    return 7 * DAY_US
