"""A signed POST to a URL.

The signature is `Turnout-Signature: t=<unix seconds>,v1=<hex>` with the HMAC-SHA256 of "<t>.<body>" under the shared
secret: the receiver compares it in constant time and refuses a `t` that is older than a few minutes. `Idempotency-Key`
is equal for repeated attempts at the same news.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Final

from monitoring.alerts.handlers.handler import DeliveryFailed, read_secret
from monitoring.alerts.handlers.http import Poster
from monitoring.alerts.handlers.payload import as_dictionary, as_lines
from monitoring.alerts.telling import Notification
from services.runtime.monitoring_config import WebhookHandler, check_url

_MAX_SLACK_TEXT: Final = 3000


class Webhook:
    """Posts notifications.

    Args:
        config: where to, and how signed.
        seconds: how long an attempt may take.
        now_us: microseconds since 1970-01-01T00:00Z, for the signature.
    """

    def __init__(self, config: WebhookHandler, *, seconds: float, now_us: Callable[[], int]) -> None:
        self._config = config
        self._now_us = now_us
        self._poster = Poster(seconds)

    async def deliver(self, notification: Notification) -> None:
        """Posts it.

        Raises:
            DeliveryFailed: the secret cannot be read, or the server did not take it.
        """
        url = self._config.url or read_secret(self._config.url_env, self._config.url_file)
        try:
            check_url(url)
        except ValueError as error:
            raise DeliveryFailed(f"the URL cannot be used: {error}") from None
        body = self._body(notification)
        headers = {"content-type": "application/json", "idempotency-key": notification.key}
        if secret := read_secret(self._config.secret_env, self._config.secret_file):
            headers["turnout-signature"] = signature(secret, body, self._now_us() // 1_000_000)
        await self._poster.post(url, body, headers)

    async def close(self) -> None:
        """Closes the connections."""
        await self._poster.close()

    def _body(self, notification: Notification) -> bytes:
        match self._config.format:
            case "turnout":
                content = as_dictionary(notification)
            case "slack":
                content = {"text": slack_text(as_lines(notification))}
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def signature(secret: str, body: bytes, unix_seconds: int) -> str:
    """Gives the value of the header `Turnout-Signature`."""
    mac = hmac.new(secret.encode(), f"{unix_seconds}.".encode() + body, hashlib.sha256)
    return f"t={unix_seconds},v1={mac.hexdigest()}"


def slack_text(lines: list[str]) -> str:
    """Gives lines as Slack's mrkdwn, at most 3 000 characters; what would be its syntax is escaped."""
    escaped = [line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for line in lines]
    text = "\n".join((f"*{escaped[0]}*", *(f"• {line}" for line in escaped[1:])))
    return text if len(text) <= _MAX_SLACK_TEXT else f"{text[: _MAX_SLACK_TEXT - 1]}…"
