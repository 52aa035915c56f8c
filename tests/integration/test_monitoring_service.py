"""MonitoringService's alerts and settings over gRPC, with real handlers and a real database."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from prometheus_client import CollectorRegistry

from monitoring.alerting import Alerting, alerting
from monitoring.alerts.kinds import SECOND_US
from monitoring.service import MONITORING, monitoring_service
from monitoring.settings.changes import describe_changes
from monitoring.settings.messages import read_settings, settings_message
from services.runtime.config import ConfigError, parse_config
from services.runtime.database import open_database
from services.runtime.grpc_binding import bind, snake_case
from services.runtime.identity import by_token
from services.runtime.monitoring_config import MonitoringSettings
from services.runtime.serving import serving
from tests.integration.alerts_under_test import Clock, a_web_server
from turnout.v1 import monitoring_pb2 as pb

TOKEN = "correct horse"
METHODS = {method.input_type.name: method for method in MONITORING.methods}
RAISE: dict[str, Any] = {
    "type": pb.ALERT_TYPE_RETRAINING_FAILED,
    "labels": {"family": "dispatch"},
    "summary": "refused",
}


class Elsewhere:
    """Stands for the parts of the service that are not about alerts and settings."""

    def __init__(self, *parts: object) -> None:
        for method in MONITORING.methods:
            name = snake_case(method.name)
            if not any(hasattr(part, name) for part in parts):
                setattr(self, name, self._answer)

    async def _answer(self, request: Message, call: Any) -> Message:
        raise NotImplementedError


class Operator:
    """Calls the service by the names of its requests."""

    def __init__(self, channel: grpc.aio.Channel, running: Alerting) -> None:
        self.channel, self.running = channel, running
        self.metadata = (("authorization", f"Bearer {TOKEN}"),)

    async def ask(self, request: Message) -> Any:
        method = METHODS[type(request).__name__]
        call: Any = self.channel.unary_unary(
            f"/{MONITORING.full_name}/{method.name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        return await call(request, timeout=10, metadata=self.metadata)

    def watch(self, request: pb.WatchAlertsRequest) -> Any:
        call: Any = self.channel.unary_stream(
            f"/{MONITORING.full_name}/WatchAlerts",
            request_serializer=pb.WatchAlertsRequest.SerializeToString,
            response_deserializer=pb.WatchAlertsResponse.FromString,
        )
        return call(request, timeout=30, metadata=self.metadata)

    async def refused(self, request: Message) -> tuple[str, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.ask(request)
        return caught.value.code().name, caught.value.details() or ""


@contextlib.asynccontextmanager
async def operating(
    url: str, *, declared: MonitoringSettings | None = None, clock: Clock | None = None
) -> AsyncIterator[Operator]:
    identify = by_token({"ann": hashlib.sha256(TOKEN.encode()).hexdigest()})
    with open_database(url) as database:
        async with alerting(
            database, declared or MonitoringSettings(), registry=CollectorRegistry(), now_us=clock or Clock()
        ) as running:

            def handlers(server: Any) -> list[grpc.GenericRpcHandler]:
                parts = running.calls(stopping=server.stopping.is_set)
                return [bind(MONITORING, monitoring_service(*parts, Elsewhere(*parts)), identify=identify)]

            async with (
                serving(handlers, "127.0.0.1:0", drain_seconds=1) as server,
                grpc.aio.insecure_channel(server.address) as channel,
            ):
                yield Operator(channel, running)


@pytest.fixture
async def operator(database_url: str) -> AsyncIterator[Operator]:
    async with operating(database_url) as made:
        yield made


def test_a_method_that_nothing_answers_is_found_when_the_service_is_made() -> None:
    """Not when somebody calls it."""
    with pytest.raises(AttributeError, match="nothing answers"):
        monitoring_service(object())


async def test_an_alert_is_raised_seen_silenced_and_resolved(operator: Operator) -> None:
    """The whole life over the wire, with who did what."""
    first = await operator.ask(pb.RaiseAlertRequest(**RAISE, value=0.5, limit=0.88))
    again = await operator.ask(pb.RaiseAlertRequest(**RAISE))
    assert (first.stored, again.alert.id, again.alert.seen) == (True, first.alert.id, 2)
    assert (first.alert.severity, first.alert.state, first.alert.value) == (
        pb.SEVERITY_HIGH,
        pb.ALERT_STATE_FIRING,
        0.5,
    )
    matcher = pb.Matcher(label="type", value="retraining_failed")
    end = operator.running.now_us() + 3600 * SECOND_US
    silenced = await operator.ask(pb.SilenceAlertsRequest(matchers=[matcher], ends_at_unix_us=end, why="known"))
    assert (silenced.matched, silenced.silence.created_by) == (1, "ann")
    listed = await operator.ask(pb.ListAlertsRequest())
    assert [alert.silenced_by for alert in listed.alerts] == [silenced.silence.id]
    assert (await operator.ask(pb.ListSilencesRequest())).silences == [silenced.silence]
    await operator.ask(pb.ExpireSilenceRequest(id=silenced.silence.id))
    assert (await operator.refused(pb.ExpireSilenceRequest(id=silenced.silence.id)))[0] == "FAILED_PRECONDITION"
    resolved = await operator.ask(pb.ResolveAlertRequest(id=first.alert.id, why="trained by hand"))
    assert (resolved.alert.resolved_by, resolved.alert.resolved_why) == ("ann", "trained by hand")
    assert (await operator.refused(pb.ResolveAlertRequest(id=first.alert.id, why="x")))[0] == "FAILED_PRECONDITION"
    whole = await operator.ask(pb.GetAlertRequest(id=first.alert.id))
    kinds = [event.kind for event in whole.events]
    assert kinds == [pb.ALERT_EVENT_KIND_FIRED, pb.ALERT_EVENT_KIND_RESOLVED]
    assert len((await operator.ask(pb.ListAlertsRequest())).alerts) == 0
    assert len((await operator.ask(pb.ListAlertsRequest(history=True))).alerts) == 1
    statistics = await operator.ask(pb.AlertStatisticsRequest())
    assert [(one.type, one.resolved) for one in statistics.counts] == [(pb.ALERT_TYPE_RETRAINING_FAILED, 1)]
    assert [(one.name, one.kind) for one in statistics.handlers] == [("log", "log")]


async def test_a_condition_that_recovered_ends_its_alert(operator: Operator) -> None:
    """And one that never was raises nothing."""
    nothing = await operator.ask(pb.RaiseAlertRequest(**RAISE, recovered=True))
    assert not nothing.HasField("alert")
    await operator.ask(pb.RaiseAlertRequest(**RAISE))
    over = await operator.ask(pb.RaiseAlertRequest(**RAISE, recovered=True))
    assert not over.HasField("alert")
    (alert,) = (await operator.ask(pb.ListAlertsRequest(history=True))).alerts
    assert alert.resolved_by == "recovery"


async def test_history_comes_in_pages(operator: Operator) -> None:
    """Every alert once, newest first, whatever the page's size."""
    for number in range(7):
        await operator.ask(pb.RaiseAlertRequest(**{**RAISE, "labels": {"family": "dispatch", "variant": f"v{number}"}}))
    for history in (True, False):
        seen, token = [], ""
        while True:
            page = await operator.ask(pb.ListAlertsRequest(history=history, page_size=3, page_token=token))
            seen += [alert.labels["variant"] for alert in page.alerts]
            token = page.next_page_token
            if not token:
                break
        assert seen == [f"v{number}" for number in range(6, -1, -1)]


