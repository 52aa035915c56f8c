"""The hub over gRPC: a real in-process server, its ledger and its experiments."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from router.strategies.family import compile_family
from services.hub.bootstrap import running
from services.runtime.config import read_config
from services.runtime.targeting import Row
from turnout.v1 import experiment_pb2, ledger_pb2, prediction_pb2

NOW_US = 1_700_000_000_000_000
TOKEN = "correct horse"
CONFIG = """\
hub: {grpc: "127.0.0.1:0", metrics: "127.0.0.1:0"}
families:
  dispatch: {variants: {xgb: {addresses: ["127.0.0.1:9"]}}}
experiments:
  dispatch:
    salt: s
    champion: rules
    strategy: {kind: weighted}
    arms:   # who takes part
      rules: {variant: rules, weight: 50}
      xgb: {variant: xgb, weight: 50}
"""
_METHODS = {
    method.name: method
    for module, service in ((ledger_pb2, "LedgerService"), (experiment_pb2, "ExperimentService"))
    for method in module.DESCRIPTOR.services_by_name[service].methods
}


class Caller:
    """Calls the hub by the names of its methods."""

    def __init__(self, channel: grpc.aio.Channel, registry: CollectorRegistry, token: str | None) -> None:
        self.channel = channel
        self.registry = registry
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()

    async def ask(self, request: Message) -> Any:
        """Calls the unary method that takes this request."""
        method = _METHODS[type(request).__name__.removesuffix("Request")]
        call: Any = self.channel.unary_unary(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        return await call(request, timeout=10, metadata=self._metadata)

    async def pages(self, request: Message) -> list[Any]:
        """Reads the whole listing that this request asks for."""
        method = _METHODS[type(request).__name__.removesuffix("Request")]
        call: Any = self.channel.unary_stream(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        return [page async for page in call(request, timeout=10, metadata=self._metadata)]

    async def refused(self, request: Message) -> tuple[grpc.StatusCode, str, str]:
        """Calls and gives the error's code, the field at fault, and the sentence."""
        streams = _METHODS[type(request).__name__.removesuffix("Request")].server_streaming
        call = self.pages(request) if streams else self.ask(request)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        field = ""
        for key, value in caught.value.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                for detail in status_pb2.Status.FromString(value).details:
                    bad = error_details_pb2.BadRequest()
                    if detail.Unpack(bad):
                        field = bad.field_violations[0].field
        return caught.value.code(), field, caught.value.details() or ""


@contextlib.asynccontextmanager
async def hub(folder: Path, *, token: str | None = None) -> AsyncIterator[Caller]:
    registry = CollectorRegistry()
    async with (
        running(folder / "turnout.yaml", registry=registry, now_us=lambda: NOW_US, drain_seconds=1.0) as served,
        grpc.aio.insecure_channel(served.server.address) as channel,
    ):
        yield Caller(channel, registry, token)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "turnout.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def either(tmp_path: Path, database_url: str) -> Path:
    """As `folder`, with the ledger once in SQLite and once in PostgreSQL."""
    text = CONFIG.replace('metrics: "127.0.0.1:0"', f'metrics: "127.0.0.1:0", database_url: "{database_url}"')
    (tmp_path / "turnout.yaml").write_text(text)
    return tmp_path


def a_decision(number: int, *, features: int = 8, family: str = "dispatch") -> bytes:
    decision_id = f"d-{number:06d}"
    decision = ledger_pb2.Decision(
        decision_id=decision_id,
        tenant="city",
        family=family,
        assigned_at_unix_us=NOW_US + number,
        features=b"f" * features,
        latency_us=1000 * (number + 1),
        prediction=prediction_pb2.PredictResponse(
            decision_id=decision_id,
            confidence=0.5,
            served_variant="rules",
            assignment=prediction_pb2.Assignment(arm="rules" if number % 2 else "xgb", propensity=0.5),
        ),
    )
    return ledger_pb2.JournalRecord(decision=decision).SerializeToString()


def an_outcome(number: int, value: float) -> bytes:
    outcome = ledger_pb2.Outcome(decision_id=f"d-{number:06d}", tenant="city", value=value, recorded_at_unix_us=NOW_US)
    return ledger_pb2.JournalRecord(outcome=outcome).SerializeToString()


