"""Laws of the supervisor, with tiny child processes of the tests' own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from services.cli.child import Backoff, Change, Child, State
from services.cli.log_file import LogFile
from services.cli.process import Program, StartFailed

READY = 'import json; print(json.dumps({"event": "ready", "service": "fake", "grpc": "127.0.0.1:1"}), flush=True)\n'
SERVE = READY + "import signal; signal.sigwait({signal.SIGTERM})\n"
LIMIT = 20.0


def program(script: str, *, ready_seconds: float = LIMIT, stop_seconds: float = LIMIT) -> Program:
    """A child that runs a few lines of Python; without site packages, it starts in milliseconds."""
    blocked = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
    command = (sys.executable, "-I", "-S", "-c", blocked + script)
    return Program(name="fake", command=command, ready_seconds=ready_seconds, stop_seconds=stop_seconds)


@contextlib.asynccontextmanager
async def supervised(folder: Path, what: Program) -> AsyncIterator[tuple[Child, list[Change]]]:
    changes: list[Change] = []
    child = Child(what, log=folder / "fake.log", on_change=changes.append)
    try:
        yield child, changes
    finally:
        await child.stop()


def test_the_pause_before_a_restart_doubles_up_to_five_seconds() -> None:
    """50 ms, 100 ms, … and never over 5 s, however often the process dies at once."""
    backoff = Backoff()
    pauses = [backoff.after(0.0) for _ in range(12)]
    assert pauses[:4] == [0.05, 0.1, 0.2, 0.4]
    assert pauses[-1] == 5.0
    assert pauses == sorted(pauses)


def test_a_process_that_was_up_for_ten_seconds_starts_over() -> None:
    """A rare death long after many quick ones is answered quickly again."""
    backoff = Backoff()
    for _ in range(8):
        backoff.after(1.0)
    assert backoff.after(10.0) == Backoff.FIRST
    assert backoff.after(9.9) == 2 * Backoff.FIRST


async def test_a_child_is_ready_when_it_says_so(tmp_path: Path) -> None:
    """The addresses of its ready line are known, and the process runs."""
    async with supervised(tmp_path, program(SERVE)) as (child, changes):
        await child.start()
        assert child.state is State.READY
        assert child.addresses == {"grpc": "127.0.0.1:1"}
        assert child.pid is not None
        assert psutil.pid_exists(child.pid)
        assert [change.state for change in changes] == [State.STARTING, State.READY]


async def test_a_child_that_is_killed_is_started_again(tmp_path: Path) -> None:
    """Another process answers under the same name, and the reason is told."""
    async with supervised(tmp_path, program(SERVE)) as (child, changes):
        await child.start()
        before = child.pid
        child.kill()
        assert await child.until(lambda one: one.restarts == 1 and one.state is State.READY, LIMIT)
        assert child.pid not in {None, before}
        assert Change("fake", State.WAITING, "was ended by SIGKILL") in changes


async def test_a_child_that_keeps_dying_is_started_again_and_again(tmp_path: Path) -> None:
    """It dies three times after it was ready; the fourth life lasts."""
    lives = tmp_path / "lives"
    script = (
        f"import pathlib, sys; p = pathlib.Path({str(lives)!r}); n = len(p.read_text()) if p.exists() else 0\n"
        f"p.write_text('x' * (n + 1))\n{READY}if n < 3: sys.exit(7)\n"
        "import signal; signal.sigwait({signal.SIGTERM})\n"
    )
    async with supervised(tmp_path, program(script)) as (child, changes):
        await child.start()
        assert await child.until(lambda one: one.restarts == 3 and one.state is State.READY, LIMIT)
        assert [change.reason for change in changes if change.state is State.WAITING] == ["ended with exit code 7"] * 3
    assert len(lives.read_text()) == 4


async def test_a_child_that_fails_at_first_is_not_started_again(tmp_path: Path) -> None:
    """Its own last words, its exit code and its log are told in one sentence."""
    script = "import sys; print('{\"level\": \"info\"}', file=sys.stderr); sys.exit('fake: port 1 is taken')\n"
    async with supervised(tmp_path, program(script)) as (child, _):
        with pytest.raises(
            StartFailed, match=r"fake did not start: port 1 is taken \(the log is .*fake\.log\)"
        ) as told:
            await child.start()
        assert told.value.exit_code == 1
        assert (child.state, child.pid, child.restarts) == (State.STOPPED, None, 0)


async def test_a_child_that_never_says_it_is_ready_is_ended_at_the_limit(tmp_path: Path) -> None:
    """The limit stands in the sentence, and nothing keeps running."""
    async with supervised(tmp_path, program("import time; time.sleep(600)\n", ready_seconds=0.3)) as (child, _):
        with pytest.raises(StartFailed, match=r"fake was not ready within 0\.3 seconds"):
            await child.start()
        assert child.pid is None


async def test_a_program_that_does_not_exist_is_told(tmp_path: Path) -> None:
    """The operating system's refusal becomes one sentence."""
    async with supervised(tmp_path, Program(name="fake", command=(str(tmp_path / "nowhere"),))) as (child, _):
        with pytest.raises(StartFailed, match="fake cannot be started: No such file or directory"):
            await child.start()


