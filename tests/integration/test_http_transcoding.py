"""HTTP/JSON of every operator service: routes, errors, limits, streams, and the document that describes them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import structlog
from google.protobuf import json_format, text_format
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from services.runtime.errors import Aborted, InvalidArgument, TurnoutError, Unavailable
from services.runtime.grpc_binding import Admission, snake_case
from services.runtime.identity import by_token, everybody
from services.runtime.transcoding.app import transcoder
from services.runtime.transcoding.errors import HTTP_STATUS
from services.runtime.transcoding.metrics import HttpMetrics
from services.runtime.transcoding.openapi import document
from services.runtime.transcoding.routes import Bound, routes_of
from services.runtime.transcoding.serving import http_serving
from tests.integration.json_schema import fits, references
from tests.integration.message_strategies import messages
from turnout.v1 import experiment_pb2, ledger_pb2, monitoring_pb2, prediction_pb2

SERVICES: list[ServiceDescriptor] = [
    monitoring_pb2.DESCRIPTOR.services_by_name["MonitoringService"],
    experiment_pb2.DESCRIPTOR.services_by_name["ExperimentService"],
    ledger_pb2.DESCRIPTOR.services_by_name["LedgerService"],
]
ALERTS = "/v1/monitoring/alerts"


class Recorder:
    """Answers every method of a service: keeps the request, gives the reply or raises the error that a test sets."""

    def __init__(self, service: ServiceDescriptor) -> None:
        self.got: list[tuple[str, Message, Any]] = []
        self.replies: dict[str, Message] = {}
        self.error: Exception | None = None
        self.stays: asyncio.Event | None = None
        self.ended = asyncio.Event()
        for method in service.methods:
            make = self._stream if method.server_streaming else self._unary
            setattr(self, snake_case(method.name), make(method))

    def _reply(self, method: MethodDescriptor, request: Message, call: Any) -> Message:
        self.got.append((method.name, request, call))
        if self.error is not None:
            raise self.error
        return self.replies.get(method.name) or GetMessageClass(method.output_type)()

    def _unary(self, method: MethodDescriptor) -> Any:
        async def answer(request: Message, call: Any) -> Message:
            reply = self._reply(method, request, call)
            if self.stays is not None:
                await self.stays.wait()
            return reply

        return answer

    def _stream(self, method: MethodDescriptor) -> Any:
        async def answer(request: Message, call: Any) -> AsyncIterator[Message]:
            try:
                yield self._reply(method, request, call)
                if self.stays is not None:
                    await self.stays.wait()
                    raise Unavailable("", "the hub stops")
            finally:
                self.ended.set()

        return answer


class Http:
    """A server of recorders, and a client."""

    registry: CollectorRegistry

    def __init__(
        self, recorders: dict[str, Recorder], client: httpx.AsyncClient, admission: Admission, stopping: asyncio.Event
    ) -> None:
        self.recorders, self.client, self.admission, self.stopping = recorders, client, admission, stopping
        self.monitoring = recorders["MonitoringService"]

    async def refused(self, status: int, method: str = "GET", path: str = ALERTS, **more: Any) -> dict[str, Any]:
        answer = await self.client.request(method, path, **more)
        assert answer.status_code == status, answer.text
        error: dict[str, Any] = answer.json()["error"]
        assert error["code"] == status
        return error


@contextlib.asynccontextmanager
async def serving(identify: Any = everybody, limit: int = 8, **more: Any) -> AsyncIterator[Http]:
    recorders = {service.name: Recorder(service) for service in SERVICES}
    gate = Admission(limit)
    bound = [Bound(service, recorders[service.name], identify, gate, gate) for service in SERVICES]
    stopping, registry = asyncio.Event(), CollectorRegistry()
    app = transcoder(bound, title="test", stopping=stopping, metrics=HttpMetrics(registry), **more)
    async with (
        http_serving(app, "127.0.0.1:0", stopping=stopping) as address,
        httpx.AsyncClient(base_url=f"http://{address}", trust_env=False, timeout=10) as client,
    ):
        http = Http(recorders, client, gate, stopping)
        http.registry = registry
        yield http


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    async with serving() as server:
        yield server


def quiet() -> HttpMetrics:
    return HttpMetrics(CollectorRegistry())


def the_document() -> dict[str, Any]:
    bound = [Bound(service, Recorder(service), everybody, Admission(1)) for service in SERVICES]
    made: dict[str, Any] = json.loads(json.dumps(document(routes_of(bound), title="test")))
    return made


def test_every_reference_of_the_document_resolves_and_every_operation_has_its_own_id() -> None:
    """And everything has the comment of its proto."""
    whole = the_document()
    for reference in references(whole):
        here: Any = whole
        for part in reference.removeprefix("#/").split("/"):
            here = here[part]
        assert here, reference
    operations = [operation for path in whole["paths"].values() for operation in path.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(ids) == len(set(ids))
    assert all(operation["description"] and operation["summary"] for operation in operations)
    schemas = {name: schema for name, schema in whole["components"]["schemas"].items() if name != "Error"}
    assert all(schema["description"] for schema in schemas.values())
    fields = [field for schema in schemas.values() for field in schema.get("properties", {}).values()]
    assert all(field["description"] for field in fields)


def test_every_method_has_its_routes() -> None:
    """POST for all; a readable GET for what changes nothing, and for nothing else."""
    paths = the_document()["paths"]
    for service in SERVICES:
        for method in (method for method in METHODS if method.containing_service is service):
            assert "post" in paths[f"/v1/{service.name}/{method.name}"]
    readable = {path for path, operations in paths.items() if "get" in operations}
    assert {
        ALERTS,
        "/v1/monitoring/health",
        "/v1/monitoring/watch-alerts",
        "/v1/experiment/experiments",
        "/v1/ledger/summarize-arms",
    } <= readable
    assert not {path for path in readable if re.search("raise|resolve|append|pause|set-s|silence-a|expire", path)}


def test_two_methods_of_one_path_are_refused() -> None:
    """The same service twice would hide one of them."""
    bound = Bound(SERVICES[0], Recorder(SERVICES[0]), everybody, Admission(1))
    with pytest.raises(ValueError, match="several methods"):
        routes_of([bound, bound])


METHODS = [method for service in SERVICES for method in service.methods if not method.client_streaming]


def exactly(message: Message) -> str:
    """Gives what tells messages apart, NaN being equal to NaN."""
    return text_format.MessageToString(message)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_every_operation_takes_and_gives_what_the_document_says(method: MethodDescriptor) -> None:
    """A generated request arrives as it was sent; a generated reply comes as it was given, and fits its schema."""
    whole = the_document()
    service = method.containing_service
    operation = whole["paths"][f"/v1/{service.name}/{method.name}"]["post"]
    asked = operation["requestBody"]["content"]["application/json"]["schema"]
    request_type, reply_type = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    recorder = Recorder(service)
    app = transcoder(
        [Bound(service, recorder, everybody, Admission(8))], title="test", stopping=asyncio.Event(), metrics=quiet()
    )

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(messages(request_type), messages(reply_type))
    def law(request: Message, reply: Message) -> None:
        recorder.got.clear()
        recorder.replies = {method.name: reply}
        body = json_format.MessageToJson(request, preserving_proto_field_name=True)
        assert fits(json.loads(body), asked, whole)
        answer = asyncio.run(ask(body))
        assert answer.status_code == 200, answer.text
        assert [exactly(got) for _, got, _ in recorder.got] == [exactly(request)]
        content = answer.json()
        form = "application/x-ndjson" if method.server_streaming else "application/json"
        assert answer.headers["content-type"].startswith(form)
        assert fits(content, operation["responses"]["200"]["content"][form]["schema"], whole)
        inner = content["result"] if method.server_streaming else content
        assert exactly(json_format.ParseDict(inner, reply_type())) == exactly(reply)

    async def ask(body: str) -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            path, kind = f"/v1/{service.name}/{method.name}", {"content-type": "application/json"}
            return await client.post(path, content=body, headers=kind)

    await asyncio.to_thread(law)


async def test_parameters_of_the_readable_form_are_fields(http: Http) -> None:
    """Scalars, enums by name, repeated ones repeated, nested ones with dots."""
    query = "history=true&family=dispatch&types=ALERT_TYPE_DATA_QUALITY&types=13&min_severity=SEVERITY_HIGH&page_size=7"
    assert (await http.client.get(f"{ALERTS}?{query}")).status_code == 200
    assert http.monitoring.got[0][1] == monitoring_pb2.ListAlertsRequest(
        history=True,
        family="dispatch",
        types=[monitoring_pb2.ALERT_TYPE_DATA_QUALITY, monitoring_pb2.ALERT_TYPE_RETRAINING_FAILED],
        min_severity=monitoring_pb2.SEVERITY_HIGH,
        page_size=7,
    )
    for query, field in (
        ("famly=x", "famly"),
        ("family=a&family=b", "family"),
        ("history=yes", "history"),
        ("family.x=1", "family.x"),
    ):
        error = await http.refused(400, path=f"{ALERTS}?{query}")
        assert error["details"][0]["fieldViolations"][0]["field"] == field
    await http.refused(400, path=f"{ALERTS}?page_size=-1")
    await http.refused(400, path=f"{ALERTS}?" + "&".join(["types=1"] * 1001))


async def test_errors_are_canonical_and_tell_no_secret(http: Http) -> None:
    """The status of the code, the sentence, the field; an unexpected error's text stays in the log."""
    http.monitoring.error = Aborted("base_revision", "base_revision is 1 and the settings are at revision 2")
    error = await http.refused(409, "POST", "/v1/MonitoringService/SetSettings", json={})
    assert (error["status"], error["message"]) == ("ABORTED", "base_revision is 1 and the settings are at revision 2")
    violation = {"field": "base_revision", "description": error["message"]}
    assert error["details"] == [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]}]
    http.monitoring.error = RuntimeError("swordfish")
    with structlog.testing.capture_logs() as logs:
        error = await http.refused(500)
    assert (error["status"], "swordfish" in str(error)) == ("INTERNAL", False)
    assert logs[0]["event"] == "handler failed"
    labels = {"service": "MonitoringService", "method": "ListAlerts", "status": "500"}
    assert http.registry.get_sample_value("turnout_http_requests_total", labels) == 1


