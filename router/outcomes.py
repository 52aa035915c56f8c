"""Takes outcomes: checks them, finds their decision, and puts them into the journal beside the decisions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from bentos.family import TargetKind
from router.deciding import Decider
from router.journal import Journal
from router.metrics import RouterMetrics
from router.recent import RecentDecisions
from services.runtime.errors import InvalidArgument, NotFound, TurnoutError
from services.runtime.identifiers import check_decision_id, is_id
from turnout.v1 import ledger_pb2, prediction_pb2

MAX_OUTCOMES: Final = 1000
LARGEST_VALUE: Final = 1e150
"""As the ledger's: squares of larger ones cannot be summed."""
_FUTURE_US: Final = 5 * 60 * 1_000_000

FindFamilies = Callable[[str, Sequence[str]], Awaitable[Sequence[str] | None]]
"""Asks the ledger for the families of a tenant's decisions ("" for an unknown one); None when the ledger is away."""


class Outcomes:
    """Takes outcomes for this router's decisions and, with the ledger's help, for any router's."""

    def __init__(
        self,
        decider: Decider,
        *,
        journal: Journal,
        recent: RecentDecisions,
        metrics: RouterMetrics,
        find: FindFamilies,
        wait_for_commit: bool,
        now_unix_ns: Callable[[], int],
    ) -> None:
        self._decider = decider
        self._journal = journal
        self._recent = recent
        self._metrics = metrics
        self._find = find
        self._wait_for_commit = wait_for_commit
        self._now_unix_ns = now_unix_ns

    async def record(
        self, tenant: str, requests: Sequence[prediction_pb2.RecordOutcomeRequest]
    ) -> list[prediction_pb2.RecordOutcomeResponse | TurnoutError]:
        """Takes a list of outcomes; each gets its own result, in their order.

        Raises:
            InvalidArgument: there are none or over 1 000.
        """
        if not 1 <= len(requests) <= MAX_OUTCOMES:
            raise InvalidArgument("outcomes", f"outcomes must be 1 to {MAX_OUTCOMES}, not {len(requests)}")
        families = await self._families(tenant, requests)
        now_us = self._now_unix_ns() // 1000
        results: list[prediction_pb2.RecordOutcomeResponse | TurnoutError] = []
        records: list[bytes] = []
        for request, family in zip(requests, families, strict=True):
            try:
                self._check(request, family, now_us)
            except TurnoutError as error:
                results.append(error)
                continue
            outcome = ledger_pb2.Outcome(
                decision_id=request.decision_id,
                tenant=tenant,
                value=request.value,
                occurred_at_unix_us=request.occurred_at_unix_us or now_us,
                recorded_at_unix_us=now_us,
                cost=request.cost if request.HasField("cost") else None,
            )
            records.append(ledger_pb2.JournalRecord(outcome=outcome).SerializeToString())
            results.append(prediction_pb2.RecordOutcomeResponse(durability=prediction_pb2.DURABILITY_PENDING))
            self._metrics.outcome(family or "unknown")
        if records:
            self._journal.append(records)
            if self._wait_for_commit and await self._journal.committed():
                for result in results:
                    if isinstance(result, prediction_pb2.RecordOutcomeResponse):
                        result.durability = prediction_pb2.DURABILITY_DURABLE
        return results

    async def _families(self, tenant: str, requests: Sequence[prediction_pb2.RecordOutcomeRequest]) -> list[str | None]:
        """Gives each decision's family: "" when nobody knows the decision, None when the ledger cannot be asked."""
        families: list[str | None] = [self._recent.family_of(tenant, request.decision_id) for request in requests]
        # An id that is wrong in itself is refused here; asked for, it would have the ledger refuse the whole list.
        unknown = [i for i, family in enumerate(families) if family is None and is_id(requests[i].decision_id)]
        if unknown:
            found = await self._find(tenant, [requests[index].decision_id for index in unknown])
            if found is not None:
                for index, family in zip(unknown, found, strict=True):
                    families[index] = family
        return families

    def _check(self, request: prediction_pb2.RecordOutcomeRequest, family: str | None, now_us: int) -> None:
        check_decision_id(request.decision_id)
        # NaN fails this comparison as well.
        if not abs(request.value) <= LARGEST_VALUE:
            raise InvalidArgument("value", f"value must be a finite number of at most {LARGEST_VALUE:g}")
        if not abs(request.cost) <= LARGEST_VALUE:
            raise InvalidArgument("cost", f"cost must be a finite number of at most {LARGEST_VALUE:g}")
        if not 0 <= request.occurred_at_unix_us <= now_us + _FUTURE_US:
            message = "occurred_at_unix_us must not be before 1970 and not over 5 minutes ahead"
            raise InvalidArgument("occurred_at_unix_us", message)
        if family == "":
            message = f"decision {request.decision_id!r} is not known; check the id, or try again if it is seconds old"
            raise NotFound("decision_id", message)
        # With the ledger away nobody can say whether the decision exists: it is taken, and joined when it turns up.
        route = self._decider.table.routes.get(family) if family else None
        if route is None:
            return
        target = route.family.target
        if target.kind is TargetKind.BINARY and request.value not in (0.0, 1.0):
            raise InvalidArgument("value", f"value must be 0 or 1 for the binary target {target.name!r}")
