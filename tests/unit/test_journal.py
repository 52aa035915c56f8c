"""Laws of the journal: what was appended is found again, whole and in order, whatever happened to the tail."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import journal as journal_module
from router.journal import Journal, frame, frames, newest, segments
from router.shipping import Shipper

payloads = st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=20)


@given(payloads)
def test_frames_read_back_what_was_framed(items: list[bytes]) -> None:
    """Every payload comes back, in order."""
    assert [payload for _, payload in frames(b"".join(map(frame, items)))] == items


@given(payloads, st.data())
def test_a_cut_at_any_byte_keeps_every_whole_frame_before_it(items: list[bytes], data: st.DataObject) -> None:
    """A power cut at any byte loses only what was not whole."""
    whole = b"".join(map(frame, items))
    cut = data.draw(st.integers(0, len(whole)))
    kept = [payload for _, payload in frames(whole[:cut])]
    assert kept == items[: len(kept)]
    assert sum(len(frame(item)) for item in items[: len(kept) + 1]) > cut or len(kept) == len(items)


@given(payloads, st.data())
def test_a_flipped_bit_never_yields_a_wrong_payload(items: list[bytes], data: st.DataObject) -> None:
    """Damage anywhere ends the reading before the damaged frame."""
    whole = bytearray(b"".join(map(frame, items)))
    where = data.draw(st.integers(0, len(whole) - 1))
    whole[where] ^= 1 << data.draw(st.integers(0, 7))
    kept = [payload for _, payload in frames(bytes(whole))]
    assert kept == items[: len(kept)]
    assert len(kept) < len(items)


@settings(deadline=None, max_examples=20)
@given(payloads, st.binary(max_size=30))
def test_a_torn_tail_is_cut_off_and_the_journal_goes_on(items: list[bytes], torn: bytes) -> None:
    """After a torn write the journal opens, keeps what was whole, and appends behind it."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        first = Journal(path)
        assert first.append(items)
        first.close()
        with segments(path)[0].open("ab") as file:
            file.write(frame(b"x" * 50)[:-1][: len(torn)])
        second = Journal(path)
        assert second.append([b"after"])
        second.close()
        assert newest(path, 1000) == [*items, b"after"]


def test_two_processes_cannot_share_a_journal(tmp_path: Path) -> None:
    """The folder is locked, and the error says what to do."""
    first = Journal(tmp_path)
    with pytest.raises(OSError, match="a name of its own"):
        Journal(tmp_path)
    first.close()


async def test_a_full_disk_holds_frames_and_heals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk refuses, frames wait in memory in order; when it heals, all of them are written."""
    monkeypatch.setattr(journal_module, "RETRY_SECONDS", 0.01)
    real_write = os.write
    full = True

    def write(fd: int, data: bytes) -> int:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(fd, data)

    monkeypatch.setattr(os, "write", write)
    journal = Journal(tmp_path)
    committing = asyncio.create_task(journal.run())
    assert not journal.append([b"one"])
    assert not journal.append([b"two"])
    assert not await journal.committed()
    full = False
    async with asyncio.timeout(10):
        while not await journal.committed():
            await asyncio.sleep(0.01)
    assert journal.append([b"three"])
    assert await journal.committed()
    committing.cancel()
    journal.close()
    assert newest(tmp_path, 10) == [b"one", b"two", b"three"]
    assert journal.lost == 0


async def test_shipping_goes_on_where_it_was_confirmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that was not confirmed travels again; a confirmed one does not; segments roll on the way."""
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 200)
    monkeypatch.setattr("router.shipping.BATCH_RECORDS", 3)
    journal = Journal(tmp_path)
    committing = asyncio.create_task(journal.run())
    sent = [b"%04d" % number for number in range(100)]
    for item in sent:
        journal.append([item])
        if item.endswith(b"0"):
            await journal.committed()
    arrived: list[bytes] = []
    refusals = iter([True, False] * 1000)

    async def ship(batch: object) -> None:
        if next(refusals):
            raise ConnectionError("away")
        arrived.extend(batch)  # type: ignore[arg-type]

    shipper = Shipper(journal, ship)
    for _ in range(1000):
        try:
            if not await shipper.step():
                break
        except ConnectionError:
            shipper = Shipper(journal, ship)
    assert arrived == sent
    assert len(segments(tmp_path)) >= 2
    committing.cancel()
    journal.close()
