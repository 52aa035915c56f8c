"""Handlers against real servers that hang, redirect, refuse, cut the line, or answer without end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from prometheus_client import CollectorRegistry

from monitoring.alerts.conditions import Verdict
from monitoring.alerts.engine import AlertEngine
from monitoring.alerts.handlers.alertmanager import Alertmanager
from monitoring.alerts.handlers.deliveries import Deliveries, audience_of, make
from monitoring.alerts.handlers.handler import DeliveryFailed, Handler
from monitoring.alerts.handlers.payload import as_dictionary
from monitoring.alerts.handlers.webhook import signature, slack_text
from monitoring.alerts.handlers.worker import Worker
from monitoring.alerts.kinds import AlertType, Rule, Severity
from monitoring.alerts.metrics import AlertMetrics
from monitoring.alerts.telling import Notification
from services.runtime.database import open_database
from services.runtime.monitoring_config import AlertHandler
from tests.integration.alerts_under_test import (
    Answer,
    Clock,
    a_condition,
    a_web_server,
    an_engine,
    endless,
    hang,
    reset,
    status,
)

RULES = dict.fromkeys(AlertType, Rule(severity=Severity.HIGH))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def engine(tmp_path: Path, clock: Clock) -> AsyncIterator[AlertEngine]:
    with open_database(f"sqlite:///{tmp_path / 'hub.sqlite'}") as database:
        yield await an_engine(database, clock, rules=RULES)


def a_handler(seconds: float = 5.0, **kind: Any) -> AlertHandler:
    return AlertHandler.model_validate({"min_severity": "info", "timeout_seconds": seconds, **kind})


async def a_notification(engine: AlertEngine, config: AlertHandler) -> Notification:
    engine.set_audiences({"ops": audience_of(config)})
    await engine.observe([a_condition()])
    (notification,) = engine.due("ops")
    return notification


async def failure(handler: Handler, notification: Notification) -> str:
    try:
        with pytest.raises(DeliveryFailed) as caught:
            await handler.deliver(notification)
    finally:
        await handler.close()
    return str(caught.value)


async def test_a_webhook_is_signed_and_named_by_its_news(
    engine: AlertEngine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receiver can check who sent it and whether it has it already."""
    monkeypatch.setenv("HOOK_SECRET", "s3cret")
    async with a_web_server() as web:
        config = a_handler(webhook={"url": web.url, "secret_env": "HOOK_SECRET"})
        notification = await a_notification(engine, config)
        handler = make(config, now_us=clock)
        await handler.deliver(notification)
        await handler.deliver(notification)
        await handler.close()
    first, second = web.received
    expected = hmac.new(b"s3cret", f"{clock.now_us // 10**6}.".encode() + first.body, hashlib.sha256).hexdigest()
    assert first.headers["turnout-signature"] == f"t={clock.now_us // 10**6},v1={expected}"
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"] == notification.key
    assert json.loads(first.body) == json.loads(json.dumps(as_dictionary(notification)))
    assert json.loads(first.body)["alerts"][0]["priority"] == "P1"


def test_a_signature_depends_on_secret_time_and_body() -> None:
    """Each of the three changes it."""
    made = {signature(*parts) for parts in (("a", b"x", 1), ("b", b"x", 1), ("a", b"y", 1), ("a", b"x", 2))}
    assert len(made) == 4


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (hang, "no answer within 0.2 s"),
        (reset, "the connection failed: "),
        (status(500, body=b"secret of the server"), "answered 500"),
        (status(302, "Location: http://127.0.0.1:9/"), "answered 302, a redirect, which is not followed"),
        (status(404), "answered 404"),
    ],
)
async def test_a_webhook_that_misbehaves_is_told_apart(
    engine: AlertEngine, clock: Clock, answer: Answer, sentence: str
) -> None:
    """Each has its own sentence, with nothing of the answer's text in it."""
    async with a_web_server(answer) as web:
        config = a_handler(0.2, webhook={"url": web.url})
        said = await failure(make(config, now_us=clock), await a_notification(engine, config))
    assert said.startswith(sentence)
    assert "secret" not in said
    assert len(web.received) == 1


