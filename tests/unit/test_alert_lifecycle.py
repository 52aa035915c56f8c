"""The life of an alert, step by step, with the clock as an argument."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from monitoring.alerts.alert import Alert
from monitoring.alerts.book import MAX_ACTIVE, Book, Change
from monitoring.alerts.conditions import Condition, Verdict
from monitoring.alerts.kinds import DEFAULT_RULES, SECOND_US, AlertType, EventKind, Rule, Severity, State, graded
from monitoring.alerts.lifecycle import FORGOTTEN, RECOVERY
from monitoring.alerts.silences import Matcher, Operator, Silence
from monitoring.alerts.telling import Audience, News, Notification, Told, due
from services.runtime.errors import FailedPrecondition, InvalidArgument, NotFound
from turnout.v1 import monitoring_pb2

START = 1_700_000_000 * SECOND_US
DRIFT = AlertType.FEATURE_DRIFT
PREFIXES = {Severity: 1, State: 2, EventKind: 3, Operator: 2}
"""Words before the value in the proto's names."""


class Bench:
    """A book with one rule for all types, a clock, and what happened."""

    def __init__(self, behaviour: Rule = Rule()) -> None:  # noqa: B008 - frozen
        numbers = itertools.count()
        self.new_id = lambda: f"a{next(numbers):05d}"
        self.book = Book([], sequence=0, new_id=self.new_id)
        self.rules = dict.fromkeys(AlertType, behaviour)
        self.now = START
        self.happened: list[EventKind] = []

    def look(self, verdict: Verdict = Verdict.HOLDS, *, after: float = 0, severity: Severity | None = None) -> None:
        self.looks(a_condition(verdict, severity=severity), after=after)

    def looks(self, *conditions: Condition, after: float = 0) -> None:
        self.now += int(after * SECOND_US)
        self.apply(self.book.plan_looks(conditions, self.rules, self.now))

    def wait(self, seconds: float) -> None:
        self.now += int(seconds * SECOND_US)
        self.apply(self.book.plan_time(self.rules, self.now))

    def apply(self, change: Change) -> None:
        self.book.apply(change)
        self.happened += [event.kind for event in change.events]

    def take(self) -> list[EventKind]:
        happened, self.happened = self.happened, []
        return happened

    def severity(self) -> Severity:
        return self.alert.severity

    @property
    def alert(self) -> Alert:
        found = self.book.of(a_condition().fingerprint)
        assert found is not None
        return found


def a_condition(
    verdict: Verdict = Verdict.HOLDS, *, feature: str = "distance", severity: Severity | None = None
) -> Condition:
    labels = {"family": "dispatch", "feature": feature}
    return Condition(
        type=DRIFT, labels=labels, verdict=verdict, severity=severity, summary="moved", value=0.5, limit=0.1
    )


def test_a_condition_that_holds_long_enough_fires_and_recovers() -> None:
    """Pending until `for`, firing while it holds, resolved when it has ceased for the rule's time."""
    bench = Bench(Rule(for_seconds=60, recover_seconds=120))
    bench.look()
    assert bench.take() == [EventKind.PENDING]
    bench.look(after=59)
    assert bench.take() == []
    bench.look(after=1)
    assert bench.take() == [EventKind.FIRED]
    bench.look(Verdict.CLEAR, after=10)
    bench.look(Verdict.CLEAR, after=119)
    assert bench.take() == []
    bench.wait(1)
    assert bench.take() == [EventKind.RESOLVED]
    assert (bench.alert.resolved_by, bench.alert.seen) == (RECOVERY, 3)


def test_a_condition_that_ceases_while_pending_comes_to_nothing() -> None:
    """No handler hears of it, and the next time it waits anew."""
    bench = Bench(Rule(for_seconds=60))
    bench.look()
    bench.look(Verdict.CLEAR, after=30)
    bench.look(after=31)
    assert bench.take() == [EventKind.PENDING, EventKind.DROPPED, EventKind.PENDING]


def test_not_enough_data_changes_nothing() -> None:
    """A look that could not tell neither raises nor recovers."""
    bench = Bench()
    bench.look(Verdict.UNKNOWN)
    assert bench.take() == []
    bench.look()
    bench.look(Verdict.UNKNOWN, after=1000)
    assert bench.take() == [EventKind.FIRED]