@pytest.mark.parametrize(
    ("request_", "code", "sentence"),
    [
        (pb.RaiseAlertRequest(), "INVALID_ARGUMENT", "type must be one of PREDICTION_DRIFT"),
        (pb.RaiseAlertRequest(**{**RAISE, "type": 99}), "INVALID_ARGUMENT", "type must be one of"),
        (pb.RaiseAlertRequest(**{**RAISE, "severity": 9}), "INVALID_ARGUMENT", "severity must be one of"),
        (pb.RaiseAlertRequest(**RAISE, value=float("nan")), "INVALID_ARGUMENT", "value must be a finite number"),
        (pb.RaiseAlertRequest(**{**RAISE, "labels": {"severity": "x"}}), "INVALID_ARGUMENT", "labels[severity]"),
        (pb.RaiseAlertRequest(**{**RAISE, "summary": "x" * 1025}), "INVALID_ARGUMENT", "summary must be at most"),
        (pb.ResolveAlertRequest(id="x"), "INVALID_ARGUMENT", "why must say why"),
        (pb.ResolveAlertRequest(id="x", why="x"), "NOT_FOUND", "no active alert"),
        (pb.GetAlertRequest(id="x"), "NOT_FOUND", "no alert"),
        (pb.GetAlertRequest(id="\0"), "INVALID_ARGUMENT", "id must be"),
        (pb.ListAlertsRequest(page_size=1001), "INVALID_ARGUMENT", "page_size must be at most 1000"),
        (pb.ListAlertsRequest(page_token="???"), "INVALID_ARGUMENT", "page_token"),
        (pb.ListAlertsRequest(history=True, page_token="MTox"), "OK", ""),
        (pb.ListAlertsRequest(since_unix_us=-1), "INVALID_ARGUMENT", "since_unix_us"),
        (pb.ListAlertsRequest(states=[pb.AlertState.ValueType(7)]), "INVALID_ARGUMENT", "states must be among"),
        (pb.SilenceAlertsRequest(why="x"), "INVALID_ARGUMENT", "ends_at_unix_us"),
        (pb.ExpireSilenceRequest(id="x"), "NOT_FOUND", "no silence"),
        (pb.SettingsHistoryRequest(page_size=2000), "INVALID_ARGUMENT", "page_size"),
        (pb.SetSettingsRequest(why="x"), "ABORTED", "base_revision is 0 and the settings are at revision 1"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Message) else "",
)
async def test_wrong_requests_are_refused_with_a_sentence(
    tmp_path: Path, request_: Message, code: str, sentence: str
) -> None:
    """Each names the field and the limit."""
    async with operating(f"sqlite:///{tmp_path / 'hub.sqlite'}") as operator:
        if code == "OK":
            await operator.ask(request_)
            return
        said = await operator.refused(request_)
        assert said[0] == code
        assert sentence in said[1]


async def test_a_watch_begins_with_what_is_active_and_can_be_taken_up_again(operator: Operator) -> None:
    """Snapshot, then changes; after a break only what was missed."""
    await operator.ask(pb.RaiseAlertRequest(**RAISE))
    watch = operator.watch(pb.WatchAlertsRequest(family="dispatch"))
    first = await watch.read()
    assert [alert.type for alert in first.active.alerts] == [pb.ALERT_TYPE_RETRAINING_FAILED]
    await operator.ask(pb.RaiseAlertRequest(**{**RAISE, "labels": {"family": "other"}}))
    await operator.ask(pb.RaiseAlertRequest(**RAISE, recovered=True))
    event = (await watch.read()).event
    assert (event.kind, event.alert.labels["family"]) == (pb.ALERT_EVENT_KIND_RESOLVED, "dispatch")
    watch.cancel()
    resumed = operator.watch(pb.WatchAlertsRequest(after_sequence=first.active.sequence, family="dispatch"))
    assert (await resumed.read()).event == event
    resumed.cancel()


def settings_with(**more: Any) -> pb.MonitoringSettings:
    return settings_message(MonitoringSettings.model_validate(more))


async def test_settings_change_with_history_and_take_effect(operator: Operator) -> None:
    """Revision, who, why, what; a rule that is switched off ends its alerts; a stale base is refused."""
    await operator.ask(pb.RaiseAlertRequest(**RAISE))
    present = await operator.ask(pb.GetSettingsRequest())
    settings = settings_with(
        cycle_seconds=60, thresholds={"fallback_rate": 0.1}, rules={"retraining_failed": {"disabled": True}}
    )
    change = pb.SetSettingsRequest(base_revision=present.revision, settings=settings, why="quieter nights")
    changed = await operator.ask(change)
    assert (changed.revision, changed.settings.thresholds.fallback_rate) == (2, 0.1)
    assert len((await operator.ask(pb.ListAlertsRequest())).alerts) == 0
    same = pb.SetSettingsRequest(base_revision=2, settings=settings, why="again")
    assert (await operator.ask(same)).revision == 2
    assert (await operator.refused(change))[0] == "ABORTED"
    newest, oldest = (await operator.ask(pb.SettingsHistoryRequest())).changes
    assert (newest.who, newest.why, oldest.who) == ("ann", "quieter nights", "turnout.yaml")
    assert list(newest.changes) == [
        "cycle_seconds: 300 → 60",
        "thresholds.fallback_rate: not set → 0.1",
        "rules.retraining_failed.disabled: not set → true",
    ]
    (only,) = (await operator.ask(pb.SettingsHistoryRequest(before_revision=2))).changes
    assert only.revision == 1


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"thresholds": pb.Thresholds(fallback_rate=1.5)}, "settings.thresholds.fallback_rate"),
        ({"thresholds": pb.Thresholds(accuracy_critical=0.9)}, "accuracy_critical must not be above accuracy"),
        ({"families": {"dispatch": pb.Thresholds(null_rate=-0.1)}}, "settings.families.dispatch.null_rate"),
        ({"rules": {"everything": pb.AlertRule()}}, "settings.rules.everything"),
        ({"rules": {"data_quality": pb.AlertRule(severity="bad")}}, "settings.rules.data_quality.severity"),
        ({"handlers": {"x": pb.AlertHandler()}}, "exactly one of"),
        ({"handlers": {"x": pb.AlertHandler(webhook=pb.WebhookHandler(url="ftp://x"))}}, "http://"),
        ({"handlers": {"x": pb.AlertHandler(webhook=pb.WebhookHandler(url="http://u:p@x/"))}}, "credentials"),
        ({"cycle_seconds": 100_000}, "settings.cycle_seconds"),
    ],
)
async def test_settings_out_of_range_are_refused_by_name(tmp_path: Path, fields: dict[str, Any], sentence: str) -> None:
    """With the path of the field; nothing changes."""
    async with operating(f"sqlite:///{tmp_path / 'hub.sqlite'}") as operator:
        request = pb.SetSettingsRequest(base_revision=1, settings=pb.MonitoringSettings(**fields), why="x")
        code, said = await operator.refused(request)
        assert (code, (await operator.ask(pb.GetSettingsRequest())).revision) == ("INVALID_ARGUMENT", 1)
        assert sentence in said


