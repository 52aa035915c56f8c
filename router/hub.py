"""The router's link to the hub's ledger: ships journal records and asks for decisions. The hub may be away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import grpc

from router.accounts import JournalStatus
from router.shipping import Refused
from turnout.v1 import ledger_pb2

_SERVICE: Final = "/turnout.v1.LedgerService"
_OPTIONS: Final = (
    ("grpc.max_send_message_length", 16 << 20),
    # A whole set of experiments, which the hub keeps under 8 MiB.
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
_SHIP_SECONDS: Final = 10.0
_CONTENT: Final = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE)
"""The hub says that the records themselves are at fault."""
_PERHAPS_CONTENT: Final = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS)
"""The hub failed on these records; whether on others too is for the shipper to find out."""
_FIND_SECONDS: Final = 1.0


class HubLedger:
    """The LedgerService of the hub."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        router: str,
        token: str | None,
        journal: Callable[[], JournalStatus] | None = None,
    ) -> None:
        """Binds the calls; `journal` gives the numbers that travel with every batch."""
        self._router = router
        self._journal = journal
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._append = channel.unary_unary(
            f"{_SERVICE}/AppendRecords",
            request_serializer=ledger_pb2.AppendRecordsRequest.SerializeToString,
            response_deserializer=ledger_pb2.AppendRecordsResponse.FromString,
        )
        self._find = channel.unary_unary(
            f"{_SERVICE}/FindDecisions",
            request_serializer=ledger_pb2.FindDecisionsRequest.SerializeToString,
            response_deserializer=ledger_pb2.FindDecisionsResponse.FromString,
        )

    async def ship(self, records: Sequence[bytes]) -> int:
        """Stores records in the ledger; gives how many it set aside.

        Raises:
            Refused: the ledger answers, and takes none of them.
            ConnectionError: the ledger did not confirm them; it is away, busy, or wants another credential.
        """
        request = ledger_pb2.AppendRecordsRequest(records=records, router=self._router)
        if self._journal is not None:
            now = self._journal()
            request.journal.started, request.journal.stored = now.started, now.stored
            request.journal.pending, request.journal.set_aside = now.pending, now.set_aside
            request.journal.missing, request.journal.held = now.missing, now.held
        try:
            reply: ledger_pb2.AppendRecordsResponse = await self._append(
                request, timeout=_SHIP_SECONDS, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            code = error.code()
            if code in _CONTENT or code in _PERHAPS_CONTENT:
                raise Refused(code.name, definite=code in _CONTENT) from error
            raise ConnectionError(code.name) from error
        return int(reply.set_aside)

    async def find(self, tenant: str, decision_ids: Sequence[str]) -> Sequence[str] | None:
        """Gives the family of each decision, "" for an unknown one; None when the ledger is away."""
        request = ledger_pb2.FindDecisionsRequest(tenant=tenant, decision_ids=decision_ids)
        try:
            reply: ledger_pb2.FindDecisionsResponse = await self._find(
                request, timeout=_FIND_SECONDS, metadata=self._metadata
            )
        except grpc.aio.AioRpcError:
            return None
        return list(reply.families)


def hub_channel(address: str) -> grpc.aio.Channel:
    """Opens the channel to the hub; it connects by itself when the hub is there."""
    return grpc.aio.insecure_channel(address, options=_OPTIONS)