def test_the_same_condition_is_one_alert() -> None:
    """Looks at the same type and labels count up; in one cycle the worst of several counts."""
    bench = Bench()
    bench.looks(a_condition(Verdict.CLEAR), a_condition(severity=Severity.HIGH), a_condition(severity=Severity.LOW))
    bench.look(after=300)
    assert bench.take() == [EventKind.FIRED]
    assert (len(bench.book.active()), bench.alert.severity, bench.alert.seen) == (1, Severity.HIGH, 2)


def test_severity_rises_with_duration_up_to_its_ceiling_and_never_falls() -> None:
    """Each period of escalation is one step; a smaller effect later does not make it look harmless."""
    bench = Bench(Rule(severity=Severity.LOW, escalate_seconds=600, escalate_to=Severity.HIGH))
    bench.look()
    bench.look(after=600)
    assert bench.severity() is Severity.MEDIUM
    bench.look(after=6000)
    assert bench.severity() is Severity.HIGH
    bench.look(severity=Severity.CRITICAL)
    bench.look(severity=Severity.INFO, after=1)
    assert bench.severity() is Severity.CRITICAL
    assert bench.take() == [EventKind.FIRED] + [EventKind.ESCALATED] * 3


def test_what_comes_and_goes_is_told_a_few_times_and_then_kept() -> None:
    """At the limit it is flapping and stays; when it has calmed down it resolves once."""
    bench = Bench(Rule(flap_limit=3, flap_half_life_seconds=3600))
    for _ in range(20):
        bench.look(after=30)
        bench.look(Verdict.CLEAR, after=30)
    happened = bench.take()
    assert happened == [EventKind.FIRED, EventKind.RESOLVED] * 2 + [EventKind.FIRED, EventKind.FLAPPING]
    assert bench.alert.flapping
    bench.wait(4 * 3600)
    assert bench.take() == [EventKind.RESOLVED]


def test_what_was_resolved_by_hand_stays_away_for_its_time_or_until_it_ceased() -> None:
    """The condition still holds: it comes back after the hold-down, or at once after it was seen to cease."""
    bench = Bench(Rule(hold_down_seconds=3600))

    def resolve() -> None:
        alert = bench.alert
        bench.apply(bench.book.plan_resolution(alert.id, bench.rules, who="ann", why="known", now_us=bench.now))

    bench.look()
    resolve()
    assert (bench.alert.resolved_by, bench.alert.resolved_why) == ("ann", "known")
    bench.look(after=3599)
    assert bench.take() == [EventKind.FIRED, EventKind.RESOLVED]
    bench.look(after=1)
    assert bench.take() == [EventKind.FIRED]
    resolve()
    bench.look(Verdict.CLEAR, after=1)
    bench.look(after=1)
    assert bench.take() == [EventKind.RESOLVED, EventKind.FIRED]


def test_only_an_active_alert_can_be_resolved() -> None:
    """An unknown id is NOT_FOUND, one that is over FAILED_PRECONDITION."""
    bench = Bench()
    with pytest.raises(NotFound):
        bench.book.plan_resolution("nobody", bench.rules, who="ann", why="", now_us=START)
    bench.look()
    bench.look(Verdict.CLEAR)
    with pytest.raises(FailedPrecondition):
        bench.book.plan_resolution(bench.alert.id, bench.rules, who="ann", why="", now_us=START)


def test_what_nobody_looks_at_any_more_ends() -> None:
    """An alert of an experiment that was removed does not stay for ever."""
    bench = Bench(Rule(forget_seconds=100))
    bench.look()
    bench.wait(99)
    bench.wait(1)
    assert bench.take() == [EventKind.FIRED, EventKind.RESOLVED]
    assert bench.alert.resolved_by == FORGOTTEN


def test_a_type_that_is_switched_off_raises_nothing_and_ends_what_fires() -> None:
    """A rule may be switched off while its alert is active."""
    bench = Bench()
    bench.look()
    bench.rules = dict.fromkeys(AlertType, Rule(disabled=True))
    bench.look()
    bench.look()
    assert bench.take() == [EventKind.FIRED, EventKind.RESOLVED]


def test_a_clock_that_goes_back_does_not_go_back_for_alerts() -> None:
    """Events keep their order, and nothing lasts a negative time."""
    bench = Bench(Rule(for_seconds=10))
    bench.look()
    bench.look(after=10)
    bench.look(after=-3600)
    bench.look(Verdict.CLEAR)
    assert bench.take() == [EventKind.PENDING, EventKind.FIRED, EventKind.RESOLVED]
    assert bench.alert.resolved_at_us >= bench.alert.fired_at_us


