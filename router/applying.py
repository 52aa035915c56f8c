"""Swaps configurations and sets of experiments in: checked and made ready whole, or refused while the old one stays.

The families and addresses come from turnout.yaml, the experiments from the hub. Until the hub has said anything the
file's own experiments hold; after that its `experiments` section is the hub's business, which takes changes over from
there. Either side may be ahead of the other: a variant that a set needs may be declared a moment later, one that the
file dropped may still be in use. So what does not fit yet is tried again when the other side has changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from bentos.family import RULES
from router.deciding import Decider
from router.experiment_metrics import ExperimentMetrics
from router.last_good import LastGood
from router.strategies.family import Compiler, FamilyExperiments
from router.tables import TableBuilder
from services.runtime.config import Config, ConfigError
from services.runtime.errors import InvalidArgument
from services.runtime.experiment import Experiment
from services.runtime.experiment_messages import set_from_message
from services.runtime.experiment_set import ExperimentSet
from turnout.v1 import experiment_pb2, ledger_pb2

_log = structlog.get_logger(__name__)
MAX_CANONICAL_BYTES: Final = 1_000_000
"""Of an experiment, or of a family's set: it must fit into a record of the journal, for replay."""
Families = Mapping[str, FamilyExperiments]


class Misfit(Exception):
    """A set and a configuration do not go together; the text says why."""


class Applier:
    """Owns what is applied. One change at a time; `decider.table` is swapped by a single assignment."""

    def __init__(
        self,
        tables: TableBuilder,
        decider: Decider,
        *,
        metrics: ExperimentMetrics,
        configuration: Callable[..., None],
        last_good: LastGood,
        config: Config,
        starting: Starting,
        now_unix_us: Callable[[], int],
    ) -> None:
        """Goes on from `starting`, whose table must be the decider's; notes in the decider's journal what it applies.

        Args:
            tables: builds the tables.
            decider: gets them.
            metrics: hears of experiments.
            configuration: hears whether a file was applied.
            last_good: keeps the hub's sets.
            config: the file as it was read at the start.
            starting: what the router started with.
            now_unix_us: gives the time, in microseconds since 1970-01-01T00:00Z.
        """
        self._tables = tables
        self._decider = decider
        self._metrics = metrics
        self._configuration = configuration
        self._last_good = last_good
        self._config = config
        self._waiting_config: Config | None = None
        self._set = starting.set
        self._compiler = starting.compiler
        self._families: Families = {}
        self._now_unix_us = now_unix_us
        self._lock = asyncio.Lock()
        self._configured = asyncio.Event()
        self.configurations = 0
        """Changes of the file that were applied."""
        self._note(starting.families)

    @property
    def version(self) -> int:
        """Version of the hub's set that is applied; 0 while it is none of the hub's."""
        return self._set.version if self._set is not None else 0

    @property
    def origin(self) -> str:
        """Database that `version` counts in; empty while it is none of the hub's sets."""
        return self._set.origin if self._set is not None else ""

    def ready(self) -> frozenset[tuple[str, str]]:
        """Gives the families and variants that could answer now."""
        return self._decider.table.ready()

    async def apply_config(self, config: Config) -> None:
        """Applies a changed file.

        Raises:
            ConfigError: it does not fit the hub's experiments, or a family is not declared in this program.
        """
        async with self._lock:
            await self._apply_config(config)
        self.configurations += 1
        self._configured.set()
        self._configured = asyncio.Event()

    async def _apply_config(self, config: Config) -> None:
        own = ExperimentSet(0, config.experiments, config.layers)
        self._waiting_config = config
        try:
            families = await asyncio.to_thread(_compiled, self._compiler, self._set or own, config)
        except Misfit as misfit:
            raise ConfigError(f"{misfit}: it is applied as soon as the experiments fit") from misfit
        table, retired = self._tables.build(config, families)
        self._waiting_config = None
        self._note(families)
        self._decider.table = table
        self._config = config
        self._configuration(applied=True)
        _log.info("configuration applied", set=self.version)
        self._tables.retire(retired)

    def refused(self) -> None:
        """Counts a file that was refused."""
        self._configuration(applied=False)

    async def apply_set(self, message: experiment_pb2.ExperimentSet, *, patience_seconds: float = 0.0) -> str:
        """Applies a set of the hub; gives "" or, when it was refused and the old one stays, the reason.

        Args:
            message: the set.
            patience_seconds: how long to wait for a change of the file when the set names what the file does not.
        """
        configured = self._configured
        refusal = await self._try_set(message)
        if refusal and patience_seconds:
            try:
                async with asyncio.timeout(patience_seconds):
                    await configured.wait()
            except TimeoutError:
                return refusal
            refusal = await self._try_set(message)
        return refusal

    async def _try_set(self, message: experiment_pb2.ExperimentSet) -> str:
        async with self._lock:
            try:
                given, families = await asyncio.to_thread(_read, self._compiler, message, self._config)
                table, retired = self._tables.build(self._config, families)
            except (InvalidArgument, Misfit, ConfigError) as error:
                _log.error("experiments refused; the old ones stay", version=message.version, reason=str(error))
                self._metrics.sets(applied=False)
                return str(error)
            self._set = given
            self._note(families)
            self._decider.table = table
            self._metrics.sets(applied=True)
            _log.info("experiments applied", version=given.version)
            self._tables.retire(retired)
            try:
                await asyncio.to_thread(self._last_good.save, message)
            except OSError as error:
                # They are applied all the same: only a start without the hub would miss them.
                _log.error("experiments could not be kept on disk", path=str(self._last_good.path), exc_info=error)
            await self._try_waiting_config()
        return ""

    async def _try_waiting_config(self) -> None:
        if self._waiting_config is not None:
            try:
                await self._apply_config(self._waiting_config)
            except ConfigError as error:
                _log.error("configuration refused; the old one stays", reason=str(error))

    def _note(self, families: Families) -> None:
        """Writes into the journal what decisions will refer to, before the first of them is made."""
        records = _snapshots(
            families, self._families, self._decider.router, version=self.version, now_us=self._now_unix_us()
        )
        if records:
            self._decider.journal.append(records)
        self._families = families
        self._decider.metrics.forget(self._metrics.applied(families.values()))


