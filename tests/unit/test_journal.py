"""Laws of the journal: what was appended is found again, whole and in order, whatever happened to disk and process."""

from __future__ import annotations

import asyncio
import errno
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import journal as journal_module
from router.disk import LocalDisk
from router.frames import Damage, Frame, frame, scan
from router.journal import Journal, newest, segments
from router.segments import Stable
from router.shipping import Refused, Shipper

payloads = st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=20)


class FullDisk(LocalDisk):
    """A disk that refuses every write of records while `full`, and every synchronisation while `failing`."""

    full = False
    failing = False

    def write(self, descriptor: int, data: bytes, offset: int) -> int:
        if self.full and len(data) != 512:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(descriptor, data, offset)

    def sync(self, descriptor: int) -> None:
        if self.failing:
            raise OSError(errno.EIO, "Input/output error")
        super().sync(descriptor)


class FakeLedger:
    """Stores what it gets; refuses what it is told to."""

    def __init__(self) -> None:
        self.stored: list[bytes] = []
        self.poison: dict[bytes, bool] = {}
        self.away = False
        self.calls = 0

    async def ship(self, batch: object) -> int:
        self.calls += 1
        records: list[bytes] = list(batch)  # type: ignore[call-overload]
        if self.away:
            raise ConnectionError("away")
        for record in records:
            if record in self.poison:
                raise Refused("INTERNAL", definite=self.poison[record])
        self.stored += records
        return 0


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "RETRY_SECONDS", 0.01)


def whole(items: list[bytes], first: int = 0) -> bytes:
    return b"".join(frame(first + place, item) for place, item in enumerate(items))


def read(data: bytes) -> list[bytes]:
    return [part.payload for part in scan(data) if isinstance(part, Frame)]


async def shipped(journal: Journal, ledger: FakeLedger) -> list[bytes]:
    assert journal.synchronise() is None
    assert await Shipper(journal, ledger.ship).drain(10)
    return ledger.stored


def check_identity(journal: Journal) -> None:
    status = journal.status
    assert status.started == status.stored + status.pending + status.set_aside
    assert min(status.stored, status.pending, status.set_aside, status.held) >= 0


@given(payloads)
def test_frames_read_back_what_was_framed(items: list[bytes]) -> None:
    """Every payload comes back, in order, with its number."""
    parts = list(scan(whole(items, 7)))
    assert [(p.number, p.payload) for p in parts if isinstance(p, Frame)] == list(enumerate(items, 7))
    assert not [part for part in parts if isinstance(part, Damage)]


@given(payloads, st.data())
def test_a_cut_at_any_byte_keeps_every_whole_frame_before_it(items: list[bytes], data: st.DataObject) -> None:
    """A power cut at any byte loses only what was not whole."""
    everything = whole(items)
    cut = data.draw(st.integers(0, len(everything)))
    kept = read(everything[:cut])
    assert kept == items[: len(kept)]
    assert len(whole(items[: len(kept) + 1])) > cut or len(kept) == len(items)


@given(payloads, st.data())
def test_a_flipped_bit_costs_one_record_and_never_yields_a_wrong_one(items: list[bytes], data: st.DataObject) -> None:
    """Reading goes on behind the damage."""
    everything = bytearray(whole(items))
    where = data.draw(st.integers(0, len(everything) - 1))
    everything[where] ^= 1 << data.draw(st.integers(0, 7))
    found = [(p.number, p.payload) for p in scan(bytes(everything)) if isinstance(p, Frame)]
    assert len(found) == len(items) - 1
    assert all(items[number] == payload for number, payload in found)


@given(st.binary(max_size=300), payloads, st.binary(max_size=300))
def test_a_scan_leaves_no_byte_out(before: bytes, items: list[bytes], behind: bytes) -> None:
    """Frames and damage lie side by side from the first byte to the last, and frames are found in any rubbish."""
    data = before + whole(items) + behind
    offset, found = 0, []
    for part in scan(data):
        if isinstance(part, Damage):
            assert part.start == offset
            assert part.end > offset
        else:
            found.append(part.payload)
        offset = part.end
    assert offset == len(data)
    assert found == items


