"""A process kept alive: restarted with a growing pause when it dies, stopped when asked."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from services.cli.log_file import LogFile
from services.cli.process import Program, Run, StartFailed, spawn


class State(Enum):
    """What a child is doing."""

    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"
    """It died and is started again after a pause."""
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Change:
    """A child's new state; `reason` says why where it died or could not start."""

    name: str
    state: State
    reason: str = ""


class Backoff:
    """Pauses before restarts: 50 ms, doubled each time up to 5 s; a process that was up for 10 s starts over."""

    FIRST: Final = 0.05
    LAST: Final = 5.0
    RESET_AFTER: Final = 10.0

    def __init__(self) -> None:
        self._next = self.FIRST

    def after(self, up_seconds: float) -> float:
        """Gives the pause, in seconds, before the restart of a process that was up that long."""
        if up_seconds >= self.RESET_AFTER:
            self._next = self.FIRST
        pause, self._next = self._next, min(self._next * 2, self.LAST)
        return pause


class Child:
    """A supervised process.

    Args:
        program: what to run.
        log: file for its standard error.
        on_change: told about every change of state, in order.
        monotonic: seconds that never go back.
    """

    def __init__(
        self,
        program: Program,
        *,
        log: Path,
        on_change: Callable[[Change], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.program = program
        self.state = State.STOPPED
        self.restarts = 0
        self.addresses: dict[str, str] = {}
        """What the process said it listens on when it became ready last."""
        self._log_path = log
        self._on_change = on_change
        self._monotonic = monotonic
        self._backoff = Backoff()
        self._stopping = asyncio.Event()
        self._changed = asyncio.Condition()
        self._run: Run | None = None
        self._keeping: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Id of the process; None while there is none."""
        return self._run.pid if self._run else None

    async def start(self, *, patient: bool = False) -> None:
        """Starts the process and waits until it is ready.

        Args:
            patient: a first start that fails is no error either: it is told like every later one, and tried again.

        Raises:
            StartFailed: it ended, or was not ready in time; it does not run then.
        """
        self._stopping.clear()
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keeping = asyncio.create_task(self._keep(first, patient=patient), name=f"keep {self.program.name}")
        try:
            await first
        except asyncio.CancelledError:
            await self.stop()
            raise

    async def until(self, seen: Callable[[Child], bool], seconds: float) -> bool:
        """Waits until something is so after a change of state; False when that took too long."""
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: seen(self))
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """Asks the process to end (SIGTERM); kills it when it takes longer than its program allows."""
        if self._keeping is None:
            return
        self._stopping.set()
        self._signal(signal.SIGTERM)
        _, late = await asyncio.wait((self._keeping,), timeout=self.program.stop_seconds)
        if late:
            self._signal(signal.SIGKILL)
        await asyncio.gather(self._keeping, return_exceptions=True)
        self._keeping = None

    def kill(self) -> None:
        """Kills the process outright, as a fault would; it is started again."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._run is not None:
            self._run.signal(number)

    async def restart(self) -> None:
        """Stops the process and starts it again; a start that fails is tried again like after a death."""
        await self.stop()
        await self.start(patient=True)
        self.restarts += 1

    async def _keep(self, first: asyncio.Future[None], *, patient: bool) -> None:
        with contextlib.closing(LogFile(self._log_path)) as log:
            while not self._stopping.is_set():
                started = self._monotonic()
                try:
                    reason = await self._run_once(log, first)
                except StartFailed as error:
                    if not first.done():
                        if not patient:
                            first.set_exception(error)
                            break
                        first.set_result(None)
                    reason = str(error)
                if not self._stopping.is_set():
                    await self._pause(self._backoff.after(self._monotonic() - started), reason)
        await self._enter(State.STOPPED)
        if not first.done():
            first.set_exception(StartFailed(f"{self.program.name} was stopped before it was ready"))

    async def _run_once(self, log: LogFile, first: asyncio.Future[None]) -> str:
        """Runs the process until it ends; says how it ended."""
        await self._enter(State.STARTING)
        self._run = await spawn(self.program, log)
        try:
            if self._stopping.is_set():
                self._signal(signal.SIGTERM)
            await self._run.until_ready()
            self.addresses = self._run.addresses
            await self._enter(State.READY)
            if not first.done():
                first.set_result(None)
            return await self._run.ended()
        finally:
            await self._run.close()
            self._run = None

    async def _pause(self, seconds: float, reason: str) -> None:
        await self._enter(State.WAITING, reason)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        self.restarts += 1

    async def _enter(self, state: State, reason: str = "") -> None:
        async with self._changed:
            self.state = state
            self._changed.notify_all()
        self._on_change(Change(self.program.name, state, reason))
