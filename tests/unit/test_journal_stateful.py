"""The journal as a state machine: whatever happens in whatever order, its numbers add up and nothing vanishes."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from router.journal import Journal
from router.segments import Stable, segments
from router.shipping import Refused, Shipper
from tests.chaos.power_cuts import QuickDisk

SEGMENT_BYTES = 500


class Disk(QuickDisk):
    """Full when told so, but for the accounts, which never grow."""

    full = False

    def write(self, descriptor: int, data: bytes, offset: int) -> int:
        if self.full and len(data) != 512:
            raise OSError(28, "No space left on device")
        return super().write(descriptor, data, offset)


class Hasty(Journal):
    """A journal whose committing thread is done right after each look at what is stable."""

    @property
    def stable(self) -> Stable:
        seen = super().stable
        self.synchronise()
        return seen


class JournalLife(RuleBasedStateMachine):
    """Appends, commits, rolls, ships, refuses, fills up, heals, closes, is killed; some of it while records travel."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="journal-"))
        self.disk = Disk()
        self.arrived: list[bytes] = []
        self.sent: list[bytes] = []
        self.gone: set[bytes] = set()
        self.refused: set[bytes] = set()
        self.poison: set[bytes] = set()
        self.away = self.hasty = False
        self.meanwhile: list[Callable[[], None]] = []
        self.loop = asyncio.new_event_loop()

    @initialize(hasty=st.booleans())
    def begin(self, hasty: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        self.hasty = hasty
        self._open()

    def _open(self) -> None:
        kind = Hasty if self.hasty else Journal
        self.journal = kind(self.folder, segment_bytes=SEGMENT_BYTES, max_held_bytes=400, disk=self.disk)

    async def _ship(self, batch: Sequence[bytes]) -> int:
        while self.meanwhile:
            self.meanwhile.pop()()
        if self.away:
            raise ConnectionError("away")
        bad = self.poison.intersection(batch)
        if bad:
            self.refused |= bad if len(batch) == 1 else set()
            raise Refused("INVALID_ARGUMENT", definite=True)
        self.arrived += batch
        return 0

    @rule(count=st.integers(1, 3), size=st.integers(1, 60), poison=st.integers(0, 9))
    def append(self, count: int, size: int, poison: int) -> None:
        records = [b"%06d-" % (len(self.sent) + place) + b"x" * size for place in range(count)]
        lost = self.journal.lost
        self.journal.append(records)
        self.sent += records
        if poison == 0:
            self.poison.add(records[0])
        if self.journal.lost > lost:
            assert self.journal.lost == lost + count
            self.gone.update(records)

    @rule()
    def commit(self) -> None:
        assert self.journal.synchronise() is None

    @rule()
    def roll(self) -> None:
        if self.journal._segment.size >= SEGMENT_BYTES and not self.journal._held:
            self.journal._roll()

    @rule(acts=st.lists(st.sampled_from(["append", "commit", "roll", "heal", "full"]), max_size=4))
    def ship(self, acts: list[str]) -> None:
        does: dict[str, Callable[[], None]] = {
            "append": lambda: self.append(1, 10, 9),
            "commit": self.commit,
            "roll": self.roll,
            "heal": self.heal,
            "full": lambda: setattr(self.disk, "full", True),
        }
        self.meanwhile = [does[act] for act in acts]
        try:
            self.loop.run_until_complete(Shipper(self.journal, self._ship).step())
        except ConnectionError:
            assert self.away

    @rule(away=st.booleans())
    def ledger(self, away: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        self.away = away

    @rule(full=st.booleans())
    def disk_full(self, full: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        self.disk.full = full

    @rule()
    def heal(self) -> None:
        if not self.disk.full:
            self.journal._write_held(1000)
            assert self.journal.held == 0

    @rule(kill=st.booleans())
    def restart(self, kill: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        held = [payload for _, payload in self.journal._held.first(10_000)]
        started = self.journal.status.started
        if kill:
            self.gone.update(held)
            self.disk.close(self.journal._lock)
        else:
            self.journal.close()
            self.gone.update(held if self.journal.held else ())
        self._open()
        assert self.journal.status.started == started

    @invariant()
    def numbers_add_up(self) -> None:
        if not hasattr(self, "journal"):
            return
        status = self.journal.status
        assert status.started == len(self.sent)
        assert status.started == status.stored + status.pending + status.set_aside
        assert min(status.stored, status.pending, status.set_aside, status.missing, status.held) >= 0
        assert status.disk_bytes == sum(path.stat().st_size for path in segments(self.folder))

    def teardown(self) -> None:
        self.away = self.disk.full = False
        self.meanwhile.clear()
        if hasattr(self, "journal"):
            self.journal._write_held(1000)
            assert self.journal.append([b"last"])
            assert self.journal.synchronise() is None
            assert self.loop.run_until_complete(Shipper(self.journal, self._ship).drain(20))
            status = self.journal.status
            assert status.pending == 0
            # Gone for good are records that were in memory only; none of them, and no other, is missing.
            wanted = [item for item in [*self.sent, b"last"] if item not in self.gone and item not in self.refused]
            assert [item for item in self.arrived if item not in self.gone] == wanted
            assert status.missing == len(self.gone - set(self.arrived))
            self.journal.close()
        self.loop.close()
        shutil.rmtree(self.folder)


JournalLife.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestJournalLife = JournalLife.TestCase
