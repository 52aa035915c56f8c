"""Calls as a dispatch service makes them: paced, with ids of their own, each answer timed and kept to be looked up."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from turnout.v1 import prediction_pb2

DEADLINE_SECONDS = 0.5
GRACE_SECONDS = 0.005
GIVE_UP_SECONDS = 10.0
RETRY_SECONDS = 0.1
RETRY_FOR_SECONDS = 300.0
MOST_UNDER_WAY = 512
STALL_SECONDS = 0.02
WAIT_SECONDS = 0.005
BEFORE_SECONDS = 1.0
NUMBERS = {
    "severity": 4.0,
    "distance_km": 2.5,
    "availability": 0.6,
    "response_time_min": 6.5,
    "expertise": 0.8,
    "patient_age": 67.0,
    "total_paramedics": 2.0,
    "senior_ratio": 0.5,
    "average_satisfaction": 4.2,
    "hour": 17.0,
    "weekday": 4.0,
}
_TRYABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)


class Watch:
    """Notices when this machine does not run what it should.

    A thread wants to wake every 2 ms, the driver's loop every 5 ms, and an echo server beside the platform wants to
    answer every 20 ms; what goes over 20 ms is a stall. So is the time for which the kernel let the routers' main
    threads wait for a processor (schedstat), from 5 ms in 20. A call is late by the machine when the stalls during it,
    or in the second before it, from which work may have been left over, make up for all that it was late; every other
    late call is the platform's.
    """

    def __init__(self, echo: str | None = None, routers: Callable[[], Sequence[int]] = tuple) -> None:
        self._routers = routers
        self._stalls: list[tuple[float, float]] = []
        self._echo = echo
        self._stopping = threading.Event()

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Watches until the block ends."""
        thread = threading.Thread(target=self._thread, daemon=True)
        thread.start()
        tasks = [asyncio.create_task(self._beat())]
        tasks.append(asyncio.create_task(self._look_at_routers()))
        if self._echo is not None:
            tasks.append(asyncio.create_task(self._ask(self._echo)))
        try:
            yield
        finally:
            self._stopping.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            thread.join()

    def stalled(self, begin: float, end: float) -> float:
        """Gives the seconds between two instants during which something that should have run did not."""
        total, reached = 0.0, begin
        for first, last in sorted(self._stalls):
            total += max(0.0, min(end, last) - max(reached, first))
            reached = max(reached, min(end, last))
        return total

    def explains(self, begin: float, end: float) -> bool:
        """Tells whether stalls make up for all that a call was late."""
        return self.stalled(begin - BEFORE_SECONDS, end) >= end - begin - DEADLINE_SECONDS - GRACE_SECONDS

    def _note(self, since: float, wanted: float) -> None:
        now = time.monotonic()
        if now - since - wanted > STALL_SECONDS:
            self._stalls.append((since + wanted, now))

    def _thread(self) -> None:
        while not self._stopping.is_set():
            asleep = time.monotonic()
            time.sleep(0.002)
            self._note(asleep, 0.002)

    async def _beat(self) -> None:
        while True:
            asleep = time.monotonic()
            await asyncio.sleep(0.005)
            self._note(asleep, 0.005)

    async def _look_at_routers(self) -> None:
        known: dict[int, float] = {}
        while True:
            for pid in self._routers():
                waited = _waited_seconds(pid)
                for_this = waited - known.get(pid, waited)
                known[pid] = waited
                if for_this > WAIT_SECONDS:
                    now = time.monotonic()
                    self._stalls.append((now - for_this, now))
            await asyncio.sleep(0.02)

    async def _ask(self, address: str) -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            call: Any = channel.unary_unary("/bench.Echo/Echo")
            while True:
                asked = time.monotonic()
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await call(b"", timeout=5, wait_for_ready=True)
                self._note(asked, 0.0)
                await asyncio.sleep(0.02)


def _waited_seconds(pid: int) -> float:
    """Gives for how long a process's main thread was ready to run and did not (proc(5), schedstat)."""
    try:
        return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


