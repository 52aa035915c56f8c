"""Callers who open streams and do not read them: short calls come through, and who does not read is ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from services.runtime import unread as unread_streams
from services.runtime.admission import Admission
from services.runtime.call import Call
from services.runtime.grpc_binding import bind
from services.runtime.serving import serving
from turnout.v1 import ledger_pb2

LEDGER = ledger_pb2.DESCRIPTOR.services_by_name["LedgerService"]


class Endless:
    """A ledger whose list never ends."""

    async def append_records(
        self, request: ledger_pb2.AppendRecordsRequest, call: Call
    ) -> ledger_pb2.AppendRecordsResponse:
        del request, call
        return ledger_pb2.AppendRecordsResponse(stored=1)

    async def list_decisions(
        self, request: ledger_pb2.ListDecisionsRequest, call: Call
    ) -> AsyncIterator[ledger_pb2.ListDecisionsResponse]:
        del request, call
        decision = ledger_pb2.Decision(unit_id="u" * 65_536)
        while True:
            yield ledger_pb2.ListDecisionsResponse(entries=[ledger_pb2.LedgerEntry(decision=decision)])
            await asyncio.sleep(0)

    find_decisions = list_snapshots = summarize_arms = append_records


@contextlib.asynccontextmanager
async def _channel(streams: Admission) -> AsyncIterator[grpc.aio.Channel]:
    handler = bind(LEDGER, Endless(), admission=Admission(2), streams=streams)
    async with (
        serving(lambda _: [handler], "127.0.0.1:0", drain_seconds=0.1) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.address.rpartition(':')[2]}") as channel,
    ):
        yield channel


def _listing(channel: grpc.aio.Channel) -> Any:
    method: Any = channel.unary_stream(f"/{LEDGER.full_name}/ListDecisions")
    return method(b"")


async def _read_to_the_end(listing: Any) -> None:
    while await listing.read():
        pass


async def _append(channel: grpc.aio.Channel) -> bytes:
    method: Any = channel.unary_unary(f"/{LEDGER.full_name}/AppendRecords")
    answer: bytes = await method(b"")
    return answer


async def test_streams_that_nobody_reads_keep_no_short_call_out() -> None:
    """They fill their own room, and one more stream hears that it is full."""
    async with asyncio.timeout(10), _channel(Admission(4)) as channel:
        unread = [_listing(channel) for _ in range(4)]
        for one in unread:
            await one.read()
        assert ledger_pb2.AppendRecordsResponse.FromString(await _append(channel)).stored == 1
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await _listing(channel).read()
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for one in unread:
            one.cancel()


async def test_a_stream_that_nobody_reads_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while, and its place is free again; one that is read goes on."""
    monkeypatch.setattr(unread_streams, "UNREAD_SECONDS", 0.3)
    room = Admission(2)
    async with asyncio.timeout(10), _channel(room) as channel:
        unread, read = _listing(channel), _listing(channel)
        for both in (unread, read):
            await both.read()
        while room.under_way == 2:
            await read.read()
        assert len(await read.read()) > 65_536
        # What is on its way is still there to be read; after it comes the end, which is an error.
        with pytest.raises(grpc.aio.AioRpcError, match="not read in time"):
            await _read_to_the_end(unread)
        read.cancel()
