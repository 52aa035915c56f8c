"""The store of experiments on both databases: what it keeps is what a simple model of it says, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection, delete, func, inspect, select

from services.control import tables
from services.control.plans import Author, State
from services.control.store import ExperimentStore
from services.runtime.database import Database, open_database
from services.runtime.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from services.runtime.experiment import Experiment, Layer

_T = TypeVar("_T")
ADA = Author("ada", "because")
FILE = "turnout.yaml"
NAMES = st.sampled_from(["one", "two", "three"])
WEIGHTS = st.integers(1, 5)


def experiment(name: str, weight: float = 1, **fields: Any) -> Experiment:
    """An experiment of a family of its own, so that any of them go together."""
    form: dict[str, Any] = {
        "name": name,
        "family": name,
        "salt": "s",
        "champion": "x",
        "strategy": {"kind": "weighted"},
        "arms": {"x": {"variant": "vx", "weight": weight}, "y": {"variant": "vy", "weight": 1}},
    }
    return Experiment.model_validate(form | fields)


def sliced(name: str, start: int, end: int, layer: str = "layer") -> Experiment:
    """An experiment in a slice of a layer."""
    return experiment(name, layer={"layer": layer, "start": start, "end": end})


def weigh(weight: float) -> Any:
    """The change of x's weight."""

    def edit(before: Experiment) -> Experiment:
        arms = {name: arm.model_dump() for name, arm in before.arms.items()}
        arms["x"]["weight"] = weight
        return Experiment.model_validate(before.model_dump() | {"arms": arms})

    return edit


def pause(before: Experiment) -> Experiment:
    """The change to paused."""
    return before.model_copy(update={"paused": True})


def clear(connection: Connection) -> None:
    """Empties the tables, so that each example begins afresh."""
    for table in tables.METADATA.sorted_tables:
        connection.execute(delete(table))


@dataclass
class Entry:
    """A revision as the model has it."""

    revision: int
    definition: Experiment | None
    who: str


