"""Laws of the micro-batcher: every call gets one right result, batches stay small, nothing waits for company."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.model_server.batching import Batcher, Limits, Queued
from services.runtime.errors import INTERNAL, DeadlineExceeded, ResourceExhausted

POISON = -1.0
ALWAYS_WORKER = -1.0


@dataclass
class Doubling:
    """An engine of one feature that doubles it, and raises on any batch with a poisoned row."""

    features: int = 1
    outputs: int = 1
    batches: list[int] = field(default_factory=list)

    def infer(self, packed: bytes | memoryview, rows: int) -> bytes:
        values = struct.unpack(f"<{rows}f", packed)
        self.batches.append(rows)
        if POISON in values:
            raise ArithmeticError("poisoned")
        return struct.pack(f"<{rows}f", *(2 * value for value in values))


@dataclass
class Collected:
    """A sink that keeps everything."""

    closed: bool = False
    answers: dict[int, tuple[float, ...]] = field(default_factory=dict)
    failures: dict[int, int] = field(default_factory=dict)

    def answer(self, call_id: int, rows: int, output: bytes) -> None:
        assert call_id not in self.answers
        assert call_id not in self.failures
        self.answers[call_id] = struct.unpack(f"<{rows}f", output)

    def fail(self, call_id: int, code: int, message: str) -> None:
        assert call_id not in self.answers
        assert call_id not in self.failures
        assert message
        self.failures[call_id] = code


@dataclass
class Seen:
    """An observer that counts."""

    answered: int = 0
    codes: list[int] = field(default_factory=list)
    errors: int = 0

    def ran(self, calls: int, rows: int, seconds: float) -> None:  # noqa: ARG002 - an Observer's form
        self.answered += calls

    def refused(self, code: int) -> None:
        self.codes.append(code)

    def broke(self, error: Exception) -> None:  # noqa: ARG002 - an Observer's form
        self.errors += 1


class Held(Executor):
    """A worker that runs what it was given when the test says so."""

    def __init__(self) -> None:
        self.work: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.work.append((future, lambda: fn(*args, **kwargs)))
        return future

    def step(self) -> None:
        future, work = self.work.pop(0)
        future.set_result(work())


@dataclass
class Bench:
    """A batcher with all its fakes; `now` is its clock."""

    inline_seconds: float = 1e9
    waiting_rows: int = 16_384
    now: float = 100.0
    engine: Doubling = field(default_factory=Doubling)
    seen: Seen = field(default_factory=Seen)
    worker: Held = field(default_factory=Held)

    def __post_init__(self) -> None:
        self.batcher = Batcher(
            self.engine,
            loop=asyncio.get_running_loop(),
            worker=self.worker,
            clock=lambda: self.now,
            observer=self.seen,
            limits=Limits(waiting_rows=self.waiting_rows, inline_seconds=self.inline_seconds),
        )

    def submit(self, sink: Collected, call_id: int, values: list[float], seconds: float = 1.0) -> None:
        packed = struct.pack(f"<{len(values)}f", *values)
        self.batcher.submit(Queued(call_id, len(values), packed, self.now + seconds, sink))


async def settled() -> None:
    """Lets the loop run what is due."""
    for _ in range(20):
        await asyncio.sleep(0)


CALLS = st.lists(st.lists(st.sampled_from([POISON, 0.0, 1.0, 2.5]), min_size=1, max_size=40), min_size=1, max_size=60)


@given(calls=CALLS, in_worker=st.booleans())
def test_every_call_gets_its_own_rows_answer_or_its_own_failure(calls: list[list[float]], *, in_worker: bool) -> None:
    """However calls were put together: neighbours of a poisoned call are answered all the same."""

    async def run() -> None:
        bench = Bench(inline_seconds=ALWAYS_WORKER if in_worker else 1e9)
        sink = Collected()
        for call_id, values in enumerate(calls):
            bench.submit(sink, call_id, values)
        await settled()
        while bench.worker.work:
            bench.worker.step()
            await settled()
        poisoned = {call_id for call_id, values in enumerate(calls) if POISON in values}
        assert sink.failures == dict.fromkeys(poisoned, INTERNAL)
        assert sink.answers == {
            call_id: tuple(2 * v for v in values) for call_id, values in enumerate(calls) if call_id not in poisoned
        }
        assert bench.batcher.waiting_rows == 0
        assert bench.seen.answered == len(sink.answers)
        assert bench.seen.errors == len(poisoned)
        largest_call = max(len(values) for values in calls)
        assert max(bench.engine.batches) <= max(32, largest_call)

    asyncio.run(run())


async def test_calls_that_meet_share_a_run_and_long_ones_run_alone() -> None:
    """32 rows at most are put together; a call over that is a run of its own."""
    bench, sink = Bench(), Collected()
    for call_id, count in enumerate([1, 1, 30, 1, 100, 31, 1]):
        bench.submit(sink, call_id, [1.0] * count)
    await settled()
    assert bench.engine.batches == [32, 1, 100, 32]


async def test_an_idle_batcher_never_waits() -> None:
    """One lonely call runs in the very next turn of the loop, on the loop, with no timer involved."""
    bench, sink = Bench(), Collected()
    bench.submit(sink, 7, [1.0])
    await asyncio.sleep(0)
    assert sink.answers == {7: (2.0,)}


async def test_while_a_run_lasts_the_others_collect() -> None:
    """What arrives during a run in the worker goes into the next one together, and the loop stays free."""
    bench, sink = Bench(inline_seconds=ALWAYS_WORKER), Collected()
    bench.submit(sink, 0, [1.0])
    await settled()
    for call_id in range(1, 6):
        bench.submit(sink, call_id, [1.0])
    await settled()
    assert len(bench.worker.work) == 1, "one run at a time"
    bench.worker.step()
    await settled()
    bench.worker.step()
    await settled()
    assert bench.engine.batches == [1, 5]
    assert len(sink.answers) == 6


async def test_a_slow_size_moves_to_the_worker_once_it_is_known() -> None:
    """The first run is inline; when it turns out slow the next of that size is handed over."""
    bench, sink = Bench(inline_seconds=0.002), Collected()
    infer = bench.engine.infer

    def slow(packed: bytes | memoryview, rows: int) -> bytes:
        bench.now += 0.01
        return infer(packed, rows)

    bench.engine.infer = slow  # type: ignore[method-assign] # the fake takes time on the fake clock
    bench.submit(sink, 0, [1.0])
    await settled()
    assert not bench.worker.work
    bench.submit(sink, 1, [1.0])
    await settled()
    assert len(bench.worker.work) == 1


async def test_a_call_whose_time_is_over_is_refused_and_not_run() -> None:
    """The deadline counts until the start of the run."""
    bench, sink = Bench(inline_seconds=ALWAYS_WORKER), Collected()
    bench.submit(sink, 0, [1.0])
    await settled()
    bench.submit(sink, 1, [1.0], seconds=0.5)
    bench.submit(sink, 2, [1.0], seconds=2.0)
    bench.now += 1.0
    bench.worker.step()
    await settled()
    bench.worker.step()
    await settled()
    assert sink.failures == {1: DeadlineExceeded.code}
    assert set(sink.answers) == {0, 2}
    assert bench.seen.codes == [DeadlineExceeded.code]


async def test_a_full_queue_refuses_and_recovers() -> None:
    """Rows, not calls, are bounded; once rows left the queue others may come."""
    bench, sink = Bench(inline_seconds=ALWAYS_WORKER, waiting_rows=10), Collected()
    bench.submit(sink, 0, [1.0] * 10)
    bench.submit(sink, 1, [1.0])
    assert sink.failures == {1: ResourceExhausted.code}
    await settled()
    bench.submit(sink, 2, [1.0] * 10)
    bench.submit(sink, 3, [1.0])
    assert sink.failures == {1: ResourceExhausted.code, 3: ResourceExhausted.code}
    for _ in range(2):
        bench.worker.step()
        await settled()
    assert set(sink.answers) == {0, 2}


async def test_calls_that_nobody_waits_for_are_dropped() -> None:
    """A stream that went away costs no run of the model."""
    bench, gone, here = Bench(), Collected(closed=True), Collected()
    bench.submit(gone, 0, [1.0])
    bench.submit(here, 1, [1.0])
    await settled()
    assert bench.engine.batches == [1]
    assert not gone.answers
    assert set(here.answers) == {1}


async def test_not_a_number_is_passed_on() -> None:
    """Whether an answer is valid is judged by the router, which knows the target."""
    bench, sink = Bench(), Collected()
    bench.submit(sink, 0, [float("nan")])
    await settled()
    assert str(sink.answers[0][0]) == "nan"


async def test_the_loop_gets_its_turns_under_a_flood() -> None:
    """Inline runs hold the loop for `inline_seconds` at most, then others go first."""
    bench, sink = Bench(inline_seconds=1e9), Collected()
    turns = 0

    async def other() -> None:
        nonlocal turns
        while len(sink.answers) < 320:
            turns += 1
            await asyncio.sleep(0)

    infer = bench.engine.infer

    def slow(packed: bytes | memoryview, rows: int) -> bytes:
        bench.now += 1e9
        return infer(packed, rows)

    bench.engine.infer = slow  # type: ignore[method-assign] # the fake takes time on the fake clock
    for call_id in range(320):
        bench.submit(sink, call_id, [1.0], seconds=1e12)
    await other()
    assert turns >= len(bench.engine.batches) == 10


@pytest.mark.parametrize("rows", [1, 2, 31, 32, 1000])
async def test_a_call_of_any_size_runs_at_once_when_it_comes_first(rows: int) -> None:
    """Up to the 1 000 rows that a call may have."""
    bench, sink = Bench(), Collected()
    bench.submit(sink, 0, [1.0] * rows)
    await settled()
    assert bench.engine.batches == [rows]
