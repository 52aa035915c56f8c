"""The calls of MonitoringService that are about alerts, without their transport: check, ask the engine, answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final

from monitoring.alerts import messages
from monitoring.alerts.conditions import Condition, Verdict
from monitoring.alerts.engine import AlertEngine
from monitoring.alerts.handlers.deliveries import Deliveries
from monitoring.alerts.reading import Count, Filter, count_alerts, find_alert, list_alerts
from monitoring.alerts.requests import (
    MAX_PAGE,
    check_family,
    check_id,
    check_why,
    make_token,
    read_filter,
    read_page_size,
    read_token,
)
from services.runtime.call import Call
from services.runtime.database import Database
from services.runtime.deadlines import in_time
from services.runtime.errors import InvalidArgument, NotFound, Unavailable
from turnout.v1 import monitoring_pb2

LONGEST_SECONDS: Final = 30.0
HEARTBEAT_SECONDS: Final = 15.0


class AlertCalls:
    """The alert calls.

    Args:
        engine: the alerts.
        deliveries: the handlers, for their statistics.
        database: the history.
        now_us: microseconds since 1970-01-01T00:00Z.
        stopping: tells whether the process drains; watches end then.
        heartbeat_seconds: the longest silence of a watch.
    """

    def __init__(
        self,
        engine: AlertEngine,
        deliveries: Deliveries,
        database: Database,
        *,
        now_us: Callable[[], int],
        stopping: Callable[[], bool],
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._engine, self._deliveries, self._database = engine, deliveries, database
        self._now_us, self._stopping, self._heartbeat_seconds = now_us, stopping, heartbeat_seconds

    async def list_alerts(
        self, request: monitoring_pb2.ListAlertsRequest, call: Call
    ) -> monitoring_pb2.ListAlertsResponse:
        """Gives active alerts, also while the database is away, or a page of the history, newest first.

        Raises:
            InvalidArgument: a filter, the page's size or its token is out of bounds.
            Unavailable: the history cannot be read.
        """
        wanted, size = read_filter(request), read_page_size(request.page_size)
        before = read_token(request.page_token)
        if request.history:
            page = await in_time(
                self._database.read(list_alerts, wanted, before, size + 1), call, longest_seconds=LONGEST_SECONDS
            )
        else:
            found = (alert for alert in self._engine.active() if wanted.takes(alert))
            page = [alert for alert in found if before is None or (alert.started_at_us, alert.id) < before][: size + 1]
        silences, now_us = self._engine.silences(), self._now_us()
        more = make_token(page[size - 1].started_at_us, page[size - 1].id) if len(page) > size else ""
        return monitoring_pb2.ListAlertsResponse(
            alerts=[messages.alert_message(alert, silences, now_us) for alert in page[:size]], next_page_token=more
        )

    async def get_alert(self, request: monitoring_pb2.GetAlertRequest, call: Call) -> monitoring_pb2.GetAlertResponse:
        """Gives an alert, what happened to it, and what each handler knows of it.

        Raises:
            NotFound: there is none of this id.
        """
        check_id(request.id)
        stored, events = await in_time(
            self._database.read(find_alert, request.id), call, longest_seconds=LONGEST_SECONDS
        )
        alert = self._engine.find(request.id) or stored
        if alert is None:
            raise NotFound("id", "there is no alert of that id")
        return monitoring_pb2.GetAlertResponse(
            alert=messages.alert_message(alert, self._engine.silences(), self._now_us()),
            events=[messages.event_message(event) for event in events],
            told=[
                monitoring_pb2.Told(handler=handler, notice=told.notice, at_unix_us=told.at_us)
                for handler, told in self._engine.told(request.id).items()
            ],
        )

    async def alert_statistics(
        self, request: monitoring_pb2.AlertStatisticsRequest, call: Call
    ) -> monitoring_pb2.AlertStatisticsResponse:
        """Gives how many alerts there were and how long they lasted, and how the handlers do."""
        check_family(request.family)
        if request.since_unix_us < 0:
            raise InvalidArgument("since_unix_us", "since_unix_us must be at least 0")
        wanted = Filter(family=request.family, since_us=request.since_unix_us)
        counts: list[Count] = await in_time(
            self._database.read(count_alerts, wanted), call, longest_seconds=LONGEST_SECONDS
        )
        resolved = sum(count.resolved for count in counts)
        return monitoring_pb2.AlertStatisticsResponse(
            counts=[
                monitoring_pb2.AlertCount(
                    type=messages.type_number(count.type),
                    severity=monitoring_pb2.Severity.ValueType(int(count.severity)),
                    firing=count.firing,
                    resolved=count.resolved,
                )
                for count in counts
            ],
            active=sum(wanted.takes(alert) for alert in self._engine.active()),
            mean_seconds_to_resolve=sum(count.seconds for count in counts) / resolved if resolved else None,
            handlers=self._handlers(),
            waiting_for_database=self._engine.waiting_for_database,
        )

    async def raise_alert(
        self, request: monitoring_pb2.RaiseAlertRequest, call: Call
    ) -> monitoring_pb2.RaiseAlertResponse:
        """Takes a look at a condition from outside the check cycle.

        Raises:
            InvalidArgument: the type, a label, a number or the summary is out of bounds.
            ResourceExhausted: so many alerts are active that what is left is the check cycle's.
        """
        condition = Condition(
            type=messages.read_type(request.type, "type"),
            labels=dict(request.labels),
            verdict=Verdict.CLEAR if request.recovered else Verdict.HOLDS,
            summary=request.summary,
            severity=messages.read_severity(request.severity, "severity"),
            value=request.value if request.HasField("value") else None,
            limit=request.limit if request.HasField("limit") else None,
        )
        alert, stored = await in_time(self._engine.report(condition), call, longest_seconds=LONGEST_SECONDS)
        message = messages.alert_message(alert, self._engine.silences(), self._now_us()) if alert else None
        return monitoring_pb2.RaiseAlertResponse(alert=message, stored=stored)

    async def resolve_alert(
        self, request: monitoring_pb2.ResolveAlertRequest, call: Call
    ) -> monitoring_pb2.ResolveAlertResponse:
        """Ends an active alert by hand.

        Raises:
            InvalidArgument: no reason.
            NotFound: no active alert has this id.
            FailedPrecondition: it is over.
        """
        check_id(request.id)
        check_why(request.why)
        alert = await in_time(
            self._engine.resolve(request.id, who=call.tenant, why=request.why), call, longest_seconds=LONGEST_SECONDS
        )
        return monitoring_pb2.ResolveAlertResponse(alert=messages.alert_message(alert))

    async def silence_alerts(
        self, request: monitoring_pb2.SilenceAlertsRequest, call: Call
    ) -> monitoring_pb2.SilenceAlertsResponse:
        """Keeps handlers quiet about matching alerts until an instant.

        Raises:
            InvalidArgument: the matchers, the end or the reason is out of bounds.
        """
        check_why(request.why)
        matchers = messages.read_matchers(request.matchers)
        made = self._engine.silence(matchers, until_us=request.ends_at_unix_us, who=call.tenant, why=request.why)
        silence, covered = await in_time(made, call, longest_seconds=LONGEST_SECONDS)
        return monitoring_pb2.SilenceAlertsResponse(silence=messages.silence_message(silence), matched=len(covered))

    async def list_silences(
        self, request: monitoring_pb2.ListSilencesRequest, call: Call
    ) -> monitoring_pb2.ListSilencesResponse:
        """Gives silences, newest first."""
        del call
        found = self._engine.silences(ended=request.ended)[:MAX_PAGE]
        return monitoring_pb2.ListSilencesResponse(silences=[messages.silence_message(one) for one in found])

    async def expire_silence(
        self, request: monitoring_pb2.ExpireSilenceRequest, call: Call
    ) -> monitoring_pb2.ExpireSilenceResponse:
        """Ends a silence now.

        Raises:
            NotFound: there is none of this id.
            FailedPrecondition: it has ended already.
        """
        check_id(request.id)
        silence = await in_time(self._engine.expire(request.id, who=call.tenant), call, longest_seconds=LONGEST_SECONDS)
        return monitoring_pb2.ExpireSilenceResponse(silence=messages.silence_message(silence))

    async def watch_alerts(
        self, request: monitoring_pb2.WatchAlertsRequest, call: Call
    ) -> AsyncIterator[monitoring_pb2.WatchAlertsResponse]:
        """Gives the active alerts (or what a watcher missed), then every change, with heartbeats between.

        Raises:
            ResourceExhausted: too many watch, or this watcher reads too slowly.
            Unavailable: the hub stops.
        """
        del call
        check_family(request.family)
        severity = messages.read_severity(request.min_severity, "min_severity")
        wanted = Filter(family=request.family, min_severity=severity)
        with self._engine.watchers.watching() as watcher:
            missed = self._engine.watchers.since(request.after_sequence) if request.after_sequence else None
            if missed is None:
                active = [messages.alert_message(one) for one in self._engine.active() if wanted.takes(one)]
                snapshot = monitoring_pb2.ActiveAlerts(alerts=active, sequence=self._engine.sequence)
                yield monitoring_pb2.WatchAlertsResponse(active=snapshot)
            for event in missed or ():
                if wanted.takes(event.alert):
                    yield monitoring_pb2.WatchAlertsResponse(event=messages.event_message(event))
            while not self._stopping():
                news = await watcher.next(self._heartbeat_seconds)
                if news is None:
                    yield monitoring_pb2.WatchAlertsResponse(heartbeat=self._engine.sequence)
                elif wanted.takes(news.alert):
                    yield monitoring_pb2.WatchAlertsResponse(event=messages.event_message(news))
        raise Unavailable("", "the hub stops: watch again from the last sequence")

    def _handlers(self) -> list[monitoring_pb2.HandlerStatus]:
        return [
            monitoring_pb2.HandlerStatus(
                name=one.name,
                kind=one.kind,
                delivered=one.worker.tally.delivered,
                failed=one.worker.tally.failed,
                waiting=one.worker.waiting,
                given_up=one.worker.tally.given_up,
                last_error=one.worker.tally.last_error,
                last_delivered_unix_us=one.worker.tally.last_delivered_us,
            )
            for one in self._deliveries.status()
        ]
