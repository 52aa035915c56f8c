"""Real processes under real signals: started, killed, stopped in their tracks, started again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

READY_SECONDS = 60.0
STOP_SECONDS = 40.0
_CHUNK_BYTES = 1 << 16


class Process:
    """One of our modules as a process. It dies with this one, whatever happens.

    Args:
        module: what `python -m` runs.
        arguments: its command line.
        log: where its errors go.
        environment: added to this process's own.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], log: Path, *, environment: Mapping[str, str] | None = None
    ) -> None:
        self.addresses: dict[str, str] = {}
        self.log = log
        self._command = (sys.executable, "-m", "services.cli.tether", str(os.getpid()), module, *arguments)
        self._environment = {**os.environ, **(environment or {})}
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Id of the running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self, *, ready: bool = True) -> None:
        """Starts it; with `ready` waits until it says that it serves.

        Raises:
            RuntimeError: it ended first, or took too long.
        """
        self._reading = None
        with self.log.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdout=asyncio.subprocess.PIPE, stderr=errors, env=self._environment
            )
        if ready:
            await self.until_ready()

    async def until_ready(self) -> None:
        """Waits for the ready line."""
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(READY_SECONDS):
                while line := await self._process.stdout.readline():
                    with contextlib.suppress(ValueError):
                        said = json.loads(line)
                        if said.get("event") == "ready":
                            self.addresses = {key: str(value) for key, value in said.items()}
                            # A process whose output nobody reads stands still once the pipe is full.
                            self._reading = asyncio.create_task(_read_on(self._process.stdout))
                            return
        except TimeoutError:
            pass
        raise RuntimeError(f"{self._command[4]} did not become ready; see {self.log}")

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal if it runs."""
        if self.running:
            assert self._process is not None
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL, and its end."""
        self.signal(signal.SIGKILL)
        await self._ended()

    async def stop(self) -> int:
        """SIGTERM, and its end; gives the exit code. What does not end in time is killed."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                return await self._ended()
        except TimeoutError:
            await self.kill()
            return -signal.SIGKILL

    async def _ended(self) -> int:
        if self._process is None:
            return 0
        code = await self._process.wait()
        # To the end of the pipe, which closes it as well.
        if self._reading is not None:
            # Unlike `await`, this leaves the task alone when somebody gives up waiting.
            await asyncio.wait((self._reading,))
        elif self._process.stdout is not None:
            await _read_on(self._process.stdout)
        return code


async def _read_on(output: asyncio.StreamReader) -> None:
    while await output.read(_CHUNK_BYTES):
        pass