async def test_a_call_cannot_choose_code_or_where_a_secret_goes(tmp_path: Path) -> None:
    """Such handlers stand in turnout.yaml; a call may change what they hear, not what they are."""
    hook = {"url": "http://127.0.0.1:9/", "secret_env": "HOOK_SECRET"}
    declared = MonitoringSettings.model_validate({"handlers": {"ops": {"webhook": hook}}})
    async with operating(f"sqlite:///{tmp_path / 'hub.sqlite'}", declared=declared) as operator:
        for kind in (
            {"python": {"callable": "os:abort"}},
            {"webhook": {**hook, "url": "http://127.0.0.1:10/"}},
            {"webhook": {"url_file": "/etc/passwd"}},
            {
                "email": {
                    "host": "x",
                    "sender": "a@b",
                    "recipients": ["a@b"],
                    "user": "u",
                    "password_env": "HOOK_SECRET",
                }
            },
        ):
            settings = settings_with(handlers={"ops": kind})
            code, said = await operator.refused(pb.SetSettingsRequest(base_revision=1, settings=settings, why="x"))
            assert (code, "turnout.yaml" in said) == ("PERMISSION_DENIED", True)
        quieter = settings_with(handlers={"ops": {"webhook": hook, "min_severity": "critical"}})
        changed = await operator.ask(pb.SetSettingsRequest(base_revision=1, settings=quieter, why="sleep"))
        assert changed.revision == 2


