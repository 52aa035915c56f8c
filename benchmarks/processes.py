"""Real server processes under measurement: start, ready line, CPU time, resident memory, stop."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

ROOT = Path(__file__).resolve().parent.parent
_READY_SECONDS = 60.0


@dataclass(frozen=True)
class Process:
    """A server that said that it is ready."""

    pid: int
    address: str
    ready_seconds: float
    """From the start of the process to its ready line."""

    def cpu_seconds(self) -> float:
        """CPU time of all threads so far, with the scheduler's nanoseconds."""
        total = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):
                total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def resident_mb(self) -> float:
        """Resident memory, in megabytes of 10^6 bytes."""
        return float(psutil.Process(self.pid).memory_info().rss) / 1e6


def peak_mb() -> float:
    """Peak resident memory of this process, in megabytes of 10^6 bytes.

    Not from getrusage(2): that one starts, in a child, with what its parent had.
    """
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


@contextlib.contextmanager
def started(arguments: Sequence[str], log: Path, python: str = sys.executable) -> Iterator[Process]:
    """Starts `python ARGUMENTS`, waits for its ready line, and ends it with the block.

    `python` is the interpreter, this one's unless another environment's is given.

    Raises:
        RuntimeError: the process ended or said nothing in time; the log's name stands in the text.
    """
    begin = time.monotonic()
    with log.open("ab") as errors:
        child = subprocess.Popen([python, *arguments], stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, env=os.environ)
    try:
        ready = json.loads(_first_line(child.stdout, log))
        yield Process(child.pid, ready["grpc"], time.monotonic() - begin)
    finally:
        child.terminate()
        try:
            child.wait(40)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdout is not None:
            child.stdout.close()


def _first_line(output: IO[bytes] | None, log: Path) -> bytes:
    assert output is not None
    lines: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=lambda: lines.put(output.readline()), daemon=True).start()
    try:
        line = lines.get(timeout=_READY_SECONDS)
    except queue.Empty:
        line = b""
    if not line:
        raise RuntimeError(f"a server did not become ready; see {log}")
    return line
