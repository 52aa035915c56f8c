"""Disk, database, damage and clock: whatever happens to what is written, callers are answered and records counted."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import random
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from router.frames import Frame, scan
from router.journal import Journal
from router.segments import segments
from tests.chaos.books import compare, router_numbers
from tests.chaos.case import Case, Options, Result
from tests.chaos.power_cuts import cuts, history, lost_after
from tests.chaos.processes import Process
from tests.chaos.single_faults import close_books, settled
from tests.chaos.stage import Stage, staged
from tests.chaos.traffic import Traffic, Watch

HEAL_SECONDS = 5.0
CLOCKWORK = Path(__file__).parent / "clockwork"


@contextlib.contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A file system of its own, so small that it can be filled.

    Raises:
        PermissionError: this user may not mount.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with tempfile.TemporaryDirectory(prefix="chaos-disk-") as folder:
        size = f"size={megabytes}m,mode=700".encode()
        if libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, size) != 0:
            raise PermissionError(f"a tmpfs cannot be mounted here: {os.strerror(ctypes.get_errno())}")
        try:
            yield Path(folder)
        finally:
            libc.umount2(folder.encode(), 2)  # detached now, gone with the last file that is open on it


def fill(folder: Path) -> Path:
    """Takes all the space that is left; gives the file to remove."""
    hog = folder / "hog"
    with contextlib.suppress(OSError), hog.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size):
                    pass
    return hog


async def _full_disk(options: Options, name: str, *, journal_only: bool) -> Result:
    result = Result()
    try:
        # Ledger, its write-ahead log and journal of all calls must have room once the space is back: 2 KB a call.
        with small_disk(24 + options.calls // 200) as disk:
            async with _staged_on(disk, options.seed, journal_only=journal_only) as stage:
                await settled(stage)
                await _traffic_on_full_disk(stage, disk, options, name, result)
    except PermissionError as error:
        result.skipped = str(error)
    return result


@contextlib.asynccontextmanager
async def _staged_on(disk: Path, seed: int, *, journal_only: bool) -> AsyncIterator[Stage]:
    settings: dict[str, object] = {"wait_for_commit": True}
    if not journal_only:
        async with staged(seed, root=disk, settings=settings) as stage:
            yield stage
        return
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        (Path(folder) / "journal").symlink_to(disk)
        async with staged(seed, root=Path(folder), settings=settings) as stage:
            yield stage


async def _traffic_on_full_disk(stage: Stage, disk: Path, options: Options, name: str, result: Result) -> None:
    traffic, watch = Traffic(name), Watch(stage.echo.addresses["grpc"], stage.router_pids)
    durable: dict[str, int] = {}
    hog = disk / "hog"

    async def begin() -> None:
        durable["before"] = len(traffic.durable)
        await asyncio.to_thread(fill, disk)

    async def end() -> None:
        durable["full"] = len(traffic.durable)
        hog.unlink()
        freed = time.monotonic()
        seen = len(traffic.durable)
        while len(traffic.durable) == seen and time.monotonic() < freed + 15:
            await traffic.run(stage.addresses, 1, 100)
        seconds = time.monotonic() - freed
        result.notes.append(f"durable again {seconds:.1f} s after the space came back")
        if seconds > HEAL_SECONDS:
            result.broken.append(f"answers were durable again only {seconds:.1f} s after the space came back")

    try:
        async with watch.watching():
            await traffic.run(stage.addresses, options.calls, options.rate, at={0.2: begin, 0.6: end})
        result.take(traffic, watch)
        pending = len(traffic.answered) - len(traffic.durable)
        result.notes.append(f"{pending} answers were pending")
        if not pending or not durable["before"]:
            result.broken.append("the disk was never full, or never durable: the case tests nothing")
        await close_books(stage, traffic, result)
    finally:
        await traffic.close()


async def _full_journal(options: Options) -> Result:
    return await _full_disk(options, "full-journal", journal_only=True)


async def _full_home(options: Options) -> Result:
    return await _full_disk(options, "full-home", journal_only=False)


async def _locked_database(options: Options) -> Result:
    result = Result()
    async with staged(options.seed) as stage:
        await settled(stage)
        traffic, watch = Traffic("locked"), Watch(stage.echo.addresses["grpc"], stage.router_pids)
        locks: list[sqlite3.Connection] = []

        async def lock() -> None:
            connection = sqlite3.connect(stage.home.ledger, timeout=10, isolation_level=None)
            connection.execute("BEGIN IMMEDIATE")
            locks.append(connection)

        async def unlock() -> None:
            locks[0].execute("ROLLBACK")
            locks[0].close()

        try:
            async with watch.watching():
                await traffic.run(stage.addresses, options.calls, options.rate, at={0.2: lock, 0.8: unlock})
            result.take(traffic, watch)
            await close_books(stage, traffic, result)
        finally:
            await traffic.close()
    return result


async def _poison(options: Options) -> Result:
    """Records that no ledger can take stand between good ones."""
    result, poison = Result(), 7
    async with staged(options.seed) as stage:
        await settled(stage)
        traffic, watch = Traffic("poison"), Watch(stage.echo.addresses["grpc"], stage.router_pids)
        try:
            async with watch.watching():
                await traffic.run(stage.addresses, options.calls // 2, options.rate)
                await stage.router.stop()
                journal = Journal(stage.home.journal("router-1"))
                for _ in range(poison):
                    journal.append([stage.chance.randbytes(40)])
                journal.close()
                await stage.router.start()
                await settled(stage)
                await traffic.run(stage.addresses, options.calls // 2, options.rate)
            result.take(traffic, watch)
            result.book(await compare(stage.hub_address, "poison", traffic.answered))
            numbers = await router_numbers([stage.router.addresses["metrics"]])
            result.notes.append(f"{numbers.set_aside} of {poison} poison records set aside")
            if numbers.set_aside != poison or numbers.pending or not numbers.balanced:
                result.broken.append(f"the router's numbers: {numbers}")
        finally:
            await traffic.close()
    return result


async def _damaged_journal(options: Options) -> Result:
    """Bytes rot in the middle of what was not shipped yet: just the records that they hit are missing, and counted."""
    result = Result()
    async with staged(options.seed) as stage:
        await settled(stage)
        traffic, watch = Traffic("damage"), Watch(stage.echo.addresses["grpc"], stage.router_pids)
        try:
            await stage.hub.kill()
            async with watch.watching():
                await traffic.run(stage.addresses, options.calls, options.rate)
            result.take(traffic, watch)
            await stage.router.kill()
            hit = _rot(stage.home.journal("router-1"), stage.chance)
            await stage.router.start()
            await stage.hub.start()
            books = await compare(stage.hub_address, "damage", traffic.answered, absent=hit)
            numbers = await router_numbers([stage.router.addresses["metrics"]])
            result.double = books.double
            result.notes.append(f"{hit} records were damaged, {numbers.set_aside} counted as such, {books.lost} absent")
            if not (books.lost == numbers.set_aside == hit and numbers.balanced and not numbers.pending):
                result.broken.append(f"damaged {hit}, absent {books.lost}, the router's numbers: {numbers}")
        finally:
            await traffic.close()
    return result


def _rot(folder: Path, chance: random.Random) -> int:
    """Flips a byte in each of three records that are not the last; gives how many records were hit."""
    path = segments(folder)[-1]
    data = bytearray(path.read_bytes())
    parts = [part for part in scan(bytes(data)) if isinstance(part, Frame)]
    unshipped = parts[len(parts) // 2 : -1]
    for part in (victims := chance.sample(unshipped, 3)):
        data[part.end - chance.randrange(1, len(part.payload))] ^= 0x40
    path.write_bytes(data)
    return len(victims)


async def _clock_steps(options: Options) -> Result:
    """The router's clock jumps back and forth by a day: answers, ids and the books do not care."""
    result = Result()
    async with staged(options.seed) as stage:
        offset = stage.root / "offset"
        offset.write_text("0")
        environment = {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(CLOCKWORK), os.environ.get("PYTHONPATH", "")])),
            "CHAOS_CLOCK": str(offset),
        }
        await stage.router.stop()
        arguments = ("--config", str(stage.config_path), "--name", "router-1")
        stage.routers[0] = Process("router", arguments, stage.root / "clock.log", environment=environment)
        try:
            await stage.router.start()
            await settled(stage)
            traffic, watch = Traffic("clock"), Watch(stage.echo.addresses["grpc"], stage.router_pids)

            def step(seconds: int) -> object:
                async def to() -> None:
                    offset.write_text(str(seconds))

                return to

            steps = {share / 10: step(stage.chance.choice((-86_400, 86_400, -3, 3, 0))) for share in range(1, 10)}
            async with watch.watching():
                await traffic.run(stage.addresses, options.calls, options.rate, at=steps)  # type: ignore[arg-type]
            result.take(traffic, watch)
            await close_books(stage, traffic, result)
            await traffic.close()
        finally:
            await stage.router.kill()
    return result


