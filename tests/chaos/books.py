"""The books of a case: what callers were answered against what the ledger holds, and the router's own numbers."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import grpc

from turnout.v1 import ledger_pb2

WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Books:
    """The comparison."""

    lost: int
    """Answered calls whose decision is not in the ledger."""
    double: int
    """Decisions that the ledger lists or counts more than once."""
    extra: int
    """Decisions in the ledger of which no caller heard: answered on the wire, but not received."""


async def compare(hub: str, prefix: str, answered: set[str], *, absent: int = 0) -> Books:
    """Waits until the ledger has caught up (at most a minute; `absent` decisions never come), and compares."""
    async with grpc.aio.insecure_channel(hub, options=[("grpc.max_receive_message_length", 16 << 20)]) as channel:
        end = time.monotonic() + WAIT_SECONDS
        before = -1
        while True:
            decisions = await _summary(channel)
            if decisions is not None and decisions >= len(answered) - absent and decisions == before:
                break
            before = decisions if decisions is not None else -1
            if time.monotonic() > end:
                break
            await asyncio.sleep(0.5)
        found = await _decisions(channel)
    counted = Counter(found)
    mine = {one for one in counted if one.startswith(f"{prefix}-")}
    double = sum(times - 1 for times in counted.values()) + max(0, (decisions or 0) - len(counted))
    return Books(lost=len(answered - mine), double=double, extra=len(mine - answered))


async def _summary(channel: grpc.aio.Channel) -> int | None:
    call = channel.unary_unary(
        "/turnout.v1.LedgerService/SummarizeArms",
        request_serializer=ledger_pb2.SummarizeArmsRequest.SerializeToString,
        response_deserializer=ledger_pb2.SummarizeArmsResponse.FromString,
    )
    try:
        reply: ledger_pb2.SummarizeArmsResponse = await call(
            ledger_pb2.SummarizeArmsRequest(family="dispatch"), timeout=10, wait_for_ready=True
        )
    except grpc.aio.AioRpcError:
        return None
    return int(reply.decisions)


async def _decisions(channel: grpc.aio.Channel) -> list[str]:
    call = channel.unary_stream(
        "/turnout.v1.LedgerService/ListDecisions",
        request_serializer=ledger_pb2.ListDecisionsRequest.SerializeToString,
        response_deserializer=ledger_pb2.ListDecisionsResponse.FromString,
    )
    found: list[str] = []
    async for page in call(ledger_pb2.ListDecisionsRequest(), timeout=300, wait_for_ready=True):
        found += [entry.decision.decision_id for entry in page.entries]
    return found


@dataclass(frozen=True)
class RouterNumbers:
    """A router's gauges of its journal."""

    started: int
    stored: int
    pending: int
    set_aside: int

    @property
    def balanced(self) -> bool:
        """Whether they add up."""
        return self.started == self.stored + self.pending + self.set_aside


async def router_numbers(metrics: Iterable[str]) -> RouterNumbers:
    """Reads and adds up the numbers of routers, by the addresses of their metrics."""
    totals: Counter[str] = Counter()
    for address in metrics:
        text = await asyncio.to_thread(_read, f"http://{address}/metrics")
        for line in text.splitlines():
            if line.startswith("turnout_journal_records{"):
                state = line.split('"')[1]
                totals[state] += int(float(line.rpartition(" ")[2]))
    return RouterNumbers(totals["started"], totals["stored"], totals["pending"], totals["set_aside"])


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return bytes(answer.read()).decode()