async def test_stopping_asks_first(tmp_path: Path) -> None:
    """SIGTERM lets the child finish its work: here, write a file."""
    done = tmp_path / "done"
    script = SERVE + f"import pathlib; pathlib.Path({str(done)!r}).write_text('finished')\n"
    async with supervised(tmp_path, program(script)) as (child, changes):
        await child.start()
        await child.stop()
        assert done.read_text() == "finished"
        assert (child.state, child.pid, changes[-1]) == (State.STOPPED, None, Change("fake", State.STOPPED))


async def test_a_child_that_does_not_listen_is_killed_in_the_end(tmp_path: Path) -> None:
    """SIGTERM is blocked for ever; after its time the process is gone all the same."""
    script = READY + "import time; time.sleep(600)\n"
    async with supervised(tmp_path, program(script, stop_seconds=0.2)) as (child, _):
        await child.start()
        pid = child.pid
        await child.stop()
        assert pid is not None
        assert not psutil.pid_exists(pid)


async def test_stopping_during_the_pause_before_a_restart_is_quick(tmp_path: Path) -> None:
    """A child that waits for its restart is not started any more."""
    async with supervised(tmp_path, program(READY + "raise SystemExit(1)\n")) as (child, _):
        await child.start()
        assert await child.until(lambda one: one.state is State.WAITING, LIMIT)
        restarts = child.restarts
        await child.stop()
        assert child.state is State.STOPPED
        assert child.restarts <= restarts + 1


async def test_output_beside_the_ready_line_goes_to_the_log(tmp_path: Path) -> None:
    """Prints before and after the ready line, and JSON that is not it, are kept."""
    script = "print('hello')\nprint('{\"event\": \"other\"}')\nprint('{broken')\n" + READY + "raise SystemExit(3)\n"
    async with supervised(tmp_path, program(script)) as (child, _):
        await child.start()
        assert await child.until(lambda one: one.state is State.WAITING, LIMIT)
    kept = (tmp_path / "fake.log").read_text()
    assert "hello" in kept
    assert "other" in kept
    assert "{broken" in kept
    assert "ready" not in kept


def test_a_log_never_outgrows_its_bound(tmp_path: Path) -> None:
    """Two files, each within the bound, hold the newest output."""
    log = LogFile(tmp_path / "a.log", max_bytes=100)
    for number in range(100):
        log.write(f"line {number}\n".encode())
    log.write(b"x" * 1000)
    log.close()
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"a.log", "a.log.1"}
    assert max(sizes.values()) <= 100


def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    """SIGKILL leaves no time to stop anything; the kernel ends the tethered child, even one that ignores signals."""
    module = tmp_path / "stubborn.py"
    module.write_text(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(600)\n"
    )
    script = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'services.cli.tether', str(os.getpid()), 'stubborn'],"
        " stdout=subprocess.PIPE, text=True)\n"
        "child.stdout.readline()\nprint(child.pid, flush=True)\ntime.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment, text=True) as parent:
        assert parent.stdout is not None
        orphan = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        assert orphan.wait(timeout=LIMIT) is None or not orphan.is_running()


async def test_a_patient_start_tells_a_failure_and_tries_again(tmp_path: Path) -> None:
    """What cannot start at first is like what dies later: told, and started again until it runs."""
    marker = tmp_path / "now"
    code = (
        "import pathlib, sys, time\n"
        f"if not pathlib.Path({str(marker)!r}).exists(): sys.exit('not yet')\n"
        'print(\'{"event": "ready", "service": "x"}\', flush=True)\ntime.sleep(600)\n'
    )
    changes: list[Change] = []
    program = Program(name="late", command=(sys.executable, "-c", code))
    child = Child(program, log=tmp_path / "late.log", on_change=changes.append)
    await child.start(patient=True)
    assert any("not yet" in change.reason for change in changes) or await child.until(
        lambda _: any("not yet" in change.reason for change in changes), LIMIT
    )
    marker.touch()
    assert await child.until(lambda one: one.state is State.READY, LIMIT)
    first = child.pid
    await child.restart()
    assert child.state is State.READY
    assert child.pid != first
    await child.stop()