@settings(max_examples=20)
@given(payloads, st.integers(1, 70))
def test_a_torn_tail_is_cut_off_and_the_journal_goes_on(items: list[bytes], torn: int) -> None:
    """After a torn write the journal opens, keeps what was whole, and appends behind it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        first = Journal(path)
        assert first.append(items)
        first.close()
        with segments(path)[0].open("ab") as file:
            file.write(frame(len(items), b"x" * 50)[:torn][:-1])
        second = Journal(path)
        assert second.append([b"after"])
        check_identity(second)
        second.close()
        assert newest(path, 1000) == [*items, b"after"]


def test_two_processes_cannot_share_a_journal(tmp_path: Path) -> None:
    """The folder is locked, and the error says what to do."""
    first = Journal(tmp_path)
    with pytest.raises(OSError, match="a name of its own"):
        Journal(tmp_path)
    first.close()


@pytest.mark.usefixtures("quick")
async def test_a_full_disk_holds_records_and_heals(tmp_path: Path) -> None:
    """While the disk refuses, records wait in memory in order; when it heals, all of them are written."""
    disk = FullDisk()
    journal = Journal(tmp_path, disk=disk)
    committing = asyncio.create_task(journal.run())
    disk.full = True
    assert not journal.append([b"one"])
    assert not journal.append([b"two"])
    assert not await journal.committed()
    assert journal.status.held == 2
    check_identity(journal)
    disk.full = False
    async with asyncio.timeout(10):
        while not await journal.committed():
            await asyncio.sleep(0.01)
    assert journal.append([b"three"])
    assert await journal.committed()
    committing.cancel()
    journal.close()
    assert newest(tmp_path, 10) == [b"one", b"two", b"three"]
    assert journal.lost == 0


async def test_what_waits_in_memory_is_shipped_while_the_disk_stays_full(tmp_path: Path) -> None:
    """A full disk loses nothing as long as the ledger is there; what was shipped is not written again."""
    disk, ledger = FullDisk(), FakeLedger()
    journal = Journal(tmp_path, disk=disk)
    journal.append([b"on disk"])
    disk.full = True
    journal.append([b"one", b"two"])
    journal.append([b"three"])
    assert await shipped(journal, ledger) == [b"on disk", b"one", b"two", b"three"]
    assert journal.status.held == 0
    disk.full = False
    journal.append([b"four"])
    assert (await shipped(journal, ledger))[-1:] == [b"four"]
    assert (journal.status.started, journal.status.stored, journal.status.missing) == (5, 5, 0)
    journal.close()


class Hasty(Journal):
    """A journal whose committing thread is done right after each look at what is stable."""

    @property
    def stable(self) -> Stable:
        seen = super().stable
        self.synchronise()
        return seen


async def test_what_becomes_stable_while_memory_is_looked_at_is_not_passed_over(tmp_path: Path) -> None:
    """Records on disk are older than those in memory, and go first, whenever the other thread commits them."""
    disk, ledger = FullDisk(), FakeLedger()
    journal = Hasty(tmp_path, disk=disk)
    journal.append([b"on disk"])
    disk.full = True
    journal.append([b"in memory"])
    shipper = Shipper(journal, ledger.ship)
    await shipper.step()
    await shipper.step()
    await shipper.step()
    assert ledger.stored == [b"on disk", b"in memory"]
    assert journal.status.missing == 0
    journal.close()


async def test_what_becomes_stable_while_a_segment_ends_is_not_passed_over(tmp_path: Path) -> None:
    """A segment is left only when the look that its records were read by says that it is stable whole."""
    ledger = FakeLedger()
    journal = Hasty(tmp_path, segment_bytes=1)
    shipper = Shipper(journal, ledger.ship)
    journal.append([b"first"])
    assert journal.synchronise() is None
    assert await shipper.step()
    journal.append([b"end of the segment"])
    journal._roll()
    journal.append([b"next segment"])
    for _ in range(4):
        await shipper.step()
    assert ledger.stored == [b"first", b"end of the segment", b"next segment"]
    assert journal.status.missing == 0
    journal.close()


async def test_what_fits_nowhere_is_counted_even_after_a_kill(tmp_path: Path) -> None:
    """Disk full, memory full: the record is lost, and is known to be missing by the process after the next, too."""
    disk, ledger = FullDisk(), FakeLedger()
    journal = Journal(tmp_path, disk=disk, max_held_bytes=100)
    journal.append([b"safe"])
    disk.full = True
    journal.append([b"h" * 50])
    for _ in range(3):
        journal.append([b"l" * 90])
    assert (journal.status.held, journal.lost) == (1, 3)
    check_identity(journal)
    # As after SIGKILL: nothing is closed in order.
    journal._disk.close(journal._lock)
    again = Journal(tmp_path)
    assert again.status.started == 5
    again.append([b"after"])
    assert await shipped(again, ledger) == [b"safe", b"after"]
    assert again.status.set_aside == again.status.missing == 4
    check_identity(again)
    again.close()


async def test_the_journals_own_bound_holds_while_the_ledger_is_away(tmp_path: Path) -> None:
    """At the bound records wait in memory; when the ledger has taken the segments, the disk takes records again."""
    ledger = FakeLedger()
    journal = Journal(tmp_path, max_bytes=8000, max_held_bytes=1 << 20)
    sent = [b"%05d" % number * 20 for number in range(200)]
    committing = asyncio.create_task(journal.run())
    for item in sent:
        journal.append([item])
        await journal.committed()
    assert journal.status.disk_bytes <= 8000
    assert journal.status.held > 0
    assert sum(path.stat().st_size for path in segments(tmp_path)) == journal.status.disk_bytes
    shipper = Shipper(journal, ledger.ship)
    async with asyncio.timeout(20):
        while journal.status.pending:
            if not await shipper.step():
                await asyncio.sleep(0.01)
    assert ledger.stored == sent
    assert journal.append([b"room again"])
    committing.cancel()
    await asyncio.gather(committing, return_exceptions=True)
    assert journal.lost == 0
    check_identity(journal)
    journal.close()


@pytest.mark.usefixtures("quick")
async def test_after_a_failed_synchronisation_everything_unstable_is_written_anew(tmp_path: Path) -> None:
    """A failed fsync may have dropped pages: nobody hears `durable`, and the records go into another segment."""
    disk, ledger = FullDisk(), FakeLedger()
    journal = Journal(tmp_path, disk=disk)
    committing = asyncio.create_task(journal.run())
    journal.append([b"before"])
    assert await journal.committed()
    disk.failing = True
    journal.append([b"one"])
    assert not await journal.committed()
    disk.failing = False
    async with asyncio.timeout(10):
        while not await journal.committed():
            await asyncio.sleep(0.01)
    committing.cancel()
    await asyncio.gather(committing, return_exceptions=True)
    assert [len(read(path.read_bytes())) for path in segments(tmp_path)] == [1, 1]
    assert await shipped(journal, ledger) == [b"before", b"one"]
    assert journal.status.stored == journal.status.started == 2
    journal.close()


async def test_a_disk_that_stalls_makes_an_answer_pending_not_late(tmp_path: Path) -> None:
    """Waiting for stable storage ends after its patience."""
    journal = Journal(tmp_path)
    journal.append([b"one"])
    # Nobody commits: as a disk that never answers.
    assert not await journal.committed(0.01)
    journal.close()


async def test_shipping_goes_on_where_it_was_confirmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that was not confirmed travels again; a confirmed one does not; segments roll on the way."""
    monkeypatch.setattr("router.shipping.BATCH_RECORDS", 3)
    journal = Journal(tmp_path, segment_bytes=200)
    committing = asyncio.create_task(journal.run())
    sent = [b"%04d" % number for number in range(100)]
    for item in sent:
        journal.append([item])
        if item.endswith(b"0"):
            await journal.committed()
    assert await journal.committed()
    arrived: list[bytes] = []
    refusals = iter([True, False] * 1000)

    async def ship(batch: object) -> int:
        if next(refusals):
            raise ConnectionError("away")
        arrived.extend(batch)  # type: ignore[arg-type]
        return 0

    shipper = Shipper(journal, ship)
    for _ in range(1000):
        try:
            if not await shipper.step():
                break
        except ConnectionError:
            shipper = Shipper(journal, ship)
    assert arrived == sent
    assert len(segments(tmp_path)) == 2
    committing.cancel()
    await asyncio.gather(committing, return_exceptions=True)
    journal.close()


