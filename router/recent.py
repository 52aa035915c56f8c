"""Decisions of the last minutes, in bounded memory: to answer a repeated id, and to know an outcome's decision."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from services.runtime.errors import AlreadyExists
from turnout.v1 import prediction_pb2

ANSWERS_SHARE: Final = 0.2
"""Share of the remembered decisions whose whole answer is kept too."""


@dataclass(slots=True)
class Entry:
    """A decision under a caller's own id: the digest of its body, and its answer once there is one."""

    digest: bytes
    answer: bytes | None = None
    """Serialized: a fifth of the memory of a message."""
    waiting: asyncio.Future[prediction_pb2.PredictResponse] | None = None


class RecentDecisions:
    """The newest decisions by (tenant, decision id), the oldest forgotten first.

    Beyond this memory the ledger keeps the promise: it stores the first decision of an id and sets aside a second one
    with another body.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._answers_limit = max(1000, int(limit * ANSWERS_SHARE))
        self._families: dict[str, str] = {}
        self._entries: dict[str, Entry] = {}

    @property
    def entries(self) -> int:
        """Callers' own ids that are remembered, with their answers or under way."""
        return len(self._entries)

    def family_of(self, tenant: str, decision_id: str) -> str | None:
        """Gives the family of a decision; None when it is not remembered."""
        return self._families.get(_key(tenant, decision_id))

    def remember(self, tenant: str, decision_id: str, family: str) -> None:
        """Notes an answered decision."""
        families = self._families
        families[_key(tenant, decision_id)] = family
        if len(families) > self._limit:
            self._forget()

    def remember_all(self, tenant: str, decision_ids: Iterable[str], family: str) -> None:
        """Notes many answered decisions."""
        families, prefix = self._families, _key(tenant, "")
        for decision_id in decision_ids:
            families[prefix + decision_id] = family
        if len(families) > self._limit:
            self._forget()

    def _forget(self) -> None:
        # In runs, so that the cost of skipping deleted slots at the front is paid rarely.
        families = self._families
        for key in list(islice(families, max(self._limit // 20, len(families) - self._limit))):
            del families[key]

    def claim(self, tenant: str, decision_id: str, digest: bytes) -> Entry | None:
        """Takes a caller's id for a new decision (None), or gives the entry of the same decision.

        Raises:
            AlreadyExists: the id was used with another body.
        """
        key = _key(tenant, decision_id)
        entry = self._entries.get(key)
        if entry is None:
            self._entries[key] = Entry(digest)
            if len(self._entries) > self._answers_limit:
                for old in [k for k, e in islice(self._entries.items(), self._answers_limit // 20) if e.answer]:
                    del self._entries[old]
            return None
        if entry.digest != digest:
            message = f"decision_id {decision_id!r} was already used with other content; give each decision its own id"
            raise AlreadyExists("decision_id", message)
        return entry

    def release(self, tenant: str, decision_id: str) -> None:
        """Gives up a claimed id whose decision was not made."""
        self._entries.pop(_key(tenant, decision_id), None)

    def settle(self, tenant: str, decision_id: str, answer: prediction_pb2.PredictResponse) -> None:
        """Keeps the answer under a claimed id and hands it to whoever waits for it."""
        entry = self._entries.get(_key(tenant, decision_id))
        if entry is None:
            return
        entry.answer = answer.SerializeToString()
        if entry.waiting is not None and not entry.waiting.done():
            entry.waiting.set_result(answer)
            entry.waiting = None

    def restore(
        self, tenant: str, decision_id: str, family: str, digest: bytes, answer: prediction_pb2.PredictResponse
    ) -> None:
        """Remembers a decision that an earlier process of this router made."""
        self.remember(tenant, decision_id, family)
        if digest:
            self._entries[_key(tenant, decision_id)] = Entry(digest, answer.SerializeToString())


def _key(tenant: str, decision_id: str) -> str:
    # One text costs a third less memory than a tuple of two; tenants' names hold no slash.
    return f"{tenant}/{decision_id}"


async def answer_of(entry: Entry, seconds: float) -> prediction_pb2.PredictResponse | None:
    """Gives a repeated call its answer, waiting for the first call when it is still under way; None in `seconds`."""
    if entry.answer is not None:
        return prediction_pb2.PredictResponse.FromString(entry.answer)
    waiting = entry.waiting
    if waiting is None:
        waiting = entry.waiting = asyncio.get_running_loop().create_future()
    # Unlike wait_for, this leaves the future to the others who wait.
    await asyncio.wait((waiting,), timeout=max(seconds, 0.0))
    return waiting.result() if waiting.done() else None