async def test_an_answer_without_end_is_cut(engine: AlertEngine, clock: Clock) -> None:
    """The status says that it arrived; no more than 64 KiB of the body are read."""
    async with a_web_server(endless) as web:
        config = a_handler(webhook={"url": web.url})
        handler = make(config, now_us=clock)
        await handler.deliver(await a_notification(engine, config))
        await handler.close()


async def test_nobody_listening_and_missing_secrets_are_failures(
    engine: AlertEngine, clock: Clock, tmp_path: Path
) -> None:
    """The sentence names the place, never the content."""
    (tmp_path / "url").write_text("ftp://user:hidden@example.org/")
    for webhook, sentence in (
        ({"url": "http://127.0.0.1:1/"}, "the connection failed: ConnectError"),
        ({"url": "http://127.0.0.1:1/", "secret_env": "NOT_THERE_X"}, "the environment variable NOT_THERE_X must hold"),
        ({"url_file": str(tmp_path / "gone")}, f"the file {tmp_path / 'gone'} cannot be read: FileNotFoundError"),
        ({"url_file": str(tmp_path / "url")}, "the URL cannot be used: a URL begins with http"),
    ):
        config = a_handler(webhook=webhook)
        said = await failure(make(config, now_us=clock), await a_notification(engine, config))
        assert said.startswith(sentence)
        assert "hidden" not in said


async def test_slack_gets_its_own_form(engine: AlertEngine, clock: Clock, tmp_path: Path) -> None:
    """One text, its syntax escaped, the secret URL from a file."""
    async with a_web_server() as web:
        (tmp_path / "url").write_text(web.url + "/T000/B000\n")
        config = a_handler(webhook={"url_file": str(tmp_path / "url"), "format": "slack"})
        handler = make(config, now_us=clock)
        await handler.deliver(await a_notification(engine, config))
        await handler.close()
    assert web.received[0].path.endswith("/T000/B000")
    text = json.loads(web.received[0].body)["text"]
    assert text.startswith("*[P1] feature_drift dispatch: it moved*\n• fired · high · family=dispatch feature=distance")
    assert slack_text(["<!channel> & co"]) == "*&lt;!channel&gt; &amp; co*"
    assert len(slack_text(["x" * 9000])) == 3000


class Mailbox:
    """A mail server's inside: keeps mails, and refuses recipients on demand."""

    def __init__(self) -> None:
        self.mails: list[bytes] = []
        self.refuses: set[str] = set()
        self.answer = "250 OK"

    async def handle_RCPT(self, _: Any, __: Any, envelope: Any, address: str, ___: Any) -> str:  # noqa: N802 - the library's name
        if address in self.refuses:
            return "550 not here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _: Any, __: Any, envelope: Any) -> str:  # noqa: N802 - the library's name
        self.mails.append(envelope.content)
        return self.answer


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, int]]:
    box = Mailbox()
    controller = FreePort(box, hostname="127.0.0.1", port=0)
    controller.start()
    yield box, controller.server.sockets[0].getsockname()[1]
    controller.stop()


class FreePort(Controller):
    """Takes a free port; the library's own look at the server wants to know it beforehand."""

    server: Any

    def _trigger_server(self) -> None:
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]


def an_email(port: int, **more: Any) -> AlertHandler:
    email = {"host": "127.0.0.1", "port": port, "security": "none", "sender": "hub@example.org", **more}
    return a_handler(2.0, email={"recipients": ["ann@example.org", "ben@example.org"], **email})


async def test_an_email_arrives_and_names_its_news(
    engine: AlertEngine, clock: Clock, mailbox: tuple[Mailbox, int]
) -> None:
    """One mail to all; the same news has the same Message-ID; line breaks cannot make headers."""
    box, port = mailbox
    config = an_email(port)
    notification = await a_notification(engine, config)
    await make(config, now_us=clock).deliver(notification)
    mail: Any = message_from_bytes(box.mails[0], policy=default)
    assert mail["Subject"] == "[P1] feature_drift dispatch: it moved"
    assert mail["To"] == "ann@example.org, ben@example.org"
    assert mail["Message-ID"] == f"<{notification.key}@turnout.invalid>"
    assert "family=dispatch feature=distance" in mail.get_content()