async def test_an_hour_without_the_ledger_is_caught_up(tmp_path: Path) -> None:
    """180 000 records (an hour at 50 a second) wait on disk over a restart and arrive in order, each once."""
    ledger = FakeLedger()
    ledger.away = True
    journal = Journal(tmp_path)
    sent = [b"%07d" % number + b"r" * 293 for number in range(180_000)]
    for start in range(0, len(sent), 500):
        journal.append(sent[start : start + 500])
    assert journal.synchronise() is None
    shipper = Shipper(journal, ledger.ship)
    with pytest.raises(ConnectionError):
        await shipper.step()
    journal.close()
    again = Journal(tmp_path)
    assert again.status.pending == len(sent)
    ledger.away = False
    assert await shipped(again, ledger) == sent
    assert again.status.stored == len(sent)
    again.close()


async def test_damage_in_the_middle_is_set_aside_and_blocks_nothing(tmp_path: Path) -> None:
    """The records around it arrive, the damaged one is counted, its bytes are kept with the reason."""
    journal, ledger = Journal(tmp_path), FakeLedger()
    journal.append([b"one", b"two", b"three"])
    journal.close()
    (path,) = segments(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"two", b"tWo"))
    again = Journal(tmp_path)
    assert await shipped(again, ledger) == [b"one", b"three"]
    assert (again.status.stored, again.status.set_aside, again.status.missing) == (2, 1, 1)
    assert "damaged on disk" in again.rejects.path.read_text()
    check_identity(again)
    again.close()