def append(*records: bytes) -> ledger_pb2.AppendRecordsRequest:
    return ledger_pb2.AppendRecordsRequest(records=records, router="router-1")


async def test_what_was_confirmed_is_there_after_a_restart(either: Path) -> None:
    """Decisions and outcomes, some of them before their decision, are joined, listed and counted by a second hub."""
    async with hub(either) as caller:
        early = await caller.ask(append(an_outcome(0, 1), an_outcome(9, 1), b"\xff"))
        assert (early.stored, early.duplicates, early.set_aside) == (2, 0, 1)
        await caller.ask(append(*(a_decision(number) for number in range(4)), an_outcome(2, 0)))
    async with hub(either) as caller:
        again = await caller.ask(append(a_decision(0), an_outcome(0, 1), b"\xff"))
        assert (again.stored, again.duplicates, again.set_aside) == (0, 3, 0)
        found = await caller.ask(ledger_pb2.FindDecisionsRequest(tenant="city", decision_ids=["d-000001", "nobody"]))
        assert (list(found.known), list(found.families)) == ([True, False], ["dispatch", ""])
        elsewhere = await caller.ask(ledger_pb2.FindDecisionsRequest(tenant="other", decision_ids=["d-000001"]))
        assert list(elsewhere.known) == [False]
        summary = await caller.ask(ledger_pb2.SummarizeArmsRequest(family="dispatch"))
        assert (summary.decisions, summary.outcomes_joined, summary.outcomes_waiting, summary.set_aside) == (4, 2, 1, 1)
        rules, xgb = summary.arms
        assert (rules.arm, rules.assigned, rules.served, rules.outcomes) == ("rules", 2, 2, 0)
        assert not rules.HasField("outcome_mean")
        assert (xgb.assigned, xgb.outcomes, xgb.outcome_mean, xgb.p50_ms, xgb.p99_ms) == (2, 2, 0.5, 1.0, 3.0)
        (page,) = await caller.pages(ledger_pb2.ListDecisionsRequest(family="dispatch", since_unix_us=NOW_US + 1))
        assert [entry.decision.decision_id for entry in page.entries] == ["d-000001", "d-000002", "d-000003"]
        assert [entry.HasField("outcome") for entry in page.entries] == [False, True, False]
        (one,) = await caller.pages(ledger_pb2.ListDecisionsRequest(decision_id="d-000002"))
        assert one.entries[0].decision == ledger_pb2.JournalRecord.FromString(a_decision(2)).decision


async def test_a_long_listing_comes_in_bounded_pages(either: Path) -> None:
    """No page has over 500 entries or over 1 MiB; together they hold every decision once, in order."""
    async with hub(either) as caller:
        await caller.ask(append(*(a_decision(number) for number in range(1200))))
        await caller.ask(append(*(a_decision(number, features=200_000) for number in range(1200, 1212))))
        pages = await caller.pages(ledger_pb2.ListDecisionsRequest())
        assert [int(entry.decision.decision_id[2:]) for page in pages for entry in page.entries] == list(range(1212))
        assert max(len(page.entries) for page in pages) == 500
        assert max(page.ByteSize() for page in pages) <= 1 << 20
        limited = await caller.pages(ledger_pb2.ListDecisionsRequest(limit=501))
        assert [len(page.entries) for page in limited] == [500, 1]


async def test_snapshots_are_listed_once_each(either: Path) -> None:
    """Three routers that apply the same experiment leave one snapshot: the earliest."""

    def snapshot(router: str, at: int, family: str = "dispatch") -> bytes:
        text = '{"revision":4}'
        digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        value = ledger_pb2.ExperimentSnapshot(
            family=family, revision=4, digest=digest, canonical_json=text, applied_at_unix_us=at, router=router
        )
        return ledger_pb2.JournalRecord(snapshot=value).SerializeToString()

    async with hub(either) as caller:
        reply = await caller.ask(
            append(snapshot("r2", 8), snapshot("r1", 7), snapshot("r3", 9), snapshot("r1", 1, "x"))
        )
        assert (reply.stored, reply.duplicates) == (2, 2)
        ((only,),) = (page.snapshots for page in await caller.pages(ledger_pb2.ListSnapshotsRequest(family="dispatch")))
        assert (only.router, only.applied_at_unix_us, only.revision) == ("r1", 7, 4)
        assert only.digest == int.from_bytes(hashlib.sha256(b'{"revision":4}').digest()[:8], "big")
        (page,) = await caller.pages(ledger_pb2.ListSnapshotsRequest())
        assert len(page.snapshots) == 2
        assert await caller.pages(ledger_pb2.ListSnapshotsRequest(family="nobody")) == []