async def test_refused_recipients_and_mails(engine: AlertEngine, clock: Clock, mailbox: tuple[Mailbox, int]) -> None:
    """One refused of two still arrives; all refused, a refused mail, a login that is not offered are failures."""
    box, port = mailbox
    config = an_email(port)
    notification = await a_notification(engine, config)
    box.refuses = {"ben@example.org"}
    with structlog.testing.capture_logs() as logs:
        await make(config, now_us=clock).deliver(notification)
    assert [(line["event"], line["refused"]) for line in logs] == [("some recipients were refused", 1)]
    box.refuses = {"ann@example.org", "ben@example.org"}
    assert await failure(make(config, now_us=clock), notification) == "the mail server refused every recipient"
    box.refuses, box.answer = set(), "554 the password is swordfish"
    assert await failure(make(config, now_us=clock), notification) == "the mail server answered 554: SMTPDataError"
    starttls = an_email(port, security="starttls")
    assert "SMTPNotSupportedError" in await failure(make(starttls, now_us=clock), notification)
    assert "ConnectionRefusedError" in await failure(make(an_email(1), now_us=clock), notification)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    key, made = folder / "key.pem", folder / "certificate.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(made), "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return key, made


@contextlib.contextmanager
def a_tls_mail_server(certificate: tuple[Path, Path], *, implicit: bool) -> Iterator[tuple[Mailbox, int, list[bytes]]]:
    """A mail server that wants TLS and the password "swordfish"."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate[1], certificate[0])
    box, passwords = Mailbox(), []

    def check(_: Any, __: Any, ___: Any, mechanism: str, login: Any) -> AuthResult:
        passwords.append(login.password)
        return AuthResult(success=login.password == b"swordfish", handled=False)

    how: dict[str, Any] = {"ssl_context": context} if implicit else {"tls_context": context, "require_starttls": True}
    more: dict[str, Any] = {"authenticator": check, "auth_required": True, "auth_require_tls": not implicit}
    controller = FreePort(box, hostname="127.0.0.1", port=0, **how, **more)
    controller.start()
    try:
        yield box, controller.server.sockets[0].getsockname()[1], passwords
    finally:
        controller.stop()


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # the library sees no TLS from the start
@pytest.mark.parametrize("security", ["tls", "starttls"])
async def test_a_password_goes_over_tls_only_and_into_no_log(
    engine: AlertEngine,
    clock: Clock,
    certificate: tuple[Path, Path],
    tmp_path: Path,
    security: str,
) -> None:
    """The server's certificate is checked first; a wrong password is a failure that does not quote it."""
    (tmp_path / "password").write_text("swordfish\n")
    with a_tls_mail_server(certificate, implicit=security == "tls") as (box, port, passwords):
        login = {"security": security, "user": "hub", "password_file": str(tmp_path / "password")}
        trusting = an_email(port, ca_file=str(certificate[1]), **login)
        notification = await a_notification(engine, trusting)
        with structlog.testing.capture_logs() as logs:
            await make(trusting, now_us=clock).deliver(notification)
        assert (len(box.mails), passwords, logs) == (1, [b"swordfish"], [])
        untrusting = an_email(port, **login)
        assert "SSLCertVerificationError" in await failure(make(untrusting, now_us=clock), notification)
        assert len(passwords) == 1
        (tmp_path / "password").write_text("shark")
        said = await failure(make(trusting, now_us=clock), notification)
        assert said == "the mail server answered 535: SMTPAuthenticationError"


CALLS: list[dict[str, Any]] = []
RELEASE = threading.Event()


def takes(notification: dict[str, Any]) -> None:
    """A callable that works."""
    CALLS.append(notification)


def breaks(_: dict[str, Any]) -> None:
    """A callable that raises."""
    raise ValueError("swordfish")


def hangs(_: dict[str, Any]) -> None:
    """A callable that hangs."""
    RELEASE.wait()


@pytest.fixture
def callables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import sys

    monkeypatch.setitem(sys.modules, "callables_under_test", sys.modules[__name__])
    CALLS.clear()
    RELEASE.clear()
    yield
    RELEASE.set()