def test_every_domain_error_has_a_status() -> None:
    """And each canonical code has one."""
    assert {error.code for error in TurnoutError.__subclasses__()} <= set(HTTP_STATUS)
    assert set(range(1, 17)) == set(HTTP_STATUS)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"[1]", "one JSON object"),
        (b"{", "one JSON object"),
        (b"\xff", "one JSON object"),
        (b'{"family": "a", "family": "b"}', "repeated names"),
        (b'{"families": "a"}', 'no field named "families"'),
        (b'{"min_severity": "WORST"}', "min_severity"),
        (b'{"page_size": 1e99}', "page_size"),
        (b'{"page_size": NaN}', "one JSON object"),
        (b"[" * 100_000, "one JSON object"),
        (rb'{"\ud800": 1}', "one JSON object"),
        ("{}".encode("utf-16"), "one JSON object"),
    ],
)
async def test_wrong_bodies_are_refused_with_a_sentence(http: Http, body: bytes, sentence: str) -> None:
    """Nothing of it reaches a handler."""
    kind = {"content-type": "application/json; charset=utf-8"}
    error = await http.refused(400, "POST", "/v1/MonitoringService/ListAlerts", content=body, headers=kind)
    assert sentence in error["message"]
    assert http.monitoring.got == []


async def test_other_sites_pages_are_kept_out(http: Http) -> None:
    """A body must be JSON, Origin must be this server, Host must be known; a page's simple requests change nothing."""
    path = "/v1/MonitoringService/RaiseAlert"
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        await http.refused(415, "POST", path, content=b"{}", headers={"content-type": kind})
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"host": "evil.example"},
        {"sec-fetch-site": "cross-site"},
    ):
        await http.refused(403, "POST", path, json={}, headers=headers)
        await http.refused(403, headers=headers)
        assert (await http.client.get("/openapi.json", headers=headers)).status_code == 403
    assert http.monitoring.got == []
    own = {"origin": str(http.client.base_url).rstrip("/"), "sec-fetch-site": "same-origin"}
    answer = await http.client.post(path, json={}, headers=own)
    assert (answer.status_code, "access-control-allow-origin" in answer.headers) == (200, False)
    await http.refused(405, "GET", path)
    await http.refused(404, "GET", "/v1/monitoring/nothing")