async def test_snapshots_come_in_pages_that_are_bounded(either: Path) -> None:
    """Each has 60 KiB, and three have the same instant: all come once, oldest first, 1 MiB a message."""

    def snapshot(number: int) -> bytes:
        text = f'{{"number":{number},"salt":"{"x" * 60_000}"}}'
        digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        value = ledger_pb2.ExperimentSnapshot(
            family="dispatch",
            revision=number,
            digest=digest,
            canonical_json=text,
            applied_at_unix_us=number // 3,
            router="r",
        )
        return ledger_pb2.JournalRecord(snapshot=value).SerializeToString()

    async with hub(either) as caller:
        for first in range(0, 450, 150):
            await caller.ask(append(*map(snapshot, range(first, first + 150))))
        pages = await caller.pages(ledger_pb2.ListSnapshotsRequest(family="dispatch"))
        assert max(page.ByteSize() for page in pages) <= 1 << 20
        found = [one for page in pages for one in page.snapshots]
        assert sorted(one.revision for one in found) == list(range(450))
        assert [one.applied_at_unix_us for one in found] == [number // 3 for number in range(450)]


async def test_every_bound_of_the_ledger_names_its_field(either: Path) -> None:
    """A request over a bound is refused as a whole with INVALID_ARGUMENT."""
    wrong: list[tuple[Message, str]] = [
        (append(*[b""] * 5001), "records"),
        (ledger_pb2.AppendRecordsRequest(router="r" * 1025), "router"),
        (ledger_pb2.FindDecisionsRequest(decision_ids=["a"]), "tenant"),
        (ledger_pb2.FindDecisionsRequest(tenant="t", decision_ids=["a"] * 1001), "decision_ids"),
        (ledger_pb2.FindDecisionsRequest(tenant="t", decision_ids=["a", "b" * 129]), "decision_ids[1]"),
        (ledger_pb2.ListDecisionsRequest(since_unix_us=-1), "since_unix_us"),
        (ledger_pb2.ListDecisionsRequest(until_unix_us=-1), "until_unix_us"),
        (ledger_pb2.ListDecisionsRequest(decision_id="d" * 129), "decision_id"),
        (ledger_pb2.ListDecisionsRequest(decision_id="d\0"), "decision_id"),
        (ledger_pb2.FindDecisionsRequest(tenant="t", decision_ids=["a\0"]), "decision_ids[0]"),
        (ledger_pb2.ListDecisionsRequest(family="f" * 1025), "family"),
        (ledger_pb2.ListSnapshotsRequest(family="a\0b"), "family"),
        (ledger_pb2.SummarizeArmsRequest(), "family"),
        (ledger_pb2.SummarizeArmsRequest(family="dispatch", since_unix_us=-1), "since_unix_us"),
    ]
    async with hub(either) as caller:
        for request, field in wrong:
            code, at_fault, _ = await caller.refused(request)
            assert (code, at_fault) == (grpc.StatusCode.INVALID_ARGUMENT, field)
        summary = await caller.ask(ledger_pb2.SummarizeArmsRequest(family="dispatch"))
        assert (summary.decisions, summary.set_aside) == (0, 0)


async def test_a_full_batch_of_large_records_fits(either: Path) -> None:
    """Routers may send up to 16 MiB at once, far over the limit of other servers."""
    async with hub(either) as caller:
        reply = await caller.ask(append(*(a_decision(number, features=2000) for number in range(5000))))
        assert reply.stored == 5000


async def test_metrics_tell_what_became_of_the_records(either: Path) -> None:
    """Each record moves exactly one counter."""
    async with hub(either) as caller:
        await caller.ask(append(a_decision(0), an_outcome(0, 1), an_outcome(7, 1), b"\xff"))
        await caller.ask(append(a_decision(0), an_outcome(0, 1)))
        value: Callable[..., float | None] = caller.registry.get_sample_value
        assert value("ledger_decisions_total") == 1
        assert value("ledger_duplicates_total", {"record": "decision"}) == 1
        states = {
            state: value("ledger_outcomes_total", {"state": state}) for state in ("joined", "waiting", "duplicate")
        }
        assert states == {"joined": 1, "waiting": 1, "duplicate": 1}
        assert value("ledger_set_aside_total") == 1
        assert value("ledger_append_seconds_count") == 2


async def test_operators_steer_an_experiment_and_the_audit_log_tells_it(folder: Path) -> None:
    """Weights, a pause and its end each make the next revision; a stale base learns what changed since."""
    with structlog.testing.capture_logs() as lines:
        async with hub(folder) as caller:
            first = (await caller.ask(experiment_pb2.GetExperimentRequest(name="dispatch"))).experiment
            assert (first.revision, [(arm.name, arm.weight) for arm in first.arms]) == (1, [("rules", 50), ("xgb", 50)])
            changed = await caller.ask(
                experiment_pb2.SetStrategyRequest(
                    name="dispatch", base_revision=1, weights={"xgb": 60, "rules": 40}, why="looks good"
                )
            )
            assert changed.experiment.revision == 2
            code, field, told = await caller.refused(
                experiment_pb2.PauseExperimentRequest(name="dispatch", base_revision=1)
            )
            assert (code, field) == (grpc.StatusCode.ABORTED, "base_revision")
            assert "revision 2" in told
            assert "weights[xgb]: 50 → 60" in told
            paused = await caller.ask(experiment_pb2.PauseExperimentRequest(name="dispatch", base_revision=2))
            assert (paused.experiment.revision, paused.experiment.paused) == (3, True)
            dry = await caller.ask(experiment_pb2.DecideRequest(family="dispatch", unit_id="inc-1"))
            assert (dry.assignment.arm, dry.assignment.reason) == ("rules", prediction_pb2.ASSIGNMENT_REASON_PAUSED)
            resumed = await caller.ask(experiment_pb2.ResumeExperimentRequest(name="dispatch", base_revision=3))
            assert (resumed.experiment.revision, resumed.experiment.paused) == (4, False)
            (only,) = (await caller.ask(experiment_pb2.ListExperimentsRequest())).set.experiments
            assert only == resumed.experiment
    audit = [line for line in lines if line["event"] == "experiment changed"]
    assert [(line["revision"], line["version"]) for line in audit] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert (audit[0]["who"], audit[0]["changes"]) == ("turnout.yaml", ["created"])
    assert (audit[1]["who"], audit[1]["why"]) == ("default", "looks good")
    assert audit[1]["changes"] == ["weights[rules]: 50 → 40", "weights[xgb]: 50 → 60"]
    assert (folder / "turnout.yaml").read_text() == CONFIG


async def test_two_changes_on_one_base_never_both_win(folder: Path) -> None:
    """Of many operators who change revision 1 at once exactly one succeeds; the others are told to look again."""

    def change(weight: int) -> experiment_pb2.SetStrategyRequest:
        return experiment_pb2.SetStrategyRequest(name="dispatch", base_revision=1, weights={"xgb": weight})

    async with hub(folder) as caller:
        results = await asyncio.gather(*(caller.ask(change(weight)) for weight in range(1, 9)), return_exceptions=True)
        won = [result for result in results if not isinstance(result, BaseException)]
        lost = [result.code() for result in results if isinstance(result, grpc.aio.AioRpcError)]
        assert (len(won), lost) == (1, [grpc.StatusCode.ABORTED] * 7)
        now = (await caller.ask(experiment_pb2.GetExperimentRequest(name="dispatch"))).experiment
        assert now == won[0].experiment


async def test_every_wrong_change_names_its_field_and_leaves_the_file_alone(folder: Path) -> None:
    """Unknown arms, weights that are no shares, and strategies that break a rule are refused."""

    def weights(**by_arm: float) -> experiment_pb2.SetStrategyRequest:
        return experiment_pb2.SetStrategyRequest(name="dispatch", base_revision=1, weights=by_arm)

    def strategy(**time: Any) -> experiment_pb2.SetStrategyRequest:
        kind = experiment_pb2.Strategy(time=experiment_pb2.TimeStrategy(**time))
        return experiment_pb2.SetStrategyRequest(name="dispatch", base_revision=1, strategy=kind)

    slot = experiment_pb2.TimetableEntry(start_seconds=0, arm="nobody")
    timetable = experiment_pb2.TIME_ASSIGNMENT_TIMETABLE
    wrong: list[tuple[Message, str]] = [
        (weights(nobody=1), "weights[nobody]"),
        (weights(xgb=-1), "weights[xgb]"),
        (weights(xgb=float("nan")), "weights[xgb]"),
        (weights(xgb=float("inf")), "weights[xgb]"),
        (weights(xgb=10_001), "weights[xgb]"),
        (weights(xgb=0.001), "weights[xgb]"),
        (weights(xgb=0, rules=0), "weights"),
        (strategy(), "strategy.time.window_seconds"),
        (strategy(window_seconds=60, time_zone="Mars/Olympus"), "strategy.time.time_zone"),
        (strategy(window_seconds=60, burn_in_seconds=60), "strategy.time.burn_in_seconds"),
        (strategy(window_seconds=60, assignment=timetable, timetable=[slot]), "strategy.time.timetable[0].arm"),
        (strategy(window_seconds=60, assignment=99), "strategy.time.assignment"),
        (experiment_pb2.SetStrategyRequest(name="dispatch", base_revision=1), "strategy"),
        (
            experiment_pb2.SetStrategyRequest(name="dispatch", base_revision=1, strategy=experiment_pb2.Strategy()),
            "strategy",
        ),
        (experiment_pb2.PauseExperimentRequest(name="dispatch"), "base_revision"),
        (experiment_pb2.PauseExperimentRequest(name="dispatch", base_revision=1, why="x" * 1025), "why"),
        (experiment_pb2.DecideRequest(family="dispatch"), "unit_id"),
        (experiment_pb2.DecideRequest(family="dispatch", decision_id="not an id"), "decision_id"),
        (experiment_pb2.DecideRequest(family="dispatch", unit_id="u", at_unix_us=-1), "at_unix_us"),
    ]
    async with hub(folder) as caller:
        for request, field in wrong:
            code, at_fault, told = await caller.refused(request)
            assert (code, at_fault) == (grpc.StatusCode.INVALID_ARGUMENT, field), told
        unknown = await caller.refused(experiment_pb2.PauseExperimentRequest(name="weather", base_revision=1))
        assert unknown[:2] == (grpc.StatusCode.NOT_FOUND, "name")
    assert (folder / "turnout.yaml").read_text() == CONFIG


async def test_a_dry_run_chooses_as_the_routers_do(folder: Path) -> None:
    """The arm, propensity and digest are those of the routers' own pure assignment, for tenant "default" and now."""
    family = compile_family("dispatch", read_config(folder / "turnout.yaml").experiments, {})
    assert family is not None
    async with hub(folder) as caller:
        for number in range(20):
            reply = await caller.ask(experiment_pb2.DecideRequest(family="dispatch", unit_id=f"u{number}"))
            chosen = family.assign(
                unit_id=f"u{number}",
                decision_id="",
                tenant="default",
                region="",
                at_unix_us=NOW_US,
                position=lambda _: 0,
                look=lambda: Row("default", {}, {}, {}, {}),
                unevaluable=lambda _: None,
            )
            assert (reply.assignment.arm, reply.assignment.propensity) == (chosen.arm, chosen.propensity)
            assert reply.assignment.snapshot_digest == chosen.digest == family.digest
            assert reply.assignment.experiment == "dispatch"


async def test_strategies_are_described_from_their_models(folder: Path) -> None:
    """Each strategy of turnout.yaml is listed with its summary and its parameters' limits."""
    async with hub(folder) as caller:
        found = (await caller.ask(experiment_pb2.ListStrategiesRequest())).strategies
        assert [one.name for one in found] == ["random", "weighted", "round_robin", "time"]
        assert all(one.summary.endswith(".") for one in found)
        assert "window_seconds: 1 to 604800; default 3600" in found[3].parameters


async def test_with_an_operator_token_nothing_is_answered_without_it(folder: Path) -> None:
    """Both services ask for the token; health does not; the token and its digest never reach the answer."""
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    declare_operators(folder, ada=TOKEN)
    requests: list[Message] = [
        experiment_pb2.ListExperimentsRequest(),
        experiment_pb2.ListStrategiesRequest(),
        ledger_pb2.SummarizeArmsRequest(family="dispatch"),
        append(a_decision(0)),
    ]
    async with hub(folder, token="wrong") as caller:
        for request in requests:
            code, _, told = await caller.refused(request)
            assert code == grpc.StatusCode.UNAUTHENTICATED
            assert digest not in told
        stub: Any = health_pb2_grpc.HealthStub(caller.channel)
        for service in ("", "turnout.v1.LedgerService", "turnout.v1.ExperimentService"):
            health = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            assert health.status == health_pb2.HealthCheckResponse.SERVING
    with structlog.testing.capture_logs() as lines:
        async with hub(folder, token=TOKEN) as caller:
            for request in requests:
                await caller.ask(request)
            await caller.ask(experiment_pb2.PauseExperimentRequest(name="dispatch", base_revision=1))
    assert [line["who"] for line in lines if line["event"] == "experiment changed"] == ["ada"]
    assert not any(secret in str(lines) for secret in (TOKEN, digest))


def declare_operators(folder: Path, **tokens: str) -> None:
    """Writes turnout.yaml with these operators, and a tenant north whose token is called like it."""
    held = {name: f"{{token_sha256: {hashlib.sha256(token.encode()).hexdigest()}}}" for name, token in tokens.items()}
    section = "".join(f"  {name}: {one}\n" for name, one in held.items())
    tenant = hashlib.sha256(b"north").hexdigest()
    operators = f"operators:\n{section}" if section else ""
    (folder / "turnout.yaml").write_text(f"{operators}tenants:\n  north: {{token_sha256: {tenant}}}\n{CONFIG}")


async def test_history_names_the_operator_of_the_token_and_no_one_else(folder: Path) -> None:
    """Each operator has a token; what a caller says of itself in metadata changes nothing."""
    declare_operators(folder, ada="of ada", bob="of bob")
    for revision, name in ((1, "ada"), (2, "bob")):
        async with hub(folder, token=f"of {name}") as caller:
            caller._metadata += (("who", "eve"), ("tenant", "eve"), ("x-forwarded-user", "eve"))  # type: ignore[assignment]
            kind = experiment_pb2.PauseExperimentRequest if name == "ada" else experiment_pb2.ResumeExperimentRequest
            await caller.ask(kind(name="dispatch", base_revision=revision, why="by eve"))
            found = await caller.ask(experiment_pb2.ListRevisionsRequest(name="dispatch"))
            assert found.revisions[0].who == name
    assert [one.who for one in found.revisions] == ["bob", "ada", "turnout.yaml"]


@pytest.mark.parametrize("operators", [{}, {"ada": "of ada"}], ids=["no operators", "operators"])
async def test_a_tenants_token_never_opens_the_hub(folder: Path, operators: dict[str, str]) -> None:
    """It is for predictions: neither what is read nor what is changed at the hub is had with it."""
    declare_operators(folder, **operators)
    async with hub(folder, token="north") as caller:
        for request in (
            experiment_pb2.ListExperimentsRequest(),
            experiment_pb2.PauseExperimentRequest(name="dispatch", base_revision=1),
            ledger_pb2.SummarizeArmsRequest(family="dispatch"),
        ):
            code, _, told = await caller.refused(request)
            assert code == grpc.StatusCode.UNAUTHENTICATED
            assert ("not known" in told) if operators else ("for predictions" in told)
