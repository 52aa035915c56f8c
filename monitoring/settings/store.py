"""Settings in the database: every revision whole, with who, when, why and what."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from sqlalchemy import Connection, func, select

from monitoring.alerts.book import Rules
from monitoring.alerts.kinds import DEFAULT_RULES, Rule, Severity
from monitoring.alerts.tables import MONITORING_SETTINGS
from monitoring.settings.changes import describe_changes
from services.runtime.database import Database
from services.runtime.errors import Aborted, PermissionDenied
from services.runtime.monitoring_config import AlertHandler, AlertRule, MonitoringSettings

FILE: Final = "turnout.yaml"
"""Who made the revisions that came from the configuration file."""
_audit: Final[Any] = structlog.get_logger("turnout.audit")


@dataclass(frozen=True, slots=True)
class Revision:
    """Settings as somebody left them."""

    revision: int
    at_us: int
    who: str
    why: str
    changes: tuple[str, ...]
    settings: MonitoringSettings


class SettingsStore:
    """The settings in force. Made by `open_settings`.

    Args:
        database: the hub's.
        newest: the revision in force.
        declared: the file's settings, which alone say what secrets, files and code a handler may use.
        now_us: microseconds since 1970-01-01T00:00Z.
    """

    def __init__(
        self, database: Database, newest: Revision, *, declared: MonitoringSettings, now_us: Callable[[], int]
    ) -> None:
        self._database, self._newest, self._declared, self._now_us = database, newest, declared, now_us
        self._rules = rules_of(newest.settings)

    @property
    def newest(self) -> Revision:
        """The revision in force."""
        return self._newest

    @property
    def current(self) -> MonitoringSettings:
        """The settings in force."""
        return self._newest.settings

    def rules(self) -> Rules:
        """How each type of alert behaves now."""
        return self._rules

    async def change(self, settings: MonitoringSettings, *, base_revision: int, who: str, why: str) -> Revision:
        """Replaces the settings whole; the same settings make no new revision.

        Raises:
            Aborted: base_revision is not the newest; says what changed since.
            PermissionDenied: a handler uses a secret, a file or code as the file does not declare it.
            Unavailable: the database refused; nothing has changed.
        """
        present = self._newest
        if base_revision != present.revision:
            message = f"base_revision is {base_revision} and the settings are at revision {present.revision}"
            raise Aborted("base_revision", f"{message}: look at them and try again")
        check_trust(settings.handlers, self._declared.handlers)
        changes = describe_changes(present.settings, settings)
        if not changes:
            return present
        after = Revision(present.revision + 1, self._now_us(), who, why, tuple(changes), settings)
        await self._database.write(insert, after)
        self._newest, self._rules = after, rules_of(settings)
        _audit.info("monitoring settings changed", who=who, why=why, revision=after.revision, changes=changes)
        return after

    async def history(self, *, before_revision: int, limit: int) -> list[Revision]:
        """Gives revisions, newest first.

        Args:
            before_revision: only older ones than this; 0 means all.
            limit: at most so many.

        Raises:
            Unavailable: the database refused.
        """
        return await self._database.read(_load, before_revision, limit)


async def open_settings(
    database: Database, declared: MonitoringSettings, *, now_us: Callable[[], int]
) -> SettingsStore:
    """Takes up the settings where the database has them.

    The file's section is the first revision; and when the file says something else than it last did, that is a change
    too, made at the start of the hub: the newest word counts, and the history has both.

    Args:
        database: the hub's.
        declared: the section `monitoring` of turnout.yaml.
        now_us: microseconds since 1970-01-01T00:00Z.

    Raises:
        Unavailable: the database refused.
    """

    def work(connection: Connection) -> Revision:
        newest = next(iter(_load(connection, 0, 1)), None)
        question = select(MONITORING_SETTINGS).where(MONITORING_SETTINGS.c.who == FILE)
        row = connection.execute(question.order_by(MONITORING_SETTINGS.c.revision.desc()).limit(1)).first()
        if newest is not None and row is not None and _read(row).settings == declared:
            return newest
        before = newest.settings if newest is not None else MonitoringSettings()
        number = newest.revision + 1 if newest is not None else 1
        changes = tuple(describe_changes(before, declared))
        revision = Revision(number, now_us(), FILE, "as the file says", changes, declared)
        insert(connection, revision)
        return revision

    return SettingsStore(database, await database.write(work), declared=declared, now_us=now_us)


def check_trust(handlers: Mapping[str, AlertHandler], declared: Mapping[str, AlertHandler]) -> None:
    """Refuses a handler that uses a secret, a file or code in a way that the file does not declare.

    A caller could otherwise have the hub send a password to a server of the caller's choice, or run code.

    Raises:
        PermissionDenied: names the handler.
    """
    trusted = [handler.kind for handler in declared.values()]
    for name, handler in handlers.items():
        if handler.trusted_only and handler.kind not in trusted:
            field = f"settings.handlers.{name}"
            message = f"{field}: a handler that uses a secret, a file or code must stand in turnout.yaml just so"
            raise PermissionDenied(field, message)


def rules_of(settings: MonitoringSettings) -> Rules:
    """Gives how each type behaves: the settings' word where there is one, else the manual's."""
    return {kind: _rule(rule, settings.rules.get(kind.value)) for kind, rule in DEFAULT_RULES.items()}


def _rule(manual: Rule, said: AlertRule | None) -> Rule:
    if said is None:
        return manual
    fields: dict[str, Any] = said.model_dump(exclude_none=True)
    for name in ("severity", "escalate_to"):
        if name in fields:
            fields[name] = Severity[fields[name].upper()]
    values = {name: getattr(manual, name) for name in Rule.__dataclass_fields__}
    return Rule(**{**values, **fields})


def insert(connection: Connection, revision: Revision) -> None:
    """Stores a revision.

    Raises:
        Aborted: another one is newer.
    """
    newest = connection.scalar(select(func.max(MONITORING_SETTINGS.c.revision))) or 0
    if newest != revision.revision - 1:
        message = f"the settings are at revision {newest} by now: look at them and try again"
        raise Aborted("base_revision", message)
    connection.execute(
        MONITORING_SETTINGS.insert().values(
            revision=revision.revision,
            at_us=revision.at_us,
            who=revision.who,
            why=revision.why,
            changes=json.dumps(revision.changes, ensure_ascii=False),
            settings=revision.settings.model_dump_json(exclude_none=True),
        )
    )


def _load(connection: Connection, before_revision: int, limit: int) -> list[Revision]:
    question = select(MONITORING_SETTINGS).order_by(MONITORING_SETTINGS.c.revision.desc()).limit(limit)
    if before_revision:
        question = question.where(MONITORING_SETTINGS.c.revision < before_revision)
    return [_read(row) for row in connection.execute(question)]


def _read(row: Any) -> Revision:
    settings = MonitoringSettings.model_validate_json(row.settings)
    return Revision(row.revision, row.at_us, row.who, row.why, tuple(json.loads(row.changes)), settings)