async def _power_cuts(options: Options) -> Result:
    """Every byte of histories with commits, rolls, shipping and a restart."""
    result, seed = Result(), options.seed
    with tempfile.TemporaryDirectory(prefix="chaos-cuts-") as folder:
        after = Path(folder) / "after"
        after.mkdir()
        while result.calls < options.cuts:
            steps = await history(Path(folder) / f"history-{seed}", seed, appends=30)
            every = list(cuts(steps, seed))
            stride = max(1, len(every) // options.cuts)
            for cut in every[::stride][: options.cuts - result.calls]:
                result.lost += len(await lost_after(cut, after))
                result.calls += 1
            seed += 1
    result.notes.append(f"{seed - options.seed} histories")
    return result


CASES = [
    Case(
        "disk: the journal's is full",
        "answers go on as `pending`, are `durable` within 5 s of the space coming back, and none is lost",
        _full_journal,
        short=True,
    ),
    Case(
        "disk: everything's is full",
        "with ledger and journal on the full disk answers go on, heal within 5 s, and none is lost",
        _full_home,
    ),
    Case(
        "database: locked by somebody else",
        "every call is answered in time, and the ledger catches up without a loss",
        _locked_database,
    ),
    Case("journal: poison records", "each is set aside and counted, and none blocks the rest", _poison),
    Case("journal: rotten bytes", "just the records that were hit are missing, and counted", _damaged_journal),
    Case("clock: steps of seconds and days", "answers and books do not care", _clock_steps),
    Case(
        "journal: power cuts",
        "no record that was answered `durable` is lost by a simulated cut at any byte (calls counts cuts)",
        _power_cuts,
    ),
]
