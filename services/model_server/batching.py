"""Micro-batching: calls of all streams meet in one bounded queue and share runs of the model.

Nothing ever waits for company: an idle batcher runs what is there, and batches form by themselves out of what
arrives while one runs. A call that is a batch of its own (over `Limits.batch_rows`) runs alone. Small batches run on
the event loop, because a hand-over to a thread costs more than they take; slow ones run in a worker thread, so that
health checks keep being answered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final, Protocol

from services.model_server.engine import FLOAT_BYTES, Engine, Packed
from services.model_server.pace import Pace
from services.runtime.errors import INTERNAL, DeadlineExceeded, ResourceExhausted

_LATE: Final = "the call's time was over before it could start"
_FULL: Final = "the model server has too many rows waiting; try again"
_BROKEN: Final = "the model failed on this call; the server's log has the details"


class Sink(Protocol):
    """Where a call's result goes; exactly one of `answer` and `fail` is called for each call, on the event loop."""

    @property
    def closed(self) -> bool:
        """Whether nobody waits any more; such calls are dropped without a run."""

    def answer(self, call_id: int, rows: int, output: bytes) -> None:
        """Takes float32 [rows, outputs]."""

    def fail(self, call_id: int, code: int, message: str) -> None:
        """Takes a canonical gRPC status code and one sentence."""


class Queued:
    """A call that waits. `deadline` is in the batcher's clock."""

    __slots__ = ("call_id", "deadline", "packed", "rows", "sink")

    def __init__(self, call_id: int, rows: int, packed: Packed, deadline: float, sink: Sink) -> None:
        self.call_id = call_id
        self.rows = rows
        self.packed = packed
        self.deadline = deadline
        self.sink = sink


class Observer(Protocol):
    """Gets what happened, once a batch rather than once a call."""

    def ran(self, calls: int, rows: int, seconds: float) -> None:
        """A batch ran and answered this many calls."""

    def refused(self, code: int) -> None:
        """A call was refused or failed with this gRPC status code."""

    def broke(self, error: Exception) -> None:
        """The engine raised on a call that ran alone."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a batcher."""

    batch_rows: int = 32
    """Rows up to which calls are put together."""
    waiting_rows: int = 16_384
    """Rows that may wait; calls over it are refused with RESOURCE_EXHAUSTED."""
    inline_seconds: float = 0.002
    """Batches that will likely take longer run in the worker thread; also how long the loop is held in one go."""


DEFAULT_LIMITS: Final = Limits()
Outcomes = list[bytes | Exception]
"""One entry a call of a batch."""


class Batcher:
    """Queues calls and runs them. All methods belong to the event loop's thread."""

    def __init__(
        self,
        engine: Engine,
        *,
        loop: asyncio.AbstractEventLoop,
        worker: Executor,
        clock: Callable[[], float],
        observer: Observer,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._engine = engine
        self._width = engine.outputs * FLOAT_BYTES
        self._loop = loop
        self._worker = worker
        self._clock = clock
        self._observer = observer
        self._limits = limits
        self._pace = Pace()
        self._queue: deque[Queued] = deque()
        self._busy = False
        self.waiting_rows = 0
        """Rows in the queue."""

    def submit(self, call: Queued) -> None:
        """Queues a call of 1 to 1 000 rows; its sink hears of it later, or at once when the queue is full."""
        if self.waiting_rows + call.rows > self._limits.waiting_rows:
            self._refuse(call, ResourceExhausted.code, _FULL)
            return
        self.waiting_rows += call.rows
        self._queue.append(call)
        if not self._busy:
            # The next turn of the loop: frames of other streams that are already there come along, at no delay.
            self._busy = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        """Runs batches until the queue is empty, the loop was held long enough, or a batch went to the worker."""
        until = self._clock() + self._limits.inline_seconds
        while self._queue:
            batch, rows = self._take()
            if not batch:
                break
            if self._pace.estimate(rows) > self._limits.inline_seconds:
                self._hand_over(batch, rows)
                return
            outcomes, seconds = self._infer(batch, rows)
            self._deliver(batch, rows, outcomes, seconds)
            if self._clock() >= until:
                self._loop.call_soon(self._run)
                return
        self._busy = False

    def _hand_over(self, batch: list[Queued], rows: int) -> None:
        future = self._loop.run_in_executor(self._worker, self._infer, batch, rows)
        future.add_done_callback(lambda done: self._finished(batch, rows, done))

    def _take(self) -> tuple[list[Queued], int]:
        """Takes the next batch; drops calls that nobody waits for and refuses those that are too late."""
        now = self._clock()
        queue = self._queue
        batch: list[Queued] = []
        rows = 0
        while queue:
            call = queue[0]
            if batch and rows + call.rows > self._limits.batch_rows:
                break
            queue.popleft()
            self.waiting_rows -= call.rows
            if call.sink.closed:
                continue
            if call.deadline <= now:
                self._refuse(call, DeadlineExceeded.code, _LATE)
                continue
            batch.append(call)
            rows += call.rows
        return batch, rows

    def _infer(self, batch: list[Queued], rows: int) -> tuple[Outcomes, float]:
        """Runs a batch, on whichever thread. A call that breaks the model must not fail its neighbours."""
        start = self._clock()
        if len(batch) == 1:
            return [self._alone(batch[0])], self._clock() - start
        try:
            output = self._engine.infer(b"".join([call.packed for call in batch]), rows)
        except Exception:  # noqa: BLE001 - who is at fault shows when each runs alone
            return [self._alone(call) for call in batch], self._clock() - start
        outcomes: Outcomes = []
        begin = 0
        for call in batch:
            end = begin + call.rows * self._width
            outcomes.append(output[begin:end])
            begin = end
        return outcomes, self._clock() - start

    def _alone(self, call: Queued) -> bytes | Exception:
        try:
            return self._engine.infer(call.packed, call.rows)
        except Exception as error:  # noqa: BLE001 - an engine may raise anything; it becomes the call's result
            return error

    def _finished(self, batch: list[Queued], rows: int, done: asyncio.Future[tuple[Outcomes, float]]) -> None:
        if done.cancelled():
            outcomes: Outcomes = [RuntimeError("the worker thread was stopped")] * len(batch)
            self._deliver(batch, rows, outcomes, 0.0)
        else:
            self._deliver(batch, rows, *done.result())
        self._run()

    def _deliver(self, batch: list[Queued], rows: int, outcomes: Outcomes, seconds: float) -> None:
        self._pace.learn(rows, seconds)
        answered = 0
        for call, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, bytes):
                answered += 1
                call.sink.answer(call.call_id, call.rows, outcome)
            else:
                self._observer.broke(outcome)
                self._refuse(call, INTERNAL, _BROKEN)
        self._observer.ran(answered, rows, seconds)

    def _refuse(self, call: Queued, code: int, message: str) -> None:
        self._observer.refused(code)
        call.sink.fail(call.call_id, code, message)