class Machine(RuleBasedStateMachine):
    """Changes, restarts and declarations in any order, against the model; `url` is set by the test."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.published: list[State] = []
        self.history: dict[str, list[Entry]] = {}
        self.said: dict[str, Experiment] = {}
        self.version = 0
        self.clock = 0
        self.open()
        self.do(self.database.write(clear))
        self.restart()

    def open(self) -> None:
        """A process begins."""
        self.stack = contextlib.ExitStack()
        self.database: Database = self.stack.enter_context(open_database(self.url))
        self.store = ExperimentStore(self.database, now_us=self.tick, published=self.published.append)

    def tick(self) -> int:
        """The clock."""
        self.clock += 1
        return self.clock

    def do(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Does asynchronous work."""
        return self.loop.run(work)

    def teardown(self) -> None:
        self.stack.close()
        self.loop.close()

    def newest(self, name: str) -> Entry | None:
        """What runs by that name."""
        found = self.history.get(name, [])
        return found[-1] if found and found[-1].definition else None

    def add(self, name: str, definition: Experiment | None, who: str = "ada", *, at_least: int = 1) -> None:
        """The model's next revision."""
        found = self.history.setdefault(name, [])
        revision = max(found[-1].revision + 1 if found else 1, at_least)
        numbered = definition and definition.model_copy(update={"revision": revision})
        found.append(Entry(revision, numbered, who))

    @initialize()
    def begin(self) -> None:
        """Nothing runs at first."""
        assert self.store.state.set.version == 0

    @rule()
    def restart(self) -> None:
        """The process ends and another one begins; the first published state is the whole one."""
        self.stack.close()
        self.open()
        before = len(self.published)
        self.do(self.store.load("somewhere"))
        assert len(self.published) == before + 1
        assert self.store.state.set.origin == "somewhere"

    @rule(name=NAMES, weight=WEIGHTS)
    def create(self, name: str, weight: int) -> None:
        """A taken name is refused."""
        wanted = experiment(name, weight)
        if self.newest(name):
            with pytest.raises(AlreadyExists):
                self.do(self.store.create(wanted, ADA))
            return
        made = self.do(self.store.create(wanted, ADA))
        self.add(name, wanted)
        self.version += 1
        assert made == self.history[name][-1].definition

    @rule(name=NAMES, weight=WEIGHTS, off=st.sampled_from([0, 0, 0, -1, 1, 5]))
    def change(self, name: str, weight: int, off: int) -> None:
        """Only on the newest revision, and only when it makes a difference."""
        present = self.newest(name)
        if present is None or present.definition is None:
            with pytest.raises(NotFound):
                self.do(self.store.change(name, 1, weigh(weight), ADA))
        elif off:
            with pytest.raises(Aborted, match=f"at revision {present.revision}"):
                self.do(self.store.change(name, present.revision + off, weigh(weight), ADA))
        else:
            after = weigh(weight)(present.definition)
            changed = self.do(self.store.change(name, present.revision, weigh(weight), ADA))
            if after != present.definition:
                self.add(name, after)
                self.version += 1
            assert changed == self.history[name][-1].definition

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        """The name is free afterwards."""
        present = self.newest(name)
        if present is None:
            with pytest.raises(NotFound):
                self.do(self.store.delete(name, 1, ADA))
            return
        self.do(self.store.delete(name, present.revision, ADA))
        self.add(name, None)
        self.version += 1

    @rule(name=NAMES)
    def undo(self, name: str) -> None:
        """The definition before the newest change is back, also after a deletion."""
        found = self.history.get(name)
        if not found:
            with pytest.raises(NotFound):
                self.do(self.store.undo(name, 1, ADA))
            return
        before = found[-2].definition if len(found) > 1 else None
        if before is None:
            with pytest.raises(FailedPrecondition, match="delete it instead"):
                self.do(self.store.undo(name, found[-1].revision, ADA))
            return
        back = self.do(self.store.undo(name, found[-1].revision, ADA))
        self.add(name, before)
        self.version += 1
        assert back.model_copy(update={"revision": 1}) == before.model_copy(update={"revision": 1})

    @rule(says=st.dictionaries(NAMES, st.tuples(WEIGHTS, st.integers(1, 12)), max_size=3))
    def declare(self, says: dict[str, tuple[int, int]]) -> None:
        """What the file says anew is taken over; what left it ends only when nobody else touched it."""
        wanted = {name: experiment(name, weight, revision=revision) for name, (weight, revision) in says.items()}
        self.do(self.store.declare(wanted, {}))
        plain = {name: one.model_copy(update={"revision": 1}) for name, one in wanted.items()}
        before = sum(len(found) for found in self.history.values())
        for name, one in plain.items():
            present = self.newest(name)
            now = present.definition.model_copy(update={"revision": 1}) if present and present.definition else None
            if self.said.get(name) != one and now != one:
                self.add(name, one, FILE, at_least=wanted[name].revision)
        for name in self.said.keys() - plain.keys():
            present = self.newest(name)
            if present is not None and present.who == FILE:
                self.add(name, None, FILE)
        self.version += before != sum(len(found) for found in self.history.values())
        self.said = plain

    @invariant()
    def what_runs_is_what_the_model_says(self) -> None:
        """Also what was published last; versions rise by one and never repeat."""
        running = {name: e.definition for name in self.history if (e := self.newest(name)) is not None}
        assert self.store.state.set.experiments == running
        assert self.store.state.set.version == self.version
        assert self.published[-1] is self.store.state
        versions = [state.set.version for state in self.published]
        assert all(later - earlier in {0, 1} for earlier, later in itertools.pairwise(versions))
        assert self.store.state.size == sum(len(one.canonical_json()) for one in running.values() if one)

    @invariant()
    def the_history_is_complete(self) -> None:
        """Every revision is there, newest first, with its definition and its author."""
        for name, entries in self.history.items():
            found = self.do(self.store.history(name, 0, 1000))
            told = [(one.revision, one.after, one.who) for one in found]
            assert told == [(entry.revision, entry.definition, entry.who) for entry in reversed(entries)]
            assert all(one.changes for one in found)