async def test_a_python_callable_is_called_and_may_break_or_hang(
    engine: AlertEngine, clock: Clock, callables: None
) -> None:
    """It gets the dictionary; what it raises is named and not quoted; while it hangs it is not called again."""

    def config(name: str, seconds: float = 5.0) -> AlertHandler:
        return a_handler(seconds, python={"callable": f"callables_under_test:{name}"})

    notification = await a_notification(engine, config("takes"))
    await make(config("takes"), now_us=clock).deliver(notification)
    assert [as_dictionary(notification)] == CALLS
    for name, sentence in (
        ("breaks", "callables_under_test:breaks raised ValueError"),
        ("absent", "callables_under_test:absent cannot be imported: AttributeError"),
        ("CALLS", "callables_under_test:CALLS is not callable"),
    ):
        assert await failure(make(config(name), now_us=clock), notification) == sentence
    hanging = make(config("hangs", 0.05), now_us=clock)
    assert await failure(hanging, notification) == "no return within 0.05 s"
    assert await failure(hanging, notification) == "an earlier call has not returned yet"


async def test_alertmanager_gets_what_its_api_wants(engine: AlertEngine, clock: Clock) -> None:
    """An escalation ends the alert of the old severity, since severity is one of its labels."""
    async with a_web_server() as web:
        config = a_handler(alertmanager={"url": web.url.removesuffix("/hook")})
        notification = await a_notification(engine, config)
        handler = make(config, now_us=clock)
        assert isinstance(handler, Alertmanager)
        await handler.deliver(notification)
        await engine.took("ops", notification)
        clock.forward(30)
        await engine.observe([a_condition(severity=Severity.CRITICAL)])
        (escalated,) = engine.due("ops")
        await handler.deliver(escalated)
        await handler.close()
    first, second = (json.loads(request.body) for request in web.received)
    assert web.received[0].path == "/api/v2/alerts"
    assert first[0]["labels"] == {
        "alertname": "FeatureDrift",
        "type": "feature_drift",
        "severity": "high",
        "priority": "P1",
        "family": "dispatch",
        "feature": "distance",
    }
    assert (first[0]["startsAt"], first[0]["endsAt"]) == ("2023-11-14T22:13:20.000000Z", "2023-11-14T22:17:20.000000Z")
    assert [(one["labels"]["severity"], one["endsAt"]) for one in second] == [
        ("high", "2023-11-14T22:13:50.000000Z"),
        ("critical", "2023-11-14T22:17:50.000000Z"),
    ]


async def test_the_log_says_it_by_severity(engine: AlertEngine, clock: Clock) -> None:
    """An error for what is high; info for what is over."""
    config = a_handler(log={})
    handler = make(config, now_us=clock)
    with structlog.testing.capture_logs() as logs:
        notification = await a_notification(engine, config)
        await handler.deliver(notification)
        await engine.took("ops", notification)
        await engine.observe([a_condition(Verdict.CLEAR)])
        await handler.deliver(engine.due("ops")[0])
    assert [(line["log_level"], line["news"]) for line in logs] == [("error", "fired"), ("info", "resolved")]