def test_active_alerts_are_bounded() -> None:
    """The ten thousand and first is refused and counted."""
    bench = Bench()
    bench.looks(*(a_condition(feature=f"f{number}") for number in range(MAX_ACTIVE)))
    change = bench.book.plan_looks([a_condition(feature="more")], bench.rules, bench.now)
    assert (len(bench.book.active()), change.refused, change.alerts) == (MAX_ACTIVE, 1, ())


def test_words_and_numbers_agree_with_the_proto() -> None:
    """Every type, severity, state and event of the proto exists here under the same number or name."""
    for enum, descriptor in (
        (Severity, monitoring_pb2.Severity),
        (State, monitoring_pb2.AlertState),
        (EventKind, monitoring_pb2.AlertEventKind),
        (Operator, monitoring_pb2.MatchOperator),
    ):
        numbers = {name: descriptor.Value(name) for name in descriptor.keys() if descriptor.Value(name)}  # noqa: SIM118
        by_word = {member.name: int(member) for member in enum}
        assert {name.split("_", PREFIXES[enum])[-1]: number for name, number in numbers.items()} == by_word
    words = {name.removeprefix("ALERT_TYPE_").lower() for name in monitoring_pb2.AlertType.keys()}  # noqa: SIM118
    assert words - {"unspecified"} == {kind.value for kind in AlertType} == {kind.value for kind in DEFAULT_RULES}


def test_priorities_are_those_of_the_deployment_family() -> None:
    """P0 for accuracy under 0.60, P1 under 0.70, P2 for latency."""
    bands = ((0.30, Severity.HIGH), (0.40, Severity.CRITICAL))
    assert [graded(1 - accuracy, bands) for accuracy in (0.75, 0.65, 0.55)] == [None, Severity.HIGH, Severity.CRITICAL]
    assert [severity.priority for severity in Severity] == [None, None, "P2", "P1", "P0"]
    assert DEFAULT_RULES[AlertType.MODEL_UNAVAILABLE].severity.priority == "P0"
    assert DEFAULT_RULES[AlertType.FEATURE_DRIFT].severity.priority == "P1"
    assert DEFAULT_RULES[AlertType.STALE_MODEL].severity.priority == "P2"


@pytest.mark.parametrize(
    "labels",
    [
        {"Family": "x"},
        {"severity": "high"},
        {"a": ""},
        {"a": "x" * 257},
        {"a": "\0"},
        {f"l{n}": "x" for n in range(17)},
    ],
)
def test_labels_out_of_bounds_are_refused(labels: dict[str, str]) -> None:
    """Names, lengths and number have bounds; labels that a notification sets cannot be given."""
    with pytest.raises(InvalidArgument, match="label"):
        Condition(type=DRIFT, labels=labels)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_refused(value: float) -> None:
    """NaN would compare with nothing."""
    with pytest.raises(InvalidArgument, match="finite"):
        Condition(type=DRIFT, value=value)


def a_silence(*, until: int, value: str = "dispatch", operator: Operator = Operator.EQUAL) -> Silence:
    matcher = Matcher("family", operator, value)
    return Silence(id="s", matchers=(matcher,), starts_at_us=START, ends_at_us=until, created_by="ann", why="works")


def test_a_silence_needs_a_matcher_that_leaves_something() -> None:
    """What matches an alert without labels would silence everything."""
    for operator, value in ((Operator.GLOB, "*"), (Operator.NOT_EQUAL, "x"), (Operator.EQUAL, "")):
        with pytest.raises(InvalidArgument, match="everything"):
            a_silence(until=START + 1, operator=operator, value=value)
    with pytest.raises(InvalidArgument, match="90 days"):
        a_silence(until=START - 1)
    with pytest.raises(InvalidArgument, match="stars"):
        Matcher("family", Operator.GLOB, "*a*a*a*a*a")


def test_a_silence_is_quiet_while_it_lasts_and_speaks_after() -> None:
    """Silenced: nothing. Over: what still fires is told. What ended inside stays unsaid."""
    bench = Bench()
    bench.look()
    silence = a_silence(until=START + 60 * SECOND_US)

    def news(now_us: int) -> list[News]:
        notifications = due(bench.book, {}, Audience(), [silence], now_us)
        return [item.news for notification in notifications for item in notification.items]

    assert news(START) == []
    assert news(START + 60 * SECOND_US) == [News.FIRED]
    bench.look(Verdict.CLEAR, after=30)
    assert news(START + 90 * SECOND_US) == []


