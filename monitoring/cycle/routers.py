"""What routers told about their journals, for the books: started = stored + pending + set aside."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from turnout.v1 import ledger_pb2
from turnout.v1 import monitoring_pb2 as pb

MAX_ROUTERS: Final = 1000


@dataclass(frozen=True, slots=True)
class Told:
    """A router's last word."""

    journal: ledger_pb2.JournalStatus
    at_us: int


class RouterBook:
    """The last numbers of each router since the hub's start; the ones heard of longest ago make room."""

    def __init__(self) -> None:
        self._told: OrderedDict[str, Told] = OrderedDict()

    def tell(self, router: str, journal: ledger_pb2.JournalStatus, at_us: int) -> None:
        """Takes a router's numbers."""
        self._told[router] = Told(journal, at_us)
        self._told.move_to_end(router)
        if len(self._told) > MAX_ROUTERS:
            self._told.popitem(last=False)

    def entries(self) -> list[pb.RouterRecords]:
        """Gives one entry a router, by name."""
        return [
            pb.RouterRecords(
                router=router,
                started=told.journal.started,
                stored=told.journal.stored,
                pending=told.journal.pending,
                set_aside=told.journal.set_aside,
                last_shipped_unix_us=told.at_us,
            )
            for router, told in sorted(self._told.items())
        ]