async def test_a_configured_name_is_known() -> None:
    """Behind a name of its own the server answers to that too."""
    async with serving(hosts=frozenset({"hub.example"})) as http:
        assert (await http.client.get(ALERTS, headers={"host": "hub.example:8000"})).status_code == 200


async def test_bodies_and_waiting_are_bounded(http: Http) -> None:
    """1 MiB, declared or not; the caller's deadline; calls under way."""
    path = "/v1/MonitoringService/RaiseAlert"
    kind = {"content-type": "application/json"}

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 65_536

    await http.refused(413, "POST", path, content=b" " * (1 << 20) + b"{}", headers=kind)
    await http.refused(413, "POST", path, content=endless(), headers=kind)
    http.monitoring.stays = asyncio.Event()
    error = await http.refused(504, headers={"turnout-timeout-ms": "50"})
    assert error["message"] == "not done within 0.050 s"
    call = http.monitoring.got[0][2]
    assert (call.tenant, 0 < call.time_left() + 0.2 < 0.3) == ("default", True)
    for wrong in ("0", "-1", "soon", "1e3"):
        await http.refused(400, headers={"turnout-timeout-ms": wrong})
    waiting = [asyncio.create_task(http.client.get(ALERTS)) for _ in range(8)]
    while http.admission.under_way < 8:
        await asyncio.sleep(0.005)
    error = await http.refused(429)
    assert error["details"][0]["@type"].endswith("RetryInfo")
    http.monitoring.stays.set()
    assert [(await answer).status_code for answer in waiting] == [200] * 8
    assert http.admission.under_way == 0


