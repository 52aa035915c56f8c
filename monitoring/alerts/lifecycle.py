"""The life of an alert as pure functions of (alert, what was seen, rule, now).

Pending, firing and resolved are those of Prometheus' alerting rules. Flapping is damped as routers damp a route that
comes and goes (RFC 2439): each firing adds one to a penalty that halves with a half-life; from a limit on the alert
stays, told once, until the penalty has decayed under half the limit and the condition has ceased.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from monitoring.alerts.alert import Alert
from monitoring.alerts.conditions import Condition, Verdict
from monitoring.alerts.kinds import SECOND_US, EventKind, Rule, Severity, State

RECOVERY: Final = "recovery"
FORGOTTEN: Final = "nobody looked at its condition any more"
DISABLED: Final = "its rule was switched off"


@dataclass(frozen=True, slots=True)
class Step:
    """What a look changed. `alert` is None where there is none; `events` are in order."""

    alert: Alert | None
    events: tuple[EventKind, ...] = ()


def look(before: Alert | None, condition: Condition, rule: Rule, *, now_us: int, new_id: str) -> Step:
    """Takes one look at a condition.

    Args:
        before: the newest episode of this condition, also a resolved one; None without.
        condition: what was seen.
        rule: how its type behaves.
        now_us: when it was seen; never goes back, see `Book`.
        new_id: id of a new episode, where one begins.
    """
    if rule.disabled:
        return _end(before, DISABLED, now_us) if before is not None and before.active else Step(before)
    match condition.verdict:
        case Verdict.UNKNOWN:
            return Step(before)
        case Verdict.CLEAR:
            return _clear(before, rule, now_us)
        case Verdict.HOLDS:
            if before is None or not before.active:
                return _begin(before, condition, rule, now_us, new_id)
            return _hold(before, condition, rule, now_us)


def pass_time(alert: Alert, rule: Rule, *, now_us: int) -> Step:
    """Lets time pass for an active alert that nobody looked at: what has ceased recovers, what is forgotten ends."""
    if not alert.active:
        return Step(alert)
    if rule.disabled:
        return _end(alert, DISABLED, now_us)
    if alert.clear_since_us:
        return _recover(alert, rule, now_us)
    if now_us - alert.looked_at_us >= rule.forget_seconds * SECOND_US:
        return _end(alert, FORGOTTEN, now_us)
    return Step(alert)


def resolve_by_hand(alert: Alert, rule: Rule, *, who: str, why: str, now_us: int) -> Step:
    """Ends an active alert; a pending one comes to nothing.

    Its condition raises nothing before the hold-down ends or before it was seen to cease.
    """
    ended = _end(alert, who, now_us)
    if ended.alert is None:
        return ended
    held = replace(ended.alert, resolved_why=why, held_until_us=now_us + rule.hold_down_seconds * SECOND_US)
    return Step(held, ended.events)


def _begin(before: Alert | None, condition: Condition, rule: Rule, now_us: int, new_id: str) -> Step:
    if before is not None and now_us < before.held_until_us:
        return Step(before)
    penalty = _decayed(before, rule, now_us) if before is not None else 0.0
    severity = max(rule.severity, condition.severity or rule.severity)
    alert = Alert(
        id=new_id,
        fingerprint=condition.fingerprint,
        type=condition.type,
        labels=dict(condition.labels),
        group=condition.group,
        state=State.PENDING,
        severity=severity,
        worst=severity,
        summary=condition.summary,
        value=condition.value,
        limit=condition.limit,
        started_at_us=now_us,
        last_seen_us=now_us,
        looked_at_us=now_us,
        penalty=penalty,
        penalty_at_us=now_us,
    )
    return _fire(alert, rule, now_us) if rule.for_seconds == 0 else Step(alert, (EventKind.PENDING,))


def _hold(before: Alert, condition: Condition, rule: Rule, now_us: int) -> Step:
    returned = before.clear_since_us != 0 and before.state is State.FIRING
    alert = replace(
        before,
        summary=condition.summary,
        value=condition.value,
        limit=condition.limit,
        last_seen_us=now_us,
        looked_at_us=now_us,
        clear_since_us=0,
        seen=before.seen + 1,
    )
    if alert.state is State.PENDING:
        severity = max(alert.severity, condition.severity or alert.severity)
        alert = replace(alert, severity=severity, worst=severity)
        return _fire(alert, rule, now_us) if _old_enough(alert, rule, now_us) else Step(alert)
    events: list[EventKind] = []
    if returned:
        # It ceased and came back before it had recovered: handlers heard nothing, and yet it counts as flapping.
        alert = _penalised(alert, rule, now_us)
        if _flaps(alert, rule) and not alert.flapping:
            alert = replace(alert, flapping=True, notice=alert.notice + 1)
            events.append(EventKind.FLAPPING)
    severity = _severity(alert, condition, rule, now_us)
    if severity > alert.severity:
        alert = replace(alert, severity=severity, worst=max(alert.worst, severity), notice=alert.notice + 1)
        events.append(EventKind.ESCALATED)
    return Step(alert, tuple(events))


def _fire(alert: Alert, rule: Rule, now_us: int) -> Step:
    fired = _penalised(replace(alert, state=State.FIRING, fired_at_us=now_us, notice=1), rule, now_us)
    if _flaps(fired, rule):
        return Step(replace(fired, flapping=True), (EventKind.FIRED, EventKind.FLAPPING))
    return Step(fired, (EventKind.FIRED,))


def _clear(before: Alert | None, rule: Rule, now_us: int) -> Step:
    if before is None:
        return Step(None)
    if not before.active:
        # The condition was seen to cease: what was resolved by hand may come back.
        return Step(replace(before, held_until_us=0) if before.held_until_us else before)
    if before.state is State.PENDING:
        return Step(None, (EventKind.DROPPED,))
    since = before.clear_since_us or now_us
    return _recover(replace(before, looked_at_us=now_us, clear_since_us=since), rule, now_us)


def _recover(alert: Alert, rule: Rule, now_us: int) -> Step:
    if now_us - alert.clear_since_us < rule.recover_seconds * SECOND_US:
        return Step(alert)
    if alert.flapping and _decayed(alert, rule, now_us) >= rule.flap_limit / 2:
        return Step(alert)
    return _end(alert, RECOVERY, now_us)


def _end(alert: Alert, by: str, now_us: int) -> Step:
    if alert.state is State.PENDING:
        return Step(None, (EventKind.DROPPED,))
    ended = replace(
        alert, state=State.RESOLVED, resolved_at_us=now_us, resolved_by=by, flapping=False, notice=alert.notice + 1
    )
    return Step(ended, (EventKind.RESOLVED,))


def _old_enough(alert: Alert, rule: Rule, now_us: int) -> bool:
    return now_us - alert.started_at_us >= rule.for_seconds * SECOND_US


def _severity(alert: Alert, condition: Condition, rule: Rule, now_us: int) -> Severity:
    """Gives the worst of what effect and duration say and of what it was: it never falls in an episode."""
    by_effect = max(rule.severity, condition.severity or rule.severity)
    steps = 0
    if rule.escalate_seconds:
        steps = (now_us - alert.fired_at_us) // (rule.escalate_seconds * SECOND_US)
    by_duration = min(rule.severity.above(steps), rule.escalate_to)
    return max(alert.severity, by_effect, by_duration)


def _flaps(alert: Alert, rule: Rule) -> bool:
    # Firings that lie apart have decayed a little: the half makes the last of them count.
    return alert.penalty >= rule.flap_limit - 0.5


def _decayed(alert: Alert, rule: Rule, now_us: int) -> float:
    halvings = max(0, now_us - alert.penalty_at_us) / (rule.flap_half_life_seconds * SECOND_US)
    return float(alert.penalty * 0.5 ** min(halvings, 1000.0))


def _penalised(alert: Alert, rule: Rule, now_us: int) -> Alert:
    # The ceiling bounds how long an alert can stay after it calmed down: three half-lives.
    penalty = min(_decayed(alert, rule, now_us) + 1.0, 4.0 * rule.flap_limit)
    return replace(alert, penalty=penalty, penalty_at_us=now_us)
