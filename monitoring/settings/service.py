"""The calls of MonitoringService that are about settings, without their transport."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from monitoring.alerts.requests import DEFAULT_PAGE, MAX_PAGE, check_why
from monitoring.settings.messages import read_settings, settings_message
from monitoring.settings.store import Revision, SettingsStore
from services.runtime.call import Call
from services.runtime.deadlines import in_time
from services.runtime.errors import InvalidArgument
from services.runtime.monitoring_config import MonitoringSettings
from turnout.v1 import monitoring_pb2

LONGEST_SECONDS: Final = 30.0


class SettingsCalls:
    """The settings calls.

    Args:
        store: the settings.
        changed: called after each change, before its caller hears of it.
    """

    def __init__(self, store: SettingsStore, *, changed: Callable[[MonitoringSettings], Awaitable[None]]) -> None:
        self._store, self._changed = store, changed

    async def get_settings(
        self, request: monitoring_pb2.GetSettingsRequest, call: Call
    ) -> monitoring_pb2.GetSettingsResponse:
        """Gives the settings in force."""
        del request, call
        newest = self._store.newest
        return monitoring_pb2.GetSettingsResponse(revision=newest.revision, settings=settings_message(newest.settings))

    async def set_settings(
        self, request: monitoring_pb2.SetSettingsRequest, call: Call
    ) -> monitoring_pb2.SetSettingsResponse:
        """Replaces the settings whole.

        Raises:
            InvalidArgument: names the field that is out of bounds.
            Aborted: base_revision is not the newest.
            PermissionDenied: a handler uses a secret, a file or code that the file does not declare.
        """
        check_why(request.why)
        settings = read_settings(request.settings)
        # A caller that stops waiting does not leave a change half done.
        change = asyncio.ensure_future(self._change(settings, request.base_revision, call.tenant, request.why))
        revision = await in_time(asyncio.shield(change), call, longest_seconds=LONGEST_SECONDS)
        return monitoring_pb2.SetSettingsResponse(
            revision=revision.revision, settings=settings_message(revision.settings)
        )

    async def settings_history(
        self, request: monitoring_pb2.SettingsHistoryRequest, call: Call
    ) -> monitoring_pb2.SettingsHistoryResponse:
        """Gives who changed which settings when and why, newest first.

        Raises:
            InvalidArgument: the page's size or revision is out of bounds.
        """
        if request.page_size > MAX_PAGE:
            raise InvalidArgument("page_size", f"page_size must be at most {MAX_PAGE}")
        if request.before_revision < 0:
            raise InvalidArgument("before_revision", "before_revision must be at least 0")
        found = await in_time(
            self._store.history(before_revision=request.before_revision, limit=request.page_size or DEFAULT_PAGE),
            call,
            longest_seconds=LONGEST_SECONDS,
        )
        return monitoring_pb2.SettingsHistoryResponse(changes=[_change_message(revision) for revision in found])

    async def _change(self, settings: MonitoringSettings, base_revision: int, who: str, why: str) -> Revision:
        revision = await self._store.change(settings, base_revision=base_revision, who=who, why=why)
        await self._changed(revision.settings)
        return revision


def _change_message(revision: Revision) -> monitoring_pb2.SettingsChange:
    return monitoring_pb2.SettingsChange(
        revision=revision.revision,
        at_unix_us=revision.at_us,
        who=revision.who,
        why=revision.why,
        changes=revision.changes,
        settings=settings_message(revision.settings),
    )