class Starting:
    """What a router starts with: the last good set when it has one that fits, else the file's own experiments."""

    def __init__(self, config: Config, last_good: LastGood) -> None:
        self.compiler = Compiler()
        self.set: ExperimentSet | None = None
        kept = last_good.load()
        if kept is not None:
            try:
                self.set, self.families = _read(self.compiler, kept, config)
            except (InvalidArgument, Misfit) as error:
                _log.error("the kept experiments do not fit; the file's hold", reason=str(error))
            else:
                return
        own = ExperimentSet(0, config.experiments, config.layers)
        try:
            self.families = _compiled(self.compiler, own, config)
        except Misfit as misfit:
            raise ConfigError(str(misfit)) from misfit


def _read(
    compiler: Compiler, message: experiment_pb2.ExperimentSet, config: Config
) -> tuple[ExperimentSet, dict[str, FamilyExperiments]]:
    given = set_from_message(message)
    return given, _compiled(compiler, given, config)


def _compiled(compiler: Compiler, given: ExperimentSet, config: Config) -> dict[str, FamilyExperiments]:
    """Makes a set ready. Runs in a thread: the longest rotations take milliseconds each.

    Raises:
        Misfit: it names a family or a variant that the configuration does not have, or is too long for the journal.
    """
    for experiment in given.experiments.values():
        _check_fits(experiment, config)
    families = compiler.compile(given.experiments, given.layers)
    for family in families.values():
        if len(family.canonical) > MAX_CANONICAL_BYTES:
            raise Misfit(f"experiments of family {family.family!r}: over {MAX_CANONICAL_BYTES} bytes in canonical form")
    return families


def _check_fits(experiment: Experiment, config: Config) -> None:
    where = f"experiments[{experiment.name}]"
    family = config.families.get(experiment.family)
    if family is None:
        raise Misfit(f"{where}: this router serves no family {experiment.family!r}")
    used = {*(arm.variant for arm in experiment.arms.values()), *experiment.shadows} - {RULES}
    unknown = sorted(used - family.variants.keys())
    if unknown:
        raise Misfit(f"{where}: this router knows no variant {unknown[0]!r} of family {experiment.family!r}")
    # Only long overrides can make it as long as this.
    if len(experiment.overrides) > 100 and len(experiment.canonical_json()) > MAX_CANONICAL_BYTES:
        raise Misfit(f"{where}: over {MAX_CANONICAL_BYTES} bytes in canonical form; name fewer or shorter overrides")


def _snapshots(families: Families, before: Families, router: str, *, version: int, now_us: int) -> list[bytes]:
    """Gives the journal's records of the experiments and sets that changed."""
    records = []

    def note(family: str, revision: int, digest: int, canonical: str) -> None:
        snapshot = ledger_pb2.ExperimentSnapshot(
            family=family,
            revision=revision,
            digest=digest,
            canonical_json=canonical,
            applied_at_unix_us=now_us,
            router=router,
        )
        records.append(ledger_pb2.JournalRecord(snapshot=snapshot).SerializeToString())

    for name, family in families.items():
        old = before.get(name)
        if old is not None and old.digest == family.digest:
            continue
        known = set(old.digests.values()) if old is not None else set()
        for experiment, digest in family.digests.items():
            if digest not in known:
                one = family.experiments[experiment].experiment
                note(name, one.revision, digest, one.canonical_json())
        note(name, version, family.digest, family.canonical)
    return records
