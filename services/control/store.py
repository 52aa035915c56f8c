"""Experiments in the database: each change is checked against the whole set, based on a revision, and kept for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy import Connection

from services.control import rows
from services.control.declaration import FILE, declared_texts, plan_declaration
from services.control.plans import Author, Plan, State, apply_plan, next_layer_revision, next_revision, plan_of
from services.control.refusals import check_layer_base, layer_misfit, misfit, present_at, stale, unknown
from services.control.rows import Revision
from services.runtime.database import Database
from services.runtime.errors import AlreadyExists, FailedPrecondition, NotFound, TurnoutError
from services.runtime.experiment import Experiment, Layer
from services.runtime.experiment_set import SetError

_NEWEST: Final = 1 << 62
_audit = structlog.get_logger("audit")
Edit = Callable[[Experiment], Experiment]
"""Gives the definition after a change, or raises; runs in the writer's thread."""
Making = Callable[[Connection, State], Plan]
Published = Callable[[State], None]


@dataclass(frozen=True, slots=True)
class _Committed:
    plan: Plan
    state: State


class ExperimentStore:
    """The experiments of a database. `load` it before anything else; its methods belong to one event loop.

    Args:
        database: where they are.
        now_us: microseconds since 1970-01-01T00:00Z.
        published: hears each new state once it is on stable storage, in the order of the versions.
    """

    def __init__(self, database: Database, *, now_us: Callable[[], int], published: Published) -> None:
        self._database = database
        self._now_us = now_us
        self._published = published
        self._generation = database.generation
        self._under_way: set[asyncio.Task[_Committed]] = set()
        self.state = State()

    async def load(self, origin: str) -> None:
        """Reads what runs.

        Args:
            origin: a name, never used before, for the database if it is a fresh one.

        Raises:
            Unavailable: the database cannot be read, or written.
        """
        await self._database.write(rows.begin, origin, self._now_us())
        self.state = await self._database.read(rows.read_state)
        self._published(self.state)

    async def create(self, experiment: Experiment, author: Author) -> Experiment:
        """Makes an experiment. A name that was deleted goes on with the next revision, so that none is used twice.

        Raises:
            AlreadyExists: the name is taken.
            InvalidArgument: it does not fit to the others.
        """
        name = experiment.name

        def plan(connection: Connection, state: State) -> Plan:
            if name in state.set.experiments:
                raise AlreadyExists("experiment.name", f"there is an experiment {name!r} already: update it instead")
            newest = rows.newest_of(connection, "experiment", name).revision
            return plan_of(next_revision(None, experiment, newest, author, name=name))

        return (await self._commit(plan, author, misfit(name))).state.set.experiments[name]

    async def change(self, name: str, base_revision: int, edit: Edit, author: Author) -> Experiment:
        """Changes an experiment; what makes no difference makes no revision.

        Raises:
            NotFound: there is none of that name.
            Aborted: base_revision is not the newest; the text tells what changed since.
            InvalidArgument: it would not fit to the others; or whatever `edit` raises.
        """

        def plan(connection: Connection, state: State) -> Plan:
            present = present_at(connection, state, name, base_revision)
            return plan_of(next_revision(present, edit(present), present.revision, author, name=name))

        return (await self._commit(plan, author, misfit(name))).state.set.experiments[name]

    async def delete(self, name: str, base_revision: int, author: Author) -> None:
        """Ends an experiment; raises as `change` does."""

        def plan(connection: Connection, state: State) -> Plan:
            present = present_at(connection, state, name, base_revision)
            return plan_of(next_revision(present, None, present.revision, author, name=name))

        await self._commit(plan, author, misfit(name))

    async def undo(self, name: str, base_revision: int, author: Author) -> Experiment:
        """Takes the newest change back, a deletion too; raises as `change` does.

        Raises:
            FailedPrecondition: nothing was there before the newest change, or it no longer fits to the others.
        """

        def plan(connection: Connection, state: State) -> Plan:
            history = rows.revisions_before(connection, name, _NEWEST, 2)
            if not history:
                raise unknown(name)
            if history[0].revision != base_revision:
                raise stale(connection, name, base_revision)
            before = history[1].after if len(history) > 1 else None
            if before is None:
                sentence = f"nothing ran as {name!r} before its newest change: delete it instead"
                raise FailedPrecondition("name", sentence)
            present = state.set.experiments.get(name)
            return plan_of(next_revision(present, before, base_revision, author, name=name))

        def no_longer_fits(error: SetError) -> TurnoutError:
            return FailedPrecondition("name", f"what was there before no longer fits: {error}")

        return (await self._commit(plan, author, no_longer_fits)).state.set.experiments[name]

    async def set_layer(self, name: str, layer: Layer, base_revision: int, author: Author) -> int:
        """Makes (base 0) or changes a layer; gives its revision. Raises as `change` does."""

        def plan(connection: Connection, state: State) -> Plan:
            check_layer_base(state, name, base_revision)
            newest = rows.newest_of(connection, "layer", name).revision
            return plan_of(next_layer_revision(state.set.layers.get(name), layer, newest, author, name=name))

        return (await self._commit(plan, author, layer_misfit(name))).state.layer_revisions[name]

    async def delete_layer(self, name: str, base_revision: int, author: Author) -> None:
        """Removes a layer.

        Raises:
            NotFound: there is none of that name.
            Aborted: base_revision is not the newest.
            FailedPrecondition: an experiment or another layer uses it.
        """

        def plan(connection: Connection, state: State) -> Plan:
            if name not in state.set.layers:
                raise NotFound("name", f"there is no layer {name[:64]!r}")
            check_layer_base(state, name, base_revision)
            newest = rows.newest_of(connection, "layer", name).revision
            return plan_of(next_layer_revision(state.set.layers[name], None, newest, author, name=name))

        def used(error: SetError) -> TurnoutError:
            return FailedPrecondition("name", f"{name!r} is used by {error.path[0][:-1]} {error.path[1]!r}")

        await self._commit(plan, author, used)

    async def declare(self, experiments: Mapping[str, Experiment], layers: Mapping[str, Layer]) -> Plan:
        """Takes over what turnout.yaml says and did not say before; see `plan_declaration`. Gives what was done.

        Raises:
            InvalidArgument: together with what operators made it breaks a rule; nothing was taken over.
        """

        def plan(connection: Connection, state: State) -> Plan:
            said = rows.read_declared(connection)
            says = declared_texts(experiments, layers)
            if says == said:
                return Plan()
            rows.write_declared(connection, says)

            def newest_of(kind: rows.Kind, name: str) -> rows.Newest:
                return rows.newest_of(connection, kind, name)

            return plan_declaration(state, said, experiments, layers, newest_of)

        return (await self._commit(plan, Author(FILE, ""), misfit(""))).plan

    async def history(self, name: str, before: int, limit: int) -> list[Revision[Experiment]]:
        """Gives a page of an experiment's history, newest first, also of a deleted one.

        Raises:
            NotFound: there never was one of that name.
        """
        found = await self._database.read(rows.revisions_before, name, before or _NEWEST, limit)
        if not found and not await self._database.read(rows.revisions_before, name, _NEWEST, 1):
            raise unknown(name)
        return found

    async def layer_history(self, name: str, before: int, limit: int) -> list[Revision[Layer]]:
        """Gives a page of a layer's history, newest first, also of a deleted one.

        Raises:
            NotFound: there never was one of that name.
        """
        found = await self._database.read(rows.layer_revisions_before, name, before or _NEWEST, limit)
        if not found and not await self._database.read(rows.layer_revisions_before, name, _NEWEST, 1):
            raise NotFound("name", f"there is no layer {name[:64]!r}, and there never was")
        return found

    async def refresh(self) -> None:
        """Reads again what runs, when the connection to the database was lost meanwhile."""
        generation = self._database.generation
        if generation != self._generation:
            self._swap(await self._database.read(rows.read_state))
            self._generation = generation

    async def _commit(self, making: Making, author: Author, fault: Callable[[SetError], TurnoutError]) -> _Committed:
        """Makes a plan on the newest state, checks it and stores it. Goes on when its caller no longer waits."""

        def work(connection: Connection) -> _Committed:
            known = self.state
            state = known if known.set.version == rows.read_version(connection) else rows.read_state(connection)
            plan = making(connection, state)
            if not plan:
                return _Committed(plan, state)
            try:
                after = apply_plan(state, plan)
            except SetError as error:
                raise fault(error) from error
            rows.write_plan(connection, plan, after.set.version, self._now_us())
            return _Committed(plan, after)

        async def commit() -> _Committed:
            committed = await self._database.write(work)
            self._swap(committed.state)
            _tell(committed, author)
            return committed

        task = asyncio.create_task(commit())
        self._under_way.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[_Committed]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            # A caller that left does not hear of it; a change that failed changed nothing.
            task.exception()

    def _swap(self, state: State) -> None:
        if state.set.version > self.state.set.version:
            self.state = state
            self._published(state)


def _tell(committed: _Committed, author: Author) -> None:
    """Writes the audit log."""
    for change in committed.plan.experiments:
        _audit.info(
            "experiment changed",
            who=author.who,
            peer=author.peer,
            why=author.why,
            experiment=change.name,
            revision=change.revision,
            version=committed.state.set.version,
            changes=list(change.changes),
        )
    for layer in committed.plan.layers:
        _audit.info(
            "layer changed",
            who=author.who,
            peer=author.peer,
            why=author.why,
            layer=layer.name,
            revision=layer.revision,
            version=committed.state.set.version,
            changes=list(layer.changes),
        )
