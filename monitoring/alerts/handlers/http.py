"""A POST that follows no redirect, reads a bounded answer, uses no proxy of the environment, and ends in time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import httpx

from monitoring.alerts.handlers.handler import DeliveryFailed

MAX_ANSWER_BYTES: Final = 65_536


class Poster:
    """Posts to others' servers over its own connections.

    Args:
        seconds: how long a whole attempt may take.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._client = httpx.AsyncClient(
            follow_redirects=False,
            trust_env=False,
            timeout=seconds,
            limits=httpx.Limits(max_connections=2, max_keepalive_connections=1, keepalive_expiry=30),
        )

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Posts a body; any answer of 200 to 299 means that it arrived.

        Raises:
            DeliveryFailed: there was no answer in time, or another one.
        """
        try:
            async with asyncio.timeout(self._seconds):
                async with self._client.stream("POST", url, content=body, headers=dict(headers)) as answer:
                    await _read(answer)
        except TimeoutError:
            raise DeliveryFailed(f"no answer within {self._seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            # The error's own text may hold the URL, and the URL a secret.
            raise DeliveryFailed(f"the connection failed: {type(error).__name__}") from None
        if answer.is_redirect:
            raise DeliveryFailed(f"answered {answer.status_code}, a redirect, which is not followed")
        if not answer.is_success:
            raise DeliveryFailed(f"answered {answer.status_code}")

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()


async def _read(answer: httpx.Response) -> None:
    """Reads the answer, so that the connection can be used again, and no more than 64 KiB of it."""
    size = 0
    async for chunk in answer.aiter_raw():
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            return
