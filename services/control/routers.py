"""Which routers follow, what each of them applies, and how far behind it is. State only; the stream is elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import Connection, delete, insert, select

from services.control.fitting import Ready
from services.control.tables import ROUTER_STATUS
from turnout.v1 import experiment_pb2

REMEMBERED_US: Final = 24 * 3600 * 1_000_000
MAX_REMEMBERED: Final = 1000


@dataclass(frozen=True, slots=True)
class RouterState:
    """What is known of one router. `applied_version` is that of its newest acknowledgement, 0 before the first."""

    router: str
    applied_version: int = 0
    lag_us: int | None = None
    """From the storing of `applied_version` to its acknowledgement; None where that cannot be told."""
    refusal: str = ""
    """Why it refused the newest version that it was sent; empty when it did not."""
    heard_at_us: int = 0


class Routers:
    """The routers of the last 24 hours, and what those that are connected have ready.

    Args:
        now_us: microseconds since 1970-01-01T00:00Z.
    """

    def __init__(self, *, now_us: Callable[[], int]) -> None:
        self._now_us = now_us
        self._known: dict[str, RouterState] = {}
        self._ready: dict[str, Ready] = {}
        self.connected: set[str] = set()
        self.changed = False
        """Whether anything is new since `stored` was called."""

    def remember(self, states: Iterable[RouterState]) -> None:
        """Takes what was stored before this process began."""
        self._known = {state.router: state for state in states} | self._known

    def joined(self, router: str, applied_version: int) -> None:
        """A router began to watch; what it applies already, it applied at an instant that is not known."""
        self.connected.add(router)
        known = self._known.get(router, RouterState(router))
        lag_us = known.lag_us if known.applied_version == applied_version else None
        self._put(replace(known, applied_version=applied_version, lag_us=lag_us))

    def left(self, router: str) -> None:
        """A router's stream ended."""
        self.connected.discard(router)
        self._ready.pop(router, None)

    def heard(self, router: str) -> None:
        """A router said something."""
        self._put(self._known[router])

    def answered(self, router: str, applied_version: int, lag_us: int | None, refusal: str) -> None:
        """A router applied a set, or refused it."""
        known = self._known[router]
        kept = known.lag_us if known.applied_version == applied_version else None
        self._put(RouterState(router, applied_version, kept if lag_us is None else lag_us, refusal))

    def tells_ready(self, router: str, ready: Ready) -> None:
        """A router tells all the variants that it has ready."""
        self._ready[router] = ready
        self.heard(router)

    def ready(self) -> Ready | None:
        """Gives what at least one connected router has ready; None unless every connected router has told."""
        if not self._ready or self.connected - self._ready.keys():
            return None
        return frozenset().union(*self._ready.values())

    def statuses(self, version: int) -> list[experiment_pb2.RouterStatus]:
        """Gives every router by name; the lag only of those that apply the newest version."""
        found = []
        for state in self.recent():
            status = experiment_pb2.RouterStatus(
                router=state.router,
                connected=state.router in self.connected,
                applied_version=state.applied_version,
                refusal=state.refusal,
                heard_at_unix_us=state.heard_at_us,
            )
            if state.lag_us is not None and state.applied_version == version:
                status.lag_ms = state.lag_us / 1000
            found.append(status)
        return found

    def recent(self) -> Sequence[RouterState]:
        """Gives those that are connected and those of the last 24 hours, by name; forgets the others."""
        since = self._now_us() - REMEMBERED_US
        kept = [s for s in self._known.values() if s.router in self.connected or s.heard_at_us >= since]
        newest = sorted(kept, key=lambda s: (s.router in self.connected, s.heard_at_us))[-MAX_REMEMBERED:]
        self._known = {state.router: state for state in sorted(newest, key=lambda state: state.router)}
        return list(self._known.values())

    def _put(self, state: RouterState) -> None:
        self._known[state.router] = replace(state, heard_at_us=self._now_us())
        self.changed = True


def read_routers(connection: Connection) -> list[RouterState]:
    """Gives what was stored of the routers."""
    return [RouterState(*row) for row in connection.execute(select(ROUTER_STATUS))]


def write_routers(connection: Connection, states: Sequence[RouterState]) -> None:
    """Stores what is known of the routers in the place of what was known."""
    connection.execute(delete(ROUTER_STATUS))
    if states:
        rows = [
            {
                "router": state.router,
                "applied_version": state.applied_version,
                "lag_us": state.lag_us,
                "refusal": state.refusal,
                "heard_at_us": state.heard_at_us,
            }
            for state in states
        ]
        connection.execute(insert(ROUTER_STATUS), rows)
