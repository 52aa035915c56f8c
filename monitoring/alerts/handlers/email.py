"""An e-mail over SMTP, with TLS from the start, with STARTTLS, or (without credentials) in the clear."""

from __future__ import annotations

import hashlib
import smtplib
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any, Final

import structlog

from monitoring.alerts.handlers.handler import DeliveryFailed, read_secret
from monitoring.alerts.handlers.payload import as_lines, headline
from monitoring.alerts.handlers.thread import OneThread
from monitoring.alerts.telling import Notification
from services.runtime.monitoring_config import EmailHandler

_MAX_SUBJECT: Final = 200
_log: Final[Any] = structlog.get_logger(__name__)


class Email:
    """Sends notifications to all recipients at once.

    Args:
        config: server, sender, recipients.
        seconds: how long an attempt may take.
        now_us: microseconds since 1970-01-01T00:00Z, for the date.
    """

    def __init__(self, config: EmailHandler, *, seconds: float, now_us: Callable[[], int]) -> None:
        self._config = config
        self._seconds = seconds
        self._now_us = now_us
        self._thread = OneThread("alert-email")

    async def deliver(self, notification: Notification) -> None:
        """Sends it; one recipient who takes it is enough, refused ones are logged.

        Raises:
            DeliveryFailed: the password cannot be read, or the server did not take it.
        """
        message = compose(self._config, notification, self._now_us())
        password = read_secret(self._config.password_env, self._config.password_file)
        try:
            await self._thread.run(lambda: self._send(message, password), self._seconds)
        except smtplib.SMTPRecipientsRefused:
            raise DeliveryFailed("the mail server refused every recipient") from None
        except smtplib.SMTPResponseException as error:
            # The server's own text may repeat what was sent; its code does not.
            raise DeliveryFailed(f"the mail server answered {error.smtp_code}: {type(error).__name__}") from None
        except (smtplib.SMTPException, OSError, ValueError) as error:
            raise DeliveryFailed(f"the mail could not be sent: {type(error).__name__}") from None

    async def close(self) -> None:
        """Nothing to let go of: each attempt has its own connection."""

    def _send(self, message: EmailMessage, password: str) -> None:
        config = self._config
        with self._connected() as server:
            if config.security == "starttls":
                server.starttls(context=_tls(config))
            if config.user:
                server.login(config.user, password)
            refused = server.send_message(message)
        if refused:
            _log.warning("some recipients were refused", refused=len(refused), recipients=len(config.recipients))

    def _connected(self) -> smtplib.SMTP:
        config, seconds = self._config, self._seconds
        if config.security == "tls":
            return smtplib.SMTP_SSL(config.host, config.port_in_use, timeout=seconds, context=_tls(config))
        return smtplib.SMTP(config.host, config.port_in_use, timeout=seconds)


def compose(config: EmailHandler, notification: Notification, now_us: int) -> EmailMessage:
    """Gives the message; its Message-ID is the same for the same news, so that repeated attempts are one mail."""
    message = EmailMessage()
    subject = headline(notification)
    message["Subject"] = subject if len(subject) <= _MAX_SUBJECT else f"{subject[: _MAX_SUBJECT - 1]}…"
    message["From"] = config.sender
    message["To"] = ", ".join(config.recipients)
    message["Date"] = format_datetime(datetime.fromtimestamp(now_us / 1e6, UTC))
    message["Message-ID"] = f"<{notification.key}@turnout.invalid>"
    thread = hashlib.sha256(notification.group.encode()).hexdigest()[:32]
    message["References"] = f"<{thread}@turnout.invalid>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content("\n".join(as_lines(notification)) + "\n")
    return message


def _tls(config: EmailHandler) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=config.ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