async def test_a_handler_that_settings_add_hears_of_what_is_active(operator: Operator) -> None:
    """At once, without a restart."""
    await operator.ask(pb.RaiseAlertRequest(**RAISE))
    async with a_web_server() as web:
        settings = settings_with(handlers={"hook": {"webhook": {"url": web.url}}})
        await operator.ask(pb.SetSettingsRequest(base_revision=1, settings=settings, why="wake me"))
        async with asyncio.timeout(10):
            await web.arrived.wait()
        settings = settings_with(handlers={})
        await operator.ask(pb.SetSettingsRequest(base_revision=2, settings=settings, why="enough"))
    assert [one.name for one in (await operator.ask(pb.AlertStatisticsRequest())).handlers] == ["log"]


async def test_the_file_counts_again_when_it_has_changed(tmp_path: Path) -> None:
    """A restart with the same file keeps what was set by call; with another file the file's word is the newest."""
    url = f"sqlite:///{tmp_path / 'hub.sqlite'}"
    declared = MonitoringSettings(cycle_seconds=100)
    async with operating(url, declared=declared) as operator:
        await operator.ask(pb.SetSettingsRequest(base_revision=1, settings=settings_with(cycle_seconds=7), why="x"))
    async with operating(url, declared=declared) as operator:
        assert operator.running.settings.current.cycle_seconds == 7
    async with operating(url, declared=MonitoringSettings(cycle_seconds=200)) as operator:
        assert operator.running.settings.current.cycle_seconds == 200
        history = await operator.ask(pb.SettingsHistoryRequest())
        assert [(one.revision, one.who) for one in history.changes] == [
            (3, "turnout.yaml"),
            (2, "ann"),
            (1, "turnout.yaml"),
        ]


