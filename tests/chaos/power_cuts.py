"""Simulated power cuts: what a disk may hold after one, at every byte that a journal wrote.

What was synchronised survives. Of what was written since, any subset may: in order up to a byte, or any writes without
the ones before them, the last one torn. A new file's name survives only a synchronisation of its folder; so does a
removal.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from router.disk import LocalDisk
from router.journal import Journal
from router.segments import segments
from router.shipping import Shipper


@dataclass(frozen=True)
class Write:
    """Bytes put into a file."""

    name: str
    offset: int
    data: bytes


@dataclass(frozen=True)
class Truncate:
    """A file cut to a size."""

    name: str
    size: int


@dataclass(frozen=True)
class Name:
    """A name that came (True) or went."""

    name: str
    there: bool


@dataclass(frozen=True)
class Sync:
    """A file, or with an empty name the folder, brought to stable storage."""

    name: str


@dataclass(frozen=True)
class Promised:
    """Records of which a caller heard `durable`."""

    records: tuple[bytes, ...]


@dataclass(frozen=True)
class Stored:
    """Records that the ledger confirmed."""

    records: tuple[bytes, ...]


Step = Write | Truncate | Name | Sync | Promised | Stored


class RecordingDisk(LocalDisk):
    """The real disk, which notes all that is done to it."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._names: dict[int, str] = {}

    def open(self, path: Path) -> int:
        if not path.exists():
            self.steps.append(Name(path.name, there=True))
        descriptor = super().open(path)
        self._names[descriptor] = path.name
        return descriptor

    def write(self, descriptor: int, data: bytes, offset: int) -> int:
        self.steps.append(Write(self._names[descriptor], offset, data))
        return super().write(descriptor, data, offset)

    def truncate(self, descriptor: int, size: int) -> None:
        self.steps.append(Truncate(self._names[descriptor], size))
        super().truncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        self.steps.append(Sync(self._names[descriptor]))

    def sync_folder(self, folder: Path) -> None:  # noqa: ARG002 - there is only one folder
        self.steps.append(Sync(""))

    def remove(self, path: Path) -> None:
        self.steps.append(Name(path.name, there=False))
        super().remove(path)


class QuickDisk(LocalDisk):
    """The real disk without the waiting: what follows a simulated cut need not survive another one."""

    def sync(self, descriptor: int) -> None:
        pass

    def sync_folder(self, folder: Path) -> None:
        pass


@dataclass
class Plate:
    """What is on the plate for certain, and what may be there."""

    files: dict[str, bytes] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    waiting: list[Write | Truncate] = field(default_factory=list)
    waiting_names: list[Name] = field(default_factory=list)

    def take(self, step: Step) -> None:
        """Goes one step on."""
        match step:
            case Write() | Truncate():
                self.waiting.append(step)
            case Name():
                self.waiting_names.append(step)
            case Sync(name=""):
                for change in self.waiting_names:
                    _rename(self.names, change)
                self.waiting_names.clear()
            case Sync():
                for one in self.waiting:
                    if one.name == step.name:
                        _apply(self.files, one)
                self.waiting = [one for one in self.waiting if one.name != step.name]
            case Promised() | Stored():
                pass

    def after_cut(self, torn: Write | None, chance: random.Random, *, in_order: bool) -> dict[str, bytes]:
        """Gives one of the contents that a power cut may leave; `torn` is the write that was under way."""
        files, names = dict(self.files), set(self.names)
        for change in self.waiting_names:
            if in_order or chance.random() < 0.5:
                _rename(names, change)
        for one in self.waiting:
            if in_order or chance.random() < 0.5:
                _apply(files, one)
        if torn is not None:
            _apply(files, torn)
        return {name: content for name, content in files.items() if name in names} | {
            name: b"" for name in names if name not in files
        }


def _apply(files: dict[str, bytes], change: Write | Truncate) -> None:
    content = files.get(change.name, b"")
    match change:
        case Write(offset=offset, data=data):
            files[change.name] = content[:offset].ljust(offset, b"\0") + data + content[offset + len(data) :]
        case Truncate(size=size):
            files[change.name] = content[:size].ljust(size, b"\0")


def _rename(names: set[str], change: Name) -> None:
    if change.there:
        names.add(change.name)
    else:
        names.discard(change.name)


async def history(folder: Path, seed: int, appends: int) -> list[Step]:
    """Runs a journal through appends, commits, rolls, shipping and a restart; gives all that it did to its disk."""
    chance, disk = random.Random(seed), RecordingDisk()
    written: list[bytes] = []

    async def ship(batch: Sequence[bytes]) -> int:
        disk.steps.append(Stored(tuple(batch)))
        return 0

    def opened() -> Journal:
        return Journal(folder, disk=disk, segment_bytes=700)

    journal = opened()
    for turn in range(appends):
        records = [b"%06d-%03d." % (len(written), n) * chance.randint(1, 6) for n in range(chance.randint(1, 3))]
        assert journal.append(records)
        written += records
        if chance.random() < 0.5:
            assert journal.synchronise() is None
            disk.steps.append(Promised(tuple(written)))
        if journal._segment.size >= 700:
            journal._roll()
        if chance.random() < 0.2:
            await Shipper(journal, ship).step()
        if turn == appends // 2:
            journal.close()
            journal = opened()
    journal.close()
    return disk.steps


@dataclass(frozen=True)
class Cut:
    """A moment of the history without power."""

    files: dict[str, bytes]
    promised: tuple[bytes, ...]
    stored: frozenset[bytes]


def cuts(steps: Sequence[Step], seed: int) -> Iterator[Cut]:
    """Gives every cut: before each step, and inside of each write after every byte; in order and in disorder."""
    chance, plate = random.Random(seed), Plate()
    promised: tuple[bytes, ...] = ()
    stored: frozenset[bytes] = frozenset()
    for step in steps:
        if isinstance(step, Write) and step.name != "accounts":
            for length in range(1, len(step.data)):
                torn = Write(step.name, step.offset, step.data[:length])
                for in_order in (True, False):
                    yield Cut(plate.after_cut(torn, chance, in_order=in_order), promised, stored)
        for in_order in (True, False):
            yield Cut(plate.after_cut(None, chance, in_order=in_order), promised, stored)
        plate.take(step)
        match step:
            case Promised(records):
                promised = records
            case Stored(records):
                stored |= frozenset(records)
            case _:
                pass


async def lost_after(cut: Cut, folder: Path) -> list[bytes]:
    """Opens a journal on what a cut left, ships all of it, and gives the promised records that are nowhere.

    Raises:
        AssertionError: the journal does not go on, or its numbers do not add up.
    """
    for name, content in cut.files.items():
        (folder / name).write_bytes(content)
    arrived = set(cut.stored)

    async def ship(batch: Sequence[bytes]) -> int:
        arrived.update(batch)
        return 0

    journal = Journal(folder, segment_bytes=700, disk=QuickDisk())
    assert journal.append([b"after the cut"])
    assert journal.synchronise() is None
    assert await Shipper(journal, ship).drain(10)
    status = journal.status
    journal.close()
    assert b"after the cut" in arrived
    assert status.pending == 0
    assert status.started == status.stored + status.set_aside
    for path in (*segments(folder), folder / "accounts"):
        path.unlink(missing_ok=True)
    return [record for record in cut.promised if record not in arrived]