def test_one_cycle_of_many_drifted_features_is_one_notification() -> None:
    """Alerts of the same type, family and experiment reach a handler together, at most 50 at once."""
    bench = Bench()
    bench.looks(*(a_condition(feature=f"f{number}") for number in range(60)))
    sizes = [len(notification.items) for notification in due(bench.book, {}, Audience(), [], bench.now)]
    assert sizes == [50, 10]


class Life(RuleBasedStateMachine):
    """Whatever happens in whatever order, no alert is lost or told twice, and states only move as they may."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(
            Rule(
                for_seconds=20,
                recover_seconds=30,
                escalate_seconds=100,
                flap_limit=3,
                flap_half_life_seconds=60,
                hold_down_seconds=50,
                forget_seconds=500,
            )
        )
        self.told: dict[str, Told] = {}
        self.keys: set[str] = set()
        self.silences: list[Silence] = []
        self.audience = Audience(repeat_seconds=120)
        self.states: dict[str, Alert] = {}
        self.serial: Iterator[int] = itertools.count()

    @rule(
        seconds=st.integers(-5, 90),
        looks=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(Verdict), st.sampled_from([None, *Severity]))),
    )
    def cycle(self, seconds: int, looks: list[tuple[str, Verdict, Severity | None]]) -> None:
        self.bench.looks(
            *(a_condition(verdict, feature=feature, severity=severity) for feature, verdict, severity in looks),
            after=seconds,
        )

    @rule(seconds=st.integers(0, 700))
    def time_passes(self, seconds: int) -> None:
        self.bench.wait(seconds)

    @precondition(lambda self: self.bench.book.active())
    @rule(data=st.data())
    def by_hand(self, data: st.DataObject) -> None:
        alert = data.draw(st.sampled_from(self.bench.book.active()))
        plan = self.bench.book.plan_resolution(alert.id, self.bench.rules, who="ann", why="x", now_us=self.bench.now)
        self.bench.apply(plan)

    @rule(seconds=st.integers(1, 200))
    def silence(self, seconds: int) -> None:
        end = self.bench.now + seconds * SECOND_US
        matcher = Matcher("feature", Operator.EQUAL, "a")
        self.silences.append(
            Silence(id="s", matchers=(matcher,), starts_at_us=self.bench.now, ends_at_us=end, created_by="", why="")
        )

    @rule(works=st.booleans())
    def deliver(self, works: bool) -> None:  # noqa: FBT001 - a draw
        for notification in self._due():
            if works:
                for item in notification.items:
                    assert item.key not in self.keys, "told twice"
                    self.keys.add(item.key)
                    self.told[item.alert.id] = item.told

    @rule()
    def restart(self) -> None:
        """A new book of what was stored knows the same."""
        before = {alert.id: alert for alert in self.bench.book}
        self.bench.book = Book(before.values(), sequence=self.bench.book.sequence, new_id=self.bench.new_id)
        assert {alert.id: alert for alert in self.bench.book} == before

    @rule()
    def forget(self) -> None:
        lost = self.bench.book.forget(self._knows, self.bench.rules, self.bench.now)
        assert lost == 0
        self.states = {alert.id: alert for alert in self.bench.book}

    @invariant()
    def one_active_alert_a_condition(self) -> None:
        active = [alert.fingerprint for alert in self.bench.book.active()]
        assert len(active) == len(set(active))

    @invariant()
    def states_move_forward(self) -> None:
        now = {alert.id: alert for alert in self.bench.book}
        for alert_id, before in self.states.items():
            after = now.get(alert_id)
            if after is None:
                assert before.state is State.PENDING, "only what never fired may vanish"
            else:
                assert after.state >= before.state
                assert after.severity >= before.severity
                assert after.notice >= before.notice
        self.states = now

    @invariant()
    def a_handler_that_works_ends_up_knowing_everything(self) -> None:
        known = dict(self.told)
        for notification in due(self.bench.book, known, self.audience, [], self.bench.now):
            known |= {item.alert.id: item.told for item in notification.items}
        assert due(self.bench.book, known, self.audience, [], self.bench.now) == []
        for alert in self.bench.book:
            if alert.state is not State.PENDING and self.audience.wants(alert):
                assert known[alert.id].notice == alert.notice

    def _due(self) -> list[Notification]:
        return due(self.bench.book, self.told, self.audience, self.silences, self.bench.now)

    def _knows(self, alert: Alert) -> bool:
        return not due([alert], self.told, self.audience, self.silences, self.bench.now)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
