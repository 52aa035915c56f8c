"""What a handler is, and what it may say when it fails."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Protocol

from monitoring.alerts.telling import Notification

MAX_SECRET_BYTES: Final = 4096


class DeliveryFailed(Exception):
    """An attempt failed. Its one sentence is shown to operators and has nothing secret in it."""


class Handler(Protocol):
    """Takes notifications, one at a time. The same key may come again: then it is the same news."""

    async def deliver(self, notification: Notification) -> None:
        """Hands a notification on.

        Raises:
            DeliveryFailed: it did not arrive, or nobody can tell.
        """

    async def close(self) -> None:
        """Lets go of connections."""


def read_secret(variable: str, path: str) -> str:
    """Reads a secret anew, so that it can be changed while the hub runs; "" where none is configured.

    Args:
        variable: name of an environment variable, or "".
        path: path of a file, or ""; white space around its text is left out.

    Raises:
        DeliveryFailed: it is not there, too long, or has line breaks in it.
    """
    if variable:
        text, place = os.environ.get(variable, ""), f"the environment variable {variable}"
    elif path:
        place = f"the file {path}"
        try:
            with Path(path).open("rb") as file:
                text = file.read(MAX_SECRET_BYTES + 1).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DeliveryFailed(f"{place} cannot be read: {type(error).__name__}") from None
    else:
        return ""
    secret = text.strip()
    if not secret or len(text) > MAX_SECRET_BYTES or not secret.isprintable():
        raise DeliveryFailed(f"{place} must hold one line of 1 to {MAX_SECRET_BYTES} characters")
    return secret