class Deaf:
    """A handler that fails as often as told."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.took: list[str] = []

    async def deliver(self, notification: Notification) -> None:
        if self.failures:
            self.failures -= 1
            raise DeliveryFailed("not now")
        self.took.append(notification.key)

    async def close(self) -> None:
        return


def a_worker(engine: AlertEngine, handler: Handler, clock: Clock, give_up_seconds: float = 3600) -> Worker:
    return Worker(
        "ops",
        handler,
        engine,
        attempt_seconds=5,
        give_up_seconds=give_up_seconds,
        metrics=AlertMetrics(CollectorRegistry()),
        clock=clock.seconds,
        now_us=clock,
        chance=lambda: 1.0,
    )


async def test_attempts_come_at_growing_distances_until_it_works(engine: AlertEngine, clock: Clock) -> None:
    """1, 2, 4, 8 s; between them nothing is tried; in the end it arrives once."""
    engine.set_audiences({"ops": audience_of(a_handler(log={}))})
    handler = Deaf(4)
    worker = a_worker(engine, handler, clock)
    await engine.observe([a_condition()])
    for wait in (1, 2, 4, 8):
        await worker.round()
        clock.forward(wait - 0.1)
        await worker.round()
        assert handler.took == []
        clock.forward(0.1)
    assert worker.waiting == 1
    await worker.round()
    await worker.round()
    assert (len(handler.took), worker.waiting, worker.tally.failed, worker.tally.last_error) == (1, 0, 4, "")


async def test_a_notification_is_given_up_at_last_and_the_next_is_tried(engine: AlertEngine, clock: Clock) -> None:
    """After its time it is logged and counted; new news of the same alert goes out."""
    engine.set_audiences({"ops": audience_of(a_handler(log={}))})
    handler = Deaf(2)
    worker = a_worker(engine, handler, clock, give_up_seconds=60)
    await engine.observe([a_condition()])
    await worker.round()
    clock.forward(60)
    await worker.round()
    assert (worker.tally.given_up, worker.waiting) == (1, 0)
    await engine.observe([a_condition(Verdict.CLEAR)])
    await worker.round()
    assert len(handler.took) == 1


async def test_one_bad_group_keeps_no_other_waiting(engine: AlertEngine, clock: Clock) -> None:
    """The group that fails waits; the next group goes out in the same round."""
    engine.set_audiences({"ops": audience_of(a_handler(log={}))})
    handler = Deaf(1)
    worker = a_worker(engine, handler, clock)
    await engine.observe([a_condition(), a_condition(kind=AlertType.DATA_QUALITY)])
    await worker.round()
    assert (len(handler.took), worker.waiting) == (1, 1)


async def test_a_look_that_breaks_does_not_end_the_worker(engine: AlertEngine, clock: Clock) -> None:
    """Whatever goes wrong between engine and handler is logged; the next look hands over what is due."""
    engine.set_audiences({"ops": audience_of(a_handler(log={}))})
    handler = Deaf(0)
    worker = a_worker(engine, handler, clock)
    looked = asyncio.Event()
    due, broken = engine.due, [True]

    def due_again(name: str) -> list[Notification]:
        if broken.pop() if broken else False:
            looked.set()
            raise RuntimeError("a fault of ours")
        return due(name)

    with pytest.MonkeyPatch.context() as patch, structlog.testing.capture_logs() as logs:
        patch.setattr(engine, "due", due_again)
        running = asyncio.create_task(worker.run())
        async with asyncio.timeout(10):
            await looked.wait()
            await engine.observe([a_condition()])
            while not handler.took:
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["alerts could not be handed over"]


async def test_a_handler_that_hangs_blocks_no_other_and_loses_nothing(engine: AlertEngine, clock: Clock) -> None:
    """Two webhooks, one that hangs: the other hears at once, and the first after it was mended."""
    deliveries = Deliveries(
        engine,
        metrics=AlertMetrics(CollectorRegistry()),
        clock=asyncio.get_running_loop().time,
        now_us=clock,
        chance=lambda: 0.0,
    )
    async with a_web_server(hang) as bad, a_web_server() as good, a_web_server() as mended:
        await deliveries.configure(
            {"bad": a_handler(30, webhook={"url": bad.url}), "good": a_handler(webhook={"url": good.url})}
        )
        await engine.observe([a_condition()])
        async with asyncio.timeout(10):
            await good.arrived.wait()
            await bad.arrived.wait()
        await deliveries.configure(
            {"bad": a_handler(webhook={"url": mended.url}), "good": a_handler(webhook={"url": good.url})}
        )
        async with asyncio.timeout(10):
            await mended.arrived.wait()
            while any(status.worker.waiting for status in deliveries.status()):
                await asyncio.sleep(0.01)
        assert [(status.name, status.kind) for status in deliveries.status()] == [
            ("bad", "webhook"),
            ("good", "webhook"),
        ]
        await deliveries.close()
    assert len(good.received) == len(mended.received) == 1
    assert good.received[0].headers["idempotency-key"] == mended.received[0].headers["idempotency-key"]