async def test_damage_longer_than_a_chunk_is_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading by chunks finds the records behind any length of rubbish."""
    monkeypatch.setattr("router.shipping.CHUNK_BYTES", 400)
    monkeypatch.setattr("router.shipping.MAX_FRAME", 120)
    journal, ledger = Journal(tmp_path), FakeLedger()
    sent = [b"%03d" % number * 20 for number in range(60)]
    journal.append(sent)
    journal.close()
    (path,) = segments(tmp_path)
    data = bytearray(path.read_bytes())
    length = len(frame(0, sent[0]))
    data[10 * length : 40 * length] = bytes(30 * length)
    path.write_bytes(data)
    again = Journal(tmp_path)
    assert await shipped(again, ledger) == sent[:10] + sent[40:]
    assert again.status.missing == 30
    check_identity(again)
    again.close()


@pytest.mark.parametrize("definite", [True, False])
async def test_a_poison_record_is_set_aside_and_never_blocks_the_rest(*, tmp_path: Path, definite: bool) -> None:
    """It is found by halving, kept with the ledger's reason, and counted; the rest is stored, each once."""
    journal, ledger = Journal(tmp_path), FakeLedger()
    sent = [b"%04d" % number for number in range(500)]
    ledger.poison = {sent[0]: definite, sent[123]: definite, sent[499]: definite}
    journal.append(sent)
    stored = await shipped(journal, ledger)
    assert sorted(stored) == [item for item in sent if item not in ledger.poison]
    assert (journal.status.stored, journal.status.set_aside, journal.status.missing) == (497, 3, 0)
    assert journal.rejects.path.read_text().count("refused by the ledger: INTERNAL") == 3
    check_identity(journal)
    journal.close()


async def test_a_record_that_the_ledger_failed_on_once_is_stored_after_all(tmp_path: Path) -> None:
    """A failure that is not the content's fault gets other chances before anything is set aside."""
    journal, ledger = Journal(tmp_path), FakeLedger()
    journal.append([b"one", b"two"])
    failures = iter([True, True, False])

    async def ship(batch: object) -> int:
        if b"one" in list(batch) and next(failures, False):  # type: ignore[call-overload]
            raise Refused("INTERNAL", definite=False)
        return await ledger.ship(batch)

    assert journal.synchronise() is None
    assert await Shipper(journal, ship).drain(10)
    assert sorted(ledger.stored) == [b"one", b"two"]
    assert journal.status.set_aside == 0
    journal.close()


async def test_a_ledger_that_fails_on_everything_is_away_not_right(tmp_path: Path) -> None:
    """Without a single accepted record nothing is set aside: the fault is the ledger's; little is asked of it."""
    journal, ledger = Journal(tmp_path), FakeLedger()
    sent = [b"%04d" % number for number in range(500)]
    ledger.poison = dict.fromkeys(sent, False)
    journal.append(sent)
    assert journal.synchronise() is None
    shipper = Shipper(journal, ledger.ship)
    with pytest.raises(ConnectionError):
        await shipper.step()
    assert ledger.calls < 60
    ledger.poison = {}
    assert await shipped(journal, ledger) == sent
    assert journal.status.set_aside == 0
    journal.close()


@pytest.mark.parametrize("damage", ["removed", "torn"])
async def test_without_its_accounts_a_journal_ships_again_and_loses_nothing(tmp_path: Path, damage: str) -> None:
    """The position is learned from the oldest record; a torn slot falls back on the one before."""
    journal, ledger = Journal(tmp_path), FakeLedger()
    journal.append([b"one", b"two"])
    await shipped(journal, ledger)
    journal.append([b"three"])
    journal.close()
    path = tmp_path / "accounts"
    if damage == "removed":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[100:612] = bytes(512)
        path.write_bytes(data)
    ledger.stored.clear()
    again = Journal(tmp_path)
    stored = await shipped(again, ledger)
    assert stored[-1] == b"three"
    assert again.status.set_aside == 0
    check_identity(again)
    again.close()
