"""Alerts as messages, and what messages ask for as the engine's own values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from monitoring.alerts.alert import Alert, Event
from monitoring.alerts.kinds import AlertType, Severity, State
from monitoring.alerts.silences import Matcher, Operator, Silence, silenced_by
from services.runtime.errors import InvalidArgument
from turnout.v1 import monitoring_pb2

_PREFIX: Final = "ALERT_TYPE_"


def alert_message(alert: Alert, silences: Iterable[Silence] = (), now_us: int = 0) -> monitoring_pb2.Alert:
    """Gives an alert as a message; an active one names the silence that covers it."""
    covered = silenced_by(silences, alert.matched_labels(), now_us) if alert.active else ""
    return monitoring_pb2.Alert(
        id=alert.id,
        fingerprint=alert.fingerprint,
        type=type_number(alert.type),
        labels=dict(alert.labels),
        severity=monitoring_pb2.Severity.ValueType(int(alert.severity)),
        state=monitoring_pb2.AlertState.ValueType(int(alert.state)),
        summary=alert.summary,
        value=alert.value,
        limit=alert.limit,
        group=alert.group,
        started_at_unix_us=alert.started_at_us,
        fired_at_unix_us=alert.fired_at_us,
        last_seen_unix_us=alert.last_seen_us,
        resolved_at_unix_us=alert.resolved_at_us,
        resolved_by=alert.resolved_by,
        resolved_why=alert.resolved_why,
        seen=alert.seen,
        flapping=alert.flapping,
        silenced_by=covered,
        notice=alert.notice,
    )


def event_message(event: Event) -> monitoring_pb2.AlertEvent:
    """Gives an event as a message."""
    return monitoring_pb2.AlertEvent(
        sequence=event.sequence,
        at_unix_us=event.at_us,
        kind=monitoring_pb2.AlertEventKind.ValueType(int(event.kind)),
        alert=alert_message(event.alert),
    )


def silence_message(silence: Silence) -> monitoring_pb2.Silence:
    """Gives a silence as a message."""
    return monitoring_pb2.Silence(
        id=silence.id,
        matchers=[
            monitoring_pb2.Matcher(
                label=one.label, operator=monitoring_pb2.MatchOperator.ValueType(int(one.operator)), value=one.value
            )
            for one in silence.matchers
        ],
        starts_at_unix_us=silence.starts_at_us,
        ends_at_unix_us=silence.ends_at_us,
        created_by=silence.created_by,
        why=silence.why,
    )


def type_number(kind: AlertType) -> monitoring_pb2.AlertType.ValueType:
    """Gives a type as the proto's number."""
    return monitoring_pb2.AlertType.Value(_PREFIX + kind.name)


def read_type(number: int, field: str) -> AlertType:
    """Reads a type.

    Raises:
        InvalidArgument: it is not set or not one that exists.
    """
    name = monitoring_pb2.AlertType.DESCRIPTOR.values_by_number.get(number)
    word = name.name.removeprefix(_PREFIX) if name is not None else ""
    if word not in AlertType.__members__:
        raise InvalidArgument(field, f"{field} must be one of {', '.join(AlertType.__members__)}")
    return AlertType[word]


def read_severity(number: int, field: str) -> Severity | None:
    """Reads a severity; None when it is not set.

    Raises:
        InvalidArgument: it is not one that exists.
    """
    if number == 0:
        return None
    if number not in {int(severity) for severity in Severity}:
        raise InvalidArgument(field, f"{field} must be one of {', '.join(Severity.__members__)}")
    return Severity(number)


def read_states(numbers: Iterable[int]) -> tuple[State, ...]:
    """Reads states.

    Raises:
        InvalidArgument: one of them does not exist.
    """
    found = tuple(numbers)
    if any(number not in {int(state) for state in State} for number in found):
        raise InvalidArgument("states", f"states must be among {', '.join(State.__members__)}")
    return tuple(State(number) for number in found)


def read_matchers(messages: Iterable[monitoring_pb2.Matcher]) -> tuple[Matcher, ...]:
    """Reads matchers.

    Raises:
        InvalidArgument: an operator does not exist, or a label or value is out of bounds.
    """
    found = []
    for message in messages:
        number = int(message.operator) or int(Operator.EQUAL)
        if number not in {int(operator) for operator in Operator}:
            raise InvalidArgument("matchers", f"matchers: operator must be one of {', '.join(Operator.__members__)}")
        found.append(Matcher(message.label, Operator(number), message.value))
    return tuple(found)
