"""One run of a supervised program: spawned, its output read, its ready line found, reaped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from services.cli.log_file import LogFile

_CHUNK: Final = 64 << 10
_PIPE_SECONDS: Final = 1.0


class StartFailed(Exception):
    """A process did not become ready; the text is one sentence for people. `exit_code` is None when it still ran."""

    def __init__(self, message: str, *, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run. The process prints one JSON line with `"event": "ready"` and its addresses when it serves."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to this process's own environment."""
    ready_seconds: float = 60.0
    stop_seconds: float = 30.0


def python_program(name: str, module: str, *arguments: str) -> Program:
    """Gives the program that runs one of our modules, tied to the life of this process."""
    command = (sys.executable, "-m", "services.cli.tether", str(os.getpid()), module, *arguments)
    return Program(name=name, command=command)


class Run:
    """A spawned process whose output is read until it ends. `addresses` is what its ready line said."""

    def __init__(self, process: asyncio.subprocess.Process, program: Program, log: LogFile) -> None:
        self.addresses: dict[str, str] = {}
        self._process = process
        self._program = program
        self._log = log
        self._ready = asyncio.Event()
        self._readers = (asyncio.create_task(self._read_output()), asyncio.create_task(self._read_errors()))

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal if the process still runs."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def until_ready(self) -> None:
        """Waits for the ready line.

        Raises:
            StartFailed: the process ended first, or took longer than its program allows.
        """
        ended, ready = asyncio.create_task(self._process.wait()), asyncio.create_task(self._ready.wait())
        try:
            seconds = self._program.ready_seconds
            await asyncio.wait((ended, ready), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            ready.cancel()
        if self._ready.is_set():
            return
        name, where = self._program.name, f"the log is {self._log.path}"
        if self._process.returncode is None:
            raise StartFailed(f"{name} was not ready within {seconds:g} seconds; {where}")
        await asyncio.wait(self._readers, timeout=_PIPE_SECONDS)
        said = self._log.last_words().removeprefix(f"{name}: ")
        how = f"{said} ({where})" if said else f"it {self._how_it_ended()}; {where}"
        raise StartFailed(f"{name} did not start: {how}", exit_code=self._process.returncode)

    async def ended(self) -> str:
        """Waits for the process's end; says how it ended."""
        await self._process.wait()
        return self._how_it_ended()

    async def close(self) -> None:
        """Kills the process if it still runs, and lets go of its pipes."""
        self.signal(signal.SIGKILL)
        await self._process.wait()
        # The pipes end with the process, unless it left children of its own behind.
        await asyncio.wait(self._readers, timeout=_PIPE_SECONDS)
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)

    def _how_it_ended(self) -> str:
        code = self._process.returncode
        if code is not None and code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    async def _read_output(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        while chunk := await self._process.stdout.read(_CHUNK):
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[-_CHUNK:]
            for line in lines:
                self._take(line)

    def _take(self, line: bytes) -> None:
        said = None
        if line.startswith(b"{") and not self._ready.is_set():
            with contextlib.suppress(ValueError):
                said = json.loads(line)
        if isinstance(said, dict) and said.get("event") == "ready":
            self.addresses = {k: str(v) for k, v in said.items() if k not in ("event", "service")}
            self._ready.set()
        else:
            self._log.write(line + b"\n")

    async def _read_errors(self) -> None:
        assert self._process.stderr is not None
        while chunk := await self._process.stderr.read(_CHUNK):
            self._log.write(chunk)


async def spawn(program: Program, log: LogFile) -> Run:
    """Starts a process.

    Raises:
        StartFailed: the operating system refuses.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *program.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **program.environment},
            # A group of its own: Ctrl-C reaches the supervisor only, which then stops its children in order.
            process_group=0,
        )
    except OSError as error:
        raise StartFailed(f"{program.name} cannot be started: {error.strerror}") from error
    return Run(process, program, log)