def test_it_keeps_what_a_model_of_it_says(database_url: str) -> None:
    """Creations, changes, undos, deletions, declarations and restarts, in any order."""

    class OnThisDatabase(Machine):
        url = database_url

    few = settings(
        max_examples=12, stateful_step_count=14, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    run_state_machine_as_test(OnThisDatabase, settings=few)


@contextlib.asynccontextmanager
async def opened(url: str) -> Any:
    """An open store."""
    with open_database(url) as database:
        store = ExperimentStore(database, now_us=lambda: 7, published=lambda _: None)
        await store.load("here")
        yield store


def test_the_migration_makes_these_tables(database_url: str) -> None:
    """Column by column: name, type, and whether it may be NULL."""
    with open_database(database_url) as database:

        def look(connection: Connection) -> dict[str, list[tuple[str, str, bool]]]:
            there = inspect(connection)
            return {
                table.name: [(c["name"], str(c["type"]), c["nullable"]) for c in there.get_columns(table.name)]
                for table in tables.METADATA.sorted_tables
            }

        found = database.read_now(look)
    wanted = {
        table.name: [(column.name, str(column.type), bool(column.nullable)) for column in table.columns]
        for table in tables.METADATA.sorted_tables
    }
    assert found == wanted


async def test_two_changers_on_one_base_never_both_win(database_url: str) -> None:
    """Of many at once exactly one succeeds; the others hear what it changed."""
    async with opened(database_url) as store:
        await store.create(experiment("one"), ADA)
        changes = [store.change("one", 1, weigh(weight), Author(f"op{weight}", "")) for weight in range(2, 12)]
        results = await asyncio.gather(*changes, return_exceptions=True)
        won = [result for result in results if isinstance(result, Experiment)]
        lost = [str(result) for result in results if isinstance(result, Aborted)]
        assert (len(won), len(lost)) == (1, 9)
        weight = won[0].arms["x"].weight
        said = f"base_revision is 1 and the experiment is at revision 2; since then: weights[x]: 1 → {weight:g}"
        assert set(lost) == {f"{said} (last by op{weight:g})"}


async def test_slices_of_a_layer_never_overlap(database_url: str) -> None:
    """Whoever changes what: creating, changing, undoing, and a declaration are refused whole, and nothing changes."""
    async with opened(database_url) as store:
        with pytest.raises(InvalidArgument, match="there is no layer 'layer'"):
            await store.create(sliced("one", 0, 10), ADA)
        assert await store.set_layer("layer", Layer(salt="s"), 0, ADA) == 1
        await store.create(sliced("one", 0, 10), ADA)
        with pytest.raises(
            InvalidArgument, match=r"slices of layer 'layer' overlap: .* of experiment 'one'"
        ) as refusal:
            await store.create(sliced("two", 9, 20), ADA)
        assert refusal.value.field == "experiment.layer"
        await store.create(sliced("two", 10, 20), ADA)
        await store.delete("one", 1, ADA)
        await store.create(sliced("three", 5, 10), ADA)
        with pytest.raises(FailedPrecondition, match="no longer fits: slices of layer 'layer' overlap"):
            await store.undo("one", 2, ADA)
        version = store.state.set.version
        with pytest.raises(InvalidArgument):
            await store.declare({"four": experiment("four"), "five": sliced("five", 0, 6)}, {"layer": Layer(salt="s")})
        assert store.state.set.version == version
        assert set(store.state.set.experiments) == {"two", "three"}
        # What was refused was not remembered either: corrected, it is taken over.
        await store.declare({"four": experiment("four"), "five": sliced("five", 0, 5)}, {"layer": Layer(salt="s")})
        assert set(store.state.set.experiments) == {"two", "three", "four", "five"}


async def test_layers_make_no_cycle_and_stay_while_they_are_used(database_url: str) -> None:
    """A layer within itself, however far around, is refused; so is a change that is not based on the newest one."""
    inside = {"start": 0, "end": 5}
    async with opened(database_url) as store:
        await store.set_layer("outer", Layer(salt="s"), 0, ADA)
        await store.set_layer(
            "inner", Layer.model_validate({"salt": "s", "within": {"layer": "outer"} | inside}), 0, ADA
        )
        cycle = Layer.model_validate({"salt": "s", "within": {"layer": "inner"} | inside})
        with pytest.raises(InvalidArgument, match="within itself") as refusal:
            await store.set_layer("outer", cycle, 1, ADA)
        assert refusal.value.field == "layer.within"
        with pytest.raises(Aborted, match="layer 'inner' is at revision 1"):
            await store.set_layer("inner", Layer(salt="t"), 0, ADA)
        with pytest.raises(FailedPrecondition, match="'outer' is used by layer 'inner'"):
            await store.delete_layer("outer", 1, ADA)
        await store.create(sliced("one", 0, 10, "inner"), ADA)
        with pytest.raises(FailedPrecondition, match="'inner' is used by experiment 'one'"):
            await store.delete_layer("inner", 1, ADA)
        await store.delete("one", 1, ADA)
        await store.delete_layer("inner", 1, ADA)
        await store.delete_layer("outer", 1, ADA)
        with pytest.raises(NotFound):
            await store.delete_layer("outer", 2, ADA)
        assert await store.set_layer("outer", Layer(salt="again"), 0, ADA) == 3
        told = await store.layer_history("outer", 0, 10)
        assert [(one.revision, one.after and one.after.salt, one.who) for one in told] == [
            (3, "again", ADA.who),
            (2, None, ADA.who),
            (1, "s", ADA.who),
        ]
        assert [one.revision for one in await store.layer_history("outer", 3, 1)] == [2]
        with pytest.raises(NotFound, match="there never was"):
            await store.layer_history("never", 0, 10)
        assert store.state.layer_revisions == {"outer": 3}


async def test_layers_of_the_file_end_with_it_unless_somebody_is_in_them(database_url: str) -> None:
    """A layer that left the file stays while an experiment, or a layer that stays, is within it."""
    inner = Layer.model_validate({"salt": "i", "within": {"layer": "outer", "start": 0, "end": 5}})
    layers = {"outer": Layer(salt="o"), "inner": inner, "other": Layer(salt="x"), "touched": Layer(salt="t")}
    async with opened(database_url) as store:
        await store.declare({}, layers)
        await store.create(sliced("one", 0, 10, "inner"), ADA)
        await store.set_layer("touched", Layer(salt="mine"), 1, ADA)
        await store.declare({}, {})
        assert set(store.state.set.layers) == {"outer", "inner", "touched"}


async def test_a_change_goes_on_when_its_caller_leaves(database_url: str) -> None:
    """It is stored or not, and what is stored is published: a caller that was cut off changes nothing about that."""
    async with opened(database_url) as store:
        await store.create(experiment("one"), ADA)
        change = asyncio.create_task(store.change("one", 1, pause, ADA))
        await asyncio.sleep(0)
        change.cancel()
        with pytest.raises(asyncio.CancelledError):
            await change
        async with asyncio.timeout(10):
            while not store.state.set.experiments["one"].paused:
                await asyncio.sleep(0.001)
        assert store.state.set.experiments["one"].revision == 2


async def test_an_experiment_that_is_too_large_for_a_journal_is_refused(database_url: str) -> None:
    """1 000 units of a kilobyte each are; nothing is stored of it."""
    units = {f"{number:04}" + "u" * 1000: "x" for number in range(1000)}
    async with opened(database_url) as store:
        with pytest.raises(InvalidArgument, match="larger than 1000000 bytes"):
            await store.create(experiment("one", overrides=units), ADA)
        assert store.state.set.experiments == {}


async def test_a_long_history_is_read_in_pages(database_url: str) -> None:
    """Each page goes on where the one before ended; thousands of revisions leave nothing behind in memory."""
    async with opened(database_url) as store:
        await store.create(experiment("one"), ADA)
        for revision in range(1, 60):
            await store.change("one", revision, weigh(revision + 1), ADA)
        first = await store.history("one", 0, 50)
        rest = await store.history("one", first[-1].revision, 50)
        assert [one.revision for one in (*first, *rest)] == list(range(60, 0, -1))
        assert await store.history("one", 1, 50) == []
        with pytest.raises(NotFound):
            await store.history("two", 0, 50)
        rows = await store._database.read(lambda c: c.scalar(select(func.count()).select_from(tables.EXPERIMENTS)))
        assert rows == 1


async def test_what_could_not_be_read_after_a_lost_connection_is_read_later(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that comes back and goes away again leaves no router on an old set for good."""
    with open_database(database_url) as database:
        store, other = (
            ExperimentStore(database, now_us=itertools.count(1).__next__, published=lambda _: None) for _ in range(2)
        )
        await store.load("origin")
        await other.load("origin")
        await other.create(experiment("one"), ADA)
        read, failures = Database.read, [Unavailable("", "away")]

        async def failing(self: Database, *given: Any) -> Any:
            if failures:
                raise failures.pop()
            return await read(self, *given)

        lost = database.generation + 1
        monkeypatch.setattr(Database, "generation", property(lambda _: lost))
        monkeypatch.setattr(Database, "read", failing)
        with pytest.raises(Unavailable):
            await store.refresh()
        await store.refresh()
        assert store.state.set == other.state.set
        assert set(store.state.set.experiments) == {"one"}