@dataclass
class Traffic:
    """What callers saw."""

    prefix: str
    calls: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    late: list[tuple[float, float]] = field(default_factory=list)
    """Begin and end of calls that took longer than deadline and grace."""
    latencies: list[float] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)
    fallbacks: Counter[str] = field(default_factory=Counter)
    answered: set[str] = field(default_factory=set)
    durable: set[str] = field(default_factory=set)
    by_model: list[float] = field(default_factory=list)
    """When the model answered."""
    shut: list[float] = field(default_factory=list)
    """When a breaker that was open made the rules answer."""
    channels: dict[str, grpc.aio.Channel] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    """Of the calls; several runs share them."""

    async def run(
        self,
        addresses: Callable[[], Sequence[str]],
        calls: int,
        rate: float,
        *,
        retry: bool = False,
        at: dict[float, Callable[[], Any]] | None = None,
    ) -> None:
        """Makes the calls at a steady rate; at shares of them (0 to 1) does what `at` says."""
        events = sorted((at or {}).items())
        under_way: set[asyncio.Task[None]] = set()
        started = time.monotonic()
        for number in range(calls):
            while events and number >= events[0][0] * calls:
                await events.pop(0)[1]()
            await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
            while len(under_way) >= MOST_UNDER_WAY:
                await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.create_task(self._call(addresses, f"{self.prefix}-{next(self.numbers)}", retry=retry))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        if under_way:
            await asyncio.wait(under_way)
        for _, event in events:
            await event()

    async def close(self) -> None:
        """Closes the connections."""
        for channel in self.channels.values():
            await channel.close()

    async def _call(self, addresses: Callable[[], Sequence[str]], decision_id: str, *, retry: bool) -> None:
        self.calls += 1
        request = prediction_pb2.PredictRequest(
            family="dispatch", decision_id=decision_id, unit_id=f"unit-{decision_id}", numbers=NUMBERS
        )
        request.numbers["severity"] = 1 + self.calls % 5
        give_up = time.monotonic() + RETRY_FOR_SECONDS
        attempt = hash(decision_id)
        while True:
            known = addresses()
            begin = time.monotonic()
            try:
                answer = await self._ask(known[attempt % len(known)], request)
            except grpc.aio.AioRpcError as error:
                if retry and error.code() in _TRYABLE and time.monotonic() < give_up:
                    self.retries += 1
                    attempt += 1
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                details = re.sub(r"\d+|'[^']*'", "…", error.details() or "")
                self.errors[f"{error.code().name} ({details[:160]})"] += 1
            except TimeoutError:
                self.errors["no answer"] += 1
            else:
                self._note(answer, decision_id, begin, time.monotonic())
            return

    async def _ask(self, address: str, request: prediction_pb2.PredictRequest) -> prediction_pb2.PredictResponse:
        channel = self.channels.get(address)
        if channel is None:
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 200)]
            channel = self.channels[address] = grpc.aio.insecure_channel(address, options=options)
        call: Any = channel.unary_unary(
            "/turnout.v1.PredictionService/Predict",
            request_serializer=prediction_pb2.PredictRequest.SerializeToString,
            response_deserializer=prediction_pb2.PredictResponse.FromString,
        )
        # The family's deadline of 500 ms holds; none is set here, so that a late answer is seen and timed.
        async with asyncio.timeout(GIVE_UP_SECONDS):
            return await call(request)

    def _note(self, answer: prediction_pb2.PredictResponse, decision_id: str, begin: float, end: float) -> None:
        assert answer.decision_id == decision_id
        self.answered.add(decision_id)
        if answer.durability == prediction_pb2.DURABILITY_DURABLE:
            self.durable.add(decision_id)
        self.latencies.append(end - begin)
        self.served[answer.served_variant] += 1
        self.fallbacks[prediction_pb2.FallbackReason.Name(answer.fallback).removeprefix("FALLBACK_REASON_")] += 1
        if end - begin > DEADLINE_SECONDS + GRACE_SECONDS:
            self.late.append((begin, end))
        if answer.fallback == prediction_pb2.FALLBACK_REASON_BREAKER_OPEN:
            self.shut.append(end)
        if answer.served_variant != "rules":
            self.by_model.append(end)
