"""The online monitors of all arms: fed with each stored decision exactly once, whatever stops in between.

The ledger writes what a transaction brought into the table `monitoring_inbox`, in that very transaction. `feed_now`
takes it from there, oldest first, and writes the monitors' states and removes what they took in one transaction of its
own. So a restart, or a database that goes away, neither loses nor repeats a decision.

A monitor belongs to one version of one variant in one arm of one experiment: its reference is the first
`reference_decisions` decisions of that version there. All tenants count together.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Final

import numpy as np
import structlog
from sqlalchemy import Connection, delete, func, insert, select

from bentos.family import Family
from bentos.thresholds import Thresholds
from monitoring.alerts.tables import MONITORING_STATE
from monitoring.cycle.batches import Brought, Decided, brought, pack, unpack
from monitoring.cycle.feeding import (
    ArmKey,
    Kept,
    Places,
    Remembered,
    Said,
    arrive,
    by_cell,
    count_predictions,
    label,
    newest,
    update,
)
from monitoring.cycle.ratio import Arrivals
from monitoring.cycle.tables import MONITORING_INBOX
from monitoring.drift import state
from monitoring.drift.monitor import ArmMonitor, Watched
from monitoring.drift.results import DriftResult
from monitoring.ledger.aggregating import Changes
from monitoring.ledger.cells import EXPERIMENT, Cell
from services.runtime.database import Database
from services.runtime.errors import InvalidArgument

MAX_WAITING_BYTES: Final = 256 << 20
"""What waits for the monitors at most; batches beyond are not watched, and that is told."""
MAX_MONITORS: Final = 256
"""Of all families; the one that was quiet for longest makes room."""
BATCHES: Final = 32
"""Batches that one transaction takes."""
Predicted = Callable[[list[Said]], None]
_MONITOR: Final = "monitor/"
_ARRIVALS: Final = "arrivals/"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """What a monitor says now."""

    key: ArmKey
    since_us: int
    last_us: int
    decisions: int
    results: tuple[DriftResult, ...]


@dataclass(frozen=True, slots=True)
class Watch:
    """What all monitors know at one moment."""

    standings: tuple[Standing, ...] = ()
    arrivals: Mapping[tuple[str, str], tuple[int, Mapping[str, int]]] = field(default_factory=dict)
    """Units of each (family, experiment) by arm, and the revision under which they came."""


class Monitors:
    """All monitors of a hub. `follow` and `feed_now` run in the database's writing thread.

    Args:
        families: gives a family's declaration, None when there is none.
        thresholds: gives the limits that hold for a family's monitors, before false alarms are shared out.
        predicted: told of what was predicted, once it is watched for good.
    """

    def __init__(
        self,
        families: Callable[[str], Family | None],
        thresholds: Callable[[Family], Thresholds],
        *,
        predicted: Predicted = lambda _: None,
    ) -> None:
        self._families, self._thresholds, self._predicted = families, thresholds, predicted
        self._memory: Remembered | None = None
        self._waiting_bytes: int | None = None
        self._lock = threading.Lock()
        self.unwatched = 0
        """Decisions since the start that were stored and not watched, because too much waited."""

    def follow(self, connection: Connection, changes: Changes) -> None:
        """Notes what a transaction of the ledger brought, in the same transaction."""
        found = brought(changes, lambda name: family.schema if (family := self._families(name)) else None)
        if found is None:
            return
        body = pack(found)
        if self._waiting_bytes is None:
            self._waiting_bytes = _waiting(connection)
        if self._waiting_bytes + len(body) > MAX_WAITING_BYTES:
            if not self.unwatched:
                _log.error("monitors do not keep up: batches are stored and not watched", bytes=self._waiting_bytes)
            self.unwatched += sum(len(one.cells) for one in found.decided.values())
            return
        self._waiting_bytes += len(body)
        newest = connection.scalar(select(func.max(MONITORING_INBOX.c.sequence))) or 0
        connection.execute(insert(MONITORING_INBOX).values(sequence=newest + 1, size=len(body), body=body))

    def feed_now(self, database: Database) -> int:
        """Takes what waits, at most `BATCHES` batches in one transaction; gives how many it took.

        Raises:
            Unavailable: the database refused; the same batches are due again.
        """
        with self._lock:
            if self._memory is not None and self._memory.generation != database.generation:
                self._memory = None
            try:
                taken, said = database.write_now(self._feed, database.generation)
            except BaseException:
                # What is in memory has seen batches that are not gone: it is read anew.
                self._memory = self._waiting_bytes = None
                raise
            self._predicted(said)
            return taken

    def watch(self, database: Database) -> Watch:
        """Gives what every monitor says now.

        Raises:
            Unavailable: the monitors are not in memory, and the database cannot be read.
        """
        with self._lock:
            if self._memory is None:
                # A database that takes no writes may still tell what the monitors knew last.
                self._memory = database.read_now(self._load, database.generation)
            standings = tuple(
                Standing(key, kept.since_us, kept.last_us, kept.decisions, kept.monitor.results())
                for key, kept in sorted(self._memory.kept.items())
            )
            arrivals = {key: (one.revision, dict(one.counts)) for key, one in self._memory.arrivals.items()}
            return Watch(standings, arrivals)

    def _feed(self, connection: Connection, generation: int) -> tuple[int, list[Said]]:
        if self._memory is None:
            self._memory = self._load(connection, generation)
        memory = self._memory
        statement = select(MONITORING_INBOX).order_by(MONITORING_INBOX.c.sequence).limit(BATCHES)
        rows = connection.execute(statement).all()
        changed: set[ArmKey] = set()
        counted: set[tuple[str, str]] = set()
        said: list[Said] = []
        for row in rows:
            try:
                said += self._take(connection, memory, unpack(row.body), changed, counted)
            except InvalidArgument as error:
                # It would fail again for ever, and everything behind it would wait.
                _log.error("a batch that the monitors cannot use is left out", reason=error.message)
        self._save(connection, memory, changed, counted)
        if rows:
            gone = MONITORING_INBOX.c.sequence <= rows[-1].sequence
            connection.execute(delete(MONITORING_INBOX).where(gone))
        self._waiting_bytes = _waiting(connection)
        return len(rows), said

    def _take(
        self,
        connection: Connection,
        memory: Remembered,
        batch: Brought,
        changed: set[ArmKey],
        counted: set[tuple[str, str]],
    ) -> list[Said]:
        """Gives a batch to the monitors; gives what was predicted in it."""
        said: list[Said] = []
        for name, decided in batch.decided.items():
            family = self._families(name)
            if family is None:
                continue
            watched = decided.rows.shape[1] == len(family.schema)
            for cell, places in by_cell(connection, memory, decided.cells):
                said += count_predictions(family, cell, decided, places)
                if not watched:
                    continue
                if cell.population == EXPERIMENT:
                    counted.add(arrive(memory, cell, decided, places))
                changed.update(self._watch(memory, family, cell, decided, batch.versions, places))
        for name, labelled in batch.labelled.items():
            if self._families(name) is not None:
                for cell, places in by_cell(connection, memory, labelled.cells):
                    changed.update(label(memory, cell, labelled, places))
        return said

    def _watch(  # noqa: PLR0917 - one batch's facts, handed on by one caller
        self,
        memory: Remembered,
        family: Family,
        cell: Cell,
        decided: Decided,
        versions: tuple[str, ...],
        places: Places,
    ) -> Iterator[ArmKey]:
        answered = decided.reasons[places] == 0
        for version in dict.fromkeys(decided.versions[places[answered]].tolist()):
            key = ArmKey(cell.family, cell.experiment, cell.arm, cell.variant, versions[version])
            chosen = places[answered & (decided.versions[places] == version)]
            kept = memory.kept.get(key) or self._begin(memory, family, key, int(decided.at_us[chosen].min()))
            update(kept, decided, chosen)
            yield key
        # Who answered instead says nothing of the arm's own variant but that it did not answer.
        instead = places[~answered]
        current = newest(memory.kept, cell[:3])
        if len(instead) and current is not None:
            update(memory.kept[current], decided, instead, absent=True)
            yield current

    def _begin(self, memory: Remembered, family: Family, key: ArmKey, since_us: int) -> Kept:
        number = memory.begun[key.family] = memory.begun.get(key.family, 0) + 1
        base = self._thresholds(family)
        rate = max(base.false_alarm_rate / (number * (number + 1)), 1e-6)
        thresholds = replace(base, false_alarm_rate=rate)
        seed = int.from_bytes(hashlib.sha256(json.dumps(key).encode()).digest()[:3], "big")
        kept = Kept(ArmMonitor(Watched.of(family), thresholds, seed=seed), number, since_us, since_us)
        memory.kept[key] = kept
        return kept

    def _load(self, connection: Connection, generation: int) -> Remembered:
        memory = Remembered(generation, {}, {}, {}, {})
        for name, body in connection.execute(select(MONITORING_STATE.c.name, MONITORING_STATE.c.body)):
            try:
                if name.startswith(_MONITOR):
                    self._restore(memory, body)
                elif name.startswith(_ARRIVALS):
                    fields, arrays = state.unpack("units", body)
                    family, experiment = fields["of"]
                    memory.arrivals[family, experiment] = Arrivals.from_bytes(arrays["units"].tobytes())
            except InvalidArgument as error:
                _log.warning("a monitor's memory cannot be used and begins anew", name=name, reason=error.message)
        return memory

    def _restore(self, memory: Remembered, body: bytes) -> None:
        fields, arrays = state.unpack("kept", body)
        with state.checked("kept"):
            key = ArmKey(*fields["key"])
            number, since_us, last_us, decisions = fields["run"]
            memory.begun[key.family] = max(memory.begun.get(key.family, 0), number)
            family = self._families(key.family)
            if family is None:
                return
            thresholds = Thresholds(**fields["thresholds"])
            monitor = ArmMonitor.from_bytes(arrays["monitor"].tobytes(), Watched.of(family), thresholds)
            memory.kept[key] = Kept(monitor, number, since_us, last_us, decisions)

    def _save(
        self, connection: Connection, memory: Remembered, changed: set[ArmKey], counted: set[tuple[str, str]]
    ) -> None:
        for key in sorted(memory.kept, key=lambda one: memory.kept[one].last_us)[
            : max(0, len(memory.kept) - MAX_MONITORS)
        ]:
            del memory.kept[key]
            changed.discard(key)
            connection.execute(delete(MONITORING_STATE).where(MONITORING_STATE.c.name == _name(_MONITOR, key)))
        for key in sorted(changed):
            kept = memory.kept[key]
            run = [kept.number, kept.since_us, kept.last_us, kept.decisions]
            fields = {"key": list(key), "run": run, "thresholds": asdict(kept.monitor.thresholds)}
            arrays = {"monitor": np.frombuffer(kept.monitor.to_bytes(), np.uint8)}
            put_state(connection, _name(_MONITOR, key), kept.last_us, state.pack("kept", fields, arrays))
        for of in sorted(counted):
            arrays = {"units": np.frombuffer(memory.arrivals[of].to_bytes(), np.uint8)}
            put_state(connection, _name(_ARRIVALS, of), 0, state.pack("units", {"of": list(of)}, arrays))


def put_state(connection: Connection, name: str, at_us: int, body: bytes) -> None:
    """Writes a row of `monitoring_state` in the place of the one that has its name."""
    connection.execute(delete(MONITORING_STATE).where(MONITORING_STATE.c.name == name))
    connection.execute(insert(MONITORING_STATE).values(name=name, at_us=at_us, body=body))


def _name(prefix: str, key: tuple[str, ...]) -> str:
    return prefix + hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]


def _waiting(connection: Connection) -> int:
    return int(connection.scalar(select(func.coalesce(func.sum(MONITORING_INBOX.c.size), 0))) or 0)