async def test_who_calls_comes_from_the_token() -> None:
    """As over gRPC: without it or with another one the call is refused; the document is for everybody."""
    identify = by_token({"operator": hashlib.sha256(b"correct horse").hexdigest()})
    async with serving(identify) as http:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic x"}):
            error = await http.refused(401, headers=headers)
            assert error["status"] == "UNAUTHENTICATED"
        answer = await http.client.get(ALERTS, headers={"authorization": "Bearer correct horse"})
        assert (answer.status_code, http.monitoring.got[0][2].tenant) == (200, "operator")
        assert (await http.client.get("/openapi.json")).json()["openapi"] == "3.1.0"
        assert (await http.client.get("/livez")).json() == {"live": True}


async def test_a_stopping_server_takes_nothing_new_and_ends_its_streams(http: Http) -> None:
    """UNAVAILABLE, with a time to try again after; a stream that waits is told and does not hold the stop."""
    http.monitoring.stays = asyncio.Event()
    async with http.client.stream("GET", "/v1/monitoring/watch-alerts") as stream:
        lines = stream.aiter_lines()
        await anext(lines)
        http.stopping.set()
        assert json.loads(await anext(lines))["error"]["status"] == "UNAVAILABLE"
    answer = await http.client.get(ALERTS)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize(
    ("accept", "prefix", "heartbeat"), [("*/*", "", ""), ("text/event-stream", "data: ", ": heartbeat")]
)
async def test_streams_have_messages_heartbeats_and_an_end(
    http: Http, monkeypatch: pytest.MonkeyPatch, accept: str, prefix: str, heartbeat: str
) -> None:
    """Lines of JSON, or server-sent events for who asks for them; an error in the middle is the last line."""
    monkeypatch.setattr("services.runtime.transcoding.streaming.HEARTBEAT_SECONDS", 0.02)
    http.monitoring.stays = asyncio.Event()
    http.monitoring.replies = {"WatchAlerts": monitoring_pb2.WatchAlertsResponse(heartbeat=7)}
    async with http.client.stream("GET", "/v1/monitoring/watch-alerts", headers={"accept": accept}) as answer:
        assert answer.status_code == 200
        lines = answer.aiter_lines()
        assert json.loads((await anext(lines)).removeprefix(prefix)) == {"result": {"heartbeat": "7"}}
        while await anext(lines) != heartbeat:
            pass
        assert http.admission.under_way == 1
        assert http.registry.get_sample_value("turnout_http_streams") == 1
        http.monitoring.stays.set()
        rest = [line async for line in lines if line not in {"", heartbeat}]
    assert json.loads(rest[0].removeprefix(prefix))["error"]["status"] == "UNAVAILABLE"
    assert len(rest) == 1


async def test_a_stream_that_is_refused_has_a_status_and_one_that_is_left_is_ended(http: Http) -> None:
    """An error before the first message is no stream; when the caller goes, the handler is ended and the place free."""
    http.monitoring.error = InvalidArgument("family", "family must be at most 64 characters")
    await http.refused(400, path="/v1/monitoring/watch-alerts")
    http.monitoring.error, http.monitoring.stays = None, asyncio.Event()
    http.monitoring.ended.clear()
    async with http.client.stream("GET", "/v1/monitoring/watch-alerts") as answer:
        await anext(answer.aiter_lines())
    async with asyncio.timeout(10):
        await http.monitoring.ended.wait()
        while http.admission.under_way:
            await asyncio.sleep(0.005)


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=200))
def test_no_body_breaks_the_server(body: bytes) -> None:
    """Whatever bytes arrive, the answer is 200 or a refusal of the request."""

    async def ask() -> int:
        recorder = Recorder(SERVICES[0])
        app = transcoder(
            [Bound(SERVICES[0], recorder, everybody, Admission(1))],
            title="test",
            stopping=asyncio.Event(),
            metrics=quiet(),
        )
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            path = "/v1/MonitoringService/ListAlerts"
            return (await client.post(path, content=body, headers={"content-type": "application/json"})).status_code

    assert asyncio.run(ask()) in {200, 400}


async def test_a_taken_port_is_told(http: Http) -> None:
    """One sentence, as for gRPC."""
    taken = f"127.0.0.1:{http.client.base_url.port}"
    app = transcoder([], title="test", stopping=asyncio.Event(), metrics=quiet())
    with pytest.raises(OSError, match="cannot be bound"):
        async with http_serving(app, taken, stopping=asyncio.Event()):
            pass


def test_predictions_stay_with_grpc() -> None:
    """Streams of requests have no form over HTTP and are left out."""
    service = prediction_pb2.DESCRIPTOR.services_by_name["PredictionService"]
    names = [route.method.name for route in routes_of([Bound(service, object(), everybody, Admission(1))])]
    assert "PredictStream" not in names
    assert "Predict" in names