def test_settings_survive_the_way_through_a_message() -> None:
    """What a file says is what a call gives back."""
    email = {"host": "mail", "sender": "a@b.example", "recipients": ["c@d.example"], "user": "u", "password_env": "P"}
    settings = MonitoringSettings.model_validate(
        {
            "thresholds": {"null_rate": 0.0},
            "families": {"dispatch": {"min_decisions": 50}},
            "rules": {"stale_model": {"for_seconds": 0, "severity": "info"}},
            "handlers": {"mail": {"email": email, "types": ["stale_model"]}, "log": {"log": {}}},
        }
    )
    assert read_settings(settings_message(settings)) == settings
    assert describe_changes(settings, settings) == []
    assert settings.thresholds_of("dispatch", {"null_rate": 0.5, "f1": 0.75}).f1 == 0.75


def test_the_file_has_the_section_and_names_what_is_wrong() -> None:
    """Line and field, as for the rest of the file."""
    config = parse_config("families: {}\nmonitoring: {cycle_seconds: 60, handlers: {log: {log: {}}}}\n", "turnout.yaml")
    assert config.monitoring.cycle_seconds == 60
    with pytest.raises(ConfigError, match=r"turnout\.yaml:4: monitoring\.thresholds\.null_rate"):
        parse_config("families: {}\nmonitoring:\n  thresholds:\n    null_rate: 7\n", "turnout.yaml")
