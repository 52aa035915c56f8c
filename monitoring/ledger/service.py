"""LedgerService without its transport: checks every field, then asks the store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Final, TypeVar

from monitoring.ledger import reading
from monitoring.ledger.store import Store
from services.runtime.call import Call
from services.runtime.deadlines import in_time
from services.runtime.errors import InvalidArgument, Unavailable
from services.runtime.identifiers import MAX_ID, check_stored_text
from turnout.v1 import ledger_pb2

MAX_RECORDS: Final = 5000
MAX_IDS: Final = 1000
PAGE_ENTRIES: Final = 500
PAGE_SNAPSHOTS: Final = 200
PAGE_BYTES: Final = 1 << 20
LONGEST_CALL_SECONDS: Final = 30.0
_Entry = TypeVar("_Entry", ledger_pb2.LedgerEntry, ledger_pb2.ExperimentSnapshot)


class LedgerService:
    """turnout.v1.LedgerService.

    Args:
        store: the open ledger.
        stopping: tells whether the process drains; long listings end then.
        told: hears what a router says of its journal.
    """

    def __init__(
        self,
        store: Store,
        *,
        stopping: Callable[[], bool],
        told: Callable[[str, ledger_pb2.JournalStatus], None] = lambda _router, _journal: None,
    ) -> None:
        self._store = store
        self._stopping = stopping
        self._told = told

    async def append_records(
        self, request: ledger_pb2.AppendRecordsRequest, call: Call
    ) -> ledger_pb2.AppendRecordsResponse:
        """Stores a batch of journal records; answers when they are on stable storage.

        Raises:
            InvalidArgument: over 5 000 records, or a router name that is no text of at most 1 KiB.
            Unavailable: the database refused; the same batch is due again.
        """
        if len(request.records) > MAX_RECORDS:
            raise InvalidArgument(
                "records", f"records must be at most {MAX_RECORDS}, and there are {len(request.records)}"
            )
        check_stored_text("router", request.router)
        if request.router and request.HasField("journal"):
            self._told(request.router, request.journal)
        if not request.records:
            return ledger_pb2.AppendRecordsResponse()
        result = await in_time(
            self._store.append(request.records, request.router), call, longest_seconds=LONGEST_CALL_SECONDS
        )
        return ledger_pb2.AppendRecordsResponse(
            stored=result.stored, duplicates=result.repeated, set_aside=result.set_aside
        )

    async def find_decisions(
        self, request: ledger_pb2.FindDecisionsRequest, call: Call
    ) -> ledger_pb2.FindDecisionsResponse:
        """Tells which decisions of a tenant the ledger holds, and their families.

        Raises:
            InvalidArgument: no tenant, over 1 000 ids, or an id of over 128 characters.
        """
        if not request.tenant:
            raise InvalidArgument("tenant", "tenant must be named")
        check_stored_text("tenant", request.tenant)
        if len(request.decision_ids) > MAX_IDS:
            raise InvalidArgument(
                "decision_ids", f"decision_ids must be at most {MAX_IDS}, and there are {len(request.decision_ids)}"
            )
        for place, decision_id in enumerate(request.decision_ids):
            if len(decision_id) > MAX_ID or "\0" in decision_id:
                field = f"decision_ids[{place}]"
                raise InvalidArgument(field, f"{field} must be at most {MAX_ID} characters, none of them NUL")
        ids = list(request.decision_ids)
        found = await in_time(
            self._store.read(reading.find_families, request.tenant, ids), call, longest_seconds=LONGEST_CALL_SECONDS
        )
        return ledger_pb2.FindDecisionsResponse(
            known=[family is not None for family in found], families=[family or "" for family in found]
        )

    async def list_decisions(
        self, request: ledger_pb2.ListDecisionsRequest, call: Call
    ) -> AsyncIterator[ledger_pb2.ListDecisionsResponse]:
        """Streams decisions with their outcomes, oldest first, in pages of at most 500 entries and 1 MiB.

        Each page is one state of the ledger; what arrives meanwhile may appear on a later page.

        Raises:
            InvalidArgument: a field is over its bound.
            Unavailable: the hub stops; ask again from the last entry's instant.
        """
        _check_filter(request.family, request.since_unix_us)
        if request.until_unix_us < 0:
            raise InvalidArgument("until_unix_us", "until_unix_us must be at least 0")
        if len(request.decision_id) > MAX_ID:
            raise InvalidArgument("decision_id", f"decision_id must be at most {MAX_ID} characters")
        check_stored_text("decision_id", request.decision_id)
        left = request.limit or None
        after: reading.Position | None = None
        while left is None or left > 0:
            if self._stopping():
                raise Unavailable("", "the hub stops: ask again from the last entry's instant")
            count = PAGE_ENTRIES if left is None else min(PAGE_ENTRIES, left)
            page = self._store.read(
                reading.list_entries,
                family=request.family,
                decision_id=request.decision_id,
                since_us=request.since_unix_us,
                until_us=request.until_unix_us,
                after=after,
                count=count,
            )
            entries, after = await in_time(page, call, longest_seconds=LONGEST_CALL_SECONDS)
            for part in _pages(entries):
                yield ledger_pb2.ListDecisionsResponse(entries=part)
            if len(entries) < count:
                return
            left = None if left is None else left - len(entries)

    async def list_snapshots(
        self, request: ledger_pb2.ListSnapshotsRequest, call: Call
    ) -> AsyncIterator[ledger_pb2.ListSnapshotsResponse]:
        """Streams the experiments that were ever applied, oldest first, in pages of at most 200 and 1 MiB.

        Each page is one state of the ledger, as those of `list_decisions` are.

        Raises:
            InvalidArgument: a field is over its bound.
            Unavailable: the hub stops; ask again.
        """
        _check_filter(request.family, 0)
        after: reading.Place | None = None
        while True:
            if self._stopping():
                raise Unavailable("", "the hub stops: ask again")
            page = self._store.read(reading.list_snapshots, request.family, after, PAGE_SNAPSHOTS)
            found, after = await in_time(page, call, longest_seconds=LONGEST_CALL_SECONDS)
            for part in _pages(found):
                yield ledger_pb2.ListSnapshotsResponse(snapshots=part)
            if after is None:
                return

    async def summarize_arms(
        self, request: ledger_pb2.SummarizeArmsRequest, call: Call
    ) -> ledger_pb2.SummarizeArmsResponse:
        """Gives the results of a family's arms so far; a family that nobody asked about has none.

        Raises:
            InvalidArgument: no family.
        """
        if not request.family:
            raise InvalidArgument("family", "family must be named")
        _check_filter(request.family, request.since_unix_us)
        return await in_time(
            self._store.read(reading.summarize, request.family, request.since_unix_us),
            call,
            longest_seconds=LONGEST_CALL_SECONDS,
        )


def _check_filter(family: str, since_us: int) -> None:
    check_stored_text("family", family)
    if since_us < 0:
        raise InvalidArgument("since_unix_us", "since_unix_us must be at least 0")


def _pages(entries: Sequence[_Entry]) -> Iterator[list[_Entry]]:
    """Splits entries so that no page is over 1 MiB; an entry is far smaller than that."""
    page: list[_Entry] = []
    size = 0
    for entry in entries:
        bytes_of_entry = entry.ByteSize() + 8  # the field's tag and length
        if page and size + bytes_of_entry > PAGE_BYTES:
            yield page
            page, size = [], 0
        page.append(entry)
        size += bytes_of_entry
    if page:
        yield page
