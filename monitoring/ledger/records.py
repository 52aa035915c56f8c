"""Turns raw journal records into rows, or into a reason why not. Pure: no database, no clock."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from google.protobuf.message import DecodeError

from monitoring.ledger.cells import Cell, population
from monitoring.ledger.rows import Batch, DecisionRow, Features, OutcomeRow, Refused, ShadowRow, SnapshotRow
from monitoring.ledger.tables import to_signed
from services.runtime.errors import InvalidArgument
from services.runtime.identifiers import MAX_TEXT, check_decision_id
from turnout.v1 import ledger_pb2

MAX_RECORD_BYTES: Final = 1 << 20
"""A decision has at most 512 features of 4 bytes and a few texts of 1 KiB; the snapshot of an experiment is larger."""
MAX_CANONICAL_BYTES: Final = 1_000_000
"""As large as the control plane lets an experiment be: a decision whose experiment is not stored cannot be replayed."""
LAST_US: Final = 253_402_300_799_999_999
"""The end of the year 9999: no calendar has a name for what comes after."""
MAX_LABEL: Final = 63
LARGEST: Final = 1e150
"""Largest magnitude of a prediction, an outcome or a cost: their squares and products must be numbers too."""
_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,62}")


class _Damaged(Exception):
    """Why a record cannot be stored."""


def read_batch(raws: Sequence[bytes]) -> Batch:
    """Decodes and checks each record; a damaged one lands in `refused` and does not touch the rest."""
    batch = Batch()
    parse = ledger_pb2.JournalRecord.FromString
    for raw in raws:
        if len(raw) > MAX_RECORD_BYTES:
            batch.refused.append(Refused(raw, f"the record has over {MAX_RECORD_BYTES} bytes"))
            continue
        try:
            record = parse(raw)
            match record.WhichOneof("record"):
                case "decision":
                    decision = record.decision
                    batch.decisions.append(read_decision(decision))
                    batch.cells.append(cell_of(decision))
                    batch.features.append(features_of(decision))
                case "outcome":
                    batch.outcomes.append(_outcome(record.outcome))
                case "snapshot":
                    batch.snapshots.append(_snapshot(record.snapshot))
                case "shadow_answer":
                    batch.shadows.append(read_shadow_answer(record.shadow_answer))
                case _:
                    batch.refused.append(Refused(raw, "the record is of no kind that the ledger stores"))
        except DecodeError:
            batch.refused.append(Refused(raw, "the bytes are not a turnout.v1.JournalRecord"))
        except _Damaged as error:
            batch.refused.append(Refused(raw, str(error)))
        except InvalidArgument as error:
            batch.refused.append(Refused(raw, error.message))
    return batch


def cell_of(decision: ledger_pb2.Decision) -> Cell:
    """Gives the cell of a decision that was checked."""
    prediction = decision.prediction
    assignment = prediction.assignment
    family = decision.family
    return Cell(
        family,
        assignment.experiment or family,
        assignment.arm,
        prediction.served_variant,
        decision.tenant,
        population(assignment),
    )


def features_of(decision: ledger_pb2.Decision) -> Features:
    """Gives the features of a decision."""
    return Features(
        decision.family,
        decision.prediction.served_variant,
        decision.schema_digest,
        decision.assigned_at_unix_us,
        decision.features,
    )


def read_decision(decision: ledger_pb2.Decision) -> DecisionRow:
    """Checks a decision and gives its row; see `read_batch` for what becomes of a damaged one."""
    decision_id = decision.decision_id
    prediction = decision.prediction
    assignment = prediction.assignment
    tenant, family, arm, served = decision.tenant, decision.family, assignment.arm, prediction.served_variant
    check_decision_id(decision_id)
    _check_labels(tenant, family, arm, served)
    if assignment.experiment and not _LABEL.fullmatch(assignment.experiment):
        raise _Damaged("prediction.assignment.experiment must be at most 63 characters of [A-Za-z0-9_.-]")
    value, confidence, propensity = prediction.value, prediction.confidence, assignment.propensity
    if prediction.decision_id != decision_id:
        raise _Damaged("prediction.decision_id differs from decision_id")
    if not -LARGEST <= value <= LARGEST:
        raise _Damaged(f"prediction.value is not a number of at most {LARGEST:g}")
    if not 0.0 <= confidence <= 1.0:
        raise _Damaged("prediction.confidence is not in [0, 1]")
    if not (0.0 < propensity <= 1.0 or (propensity == 0.0 and not arm)):
        raise _Damaged("prediction.assignment.propensity is not in (0, 1]")
    _check_instant("assigned_at_unix_us", decision.assigned_at_unix_us)
    if len(decision.request_digest) not in (0, 16):
        raise _Damaged("request_digest has neither 0 nor 16 bytes")
    return DecisionRow(
        tenant,
        decision_id,
        family,
        decision.assigned_at_unix_us,
        arm,
        served,
        prediction.fallback,
        value,
        confidence,
        propensity,
        assignment.revision,
        to_signed(assignment.snapshot_digest),
        to_signed(assignment.sequence),
        decision.latency_us,
        decision.request_digest,
        decision.SerializeToString(),
    )


def _check_instant(name: str, at_us: int) -> None:
    if not 0 <= at_us <= LAST_US:
        raise _Damaged(f"{name} is under 0 or after the year 9999")


def _check_labels(tenant: str, family: str, arm: str, served: str) -> None:
    # Names that are too long never reach the cache, so that it stays small.
    if len(tenant) + len(family) + len(arm) + len(served) > 4 * MAX_LABEL:
        raise _Damaged(f"tenant, family, arm and served_variant must be at most {MAX_LABEL} characters each")
    fault = _labels_fault(tenant, family, arm, served)
    if fault:
        raise _Damaged(fault)


@lru_cache(maxsize=4096)
def _labels_fault(tenant: str, family: str, arm: str, served: str) -> str:
    """Says what is wrong with the names of a decision, empty for nothing; the same few come again and again."""
    if not _LABEL.fullmatch(tenant):
        return "tenant must be 1 to 63 characters of [A-Za-z0-9_.-]"
    if not _LABEL.fullmatch(family):
        return "family must be 1 to 63 characters of [A-Za-z0-9_.-]"
    if arm and not _LABEL.fullmatch(arm):
        return "prediction.assignment.arm must be at most 63 characters of [A-Za-z0-9_.-]"
    if not _LABEL.fullmatch(served):
        return "prediction.served_variant must be 1 to 63 characters of [A-Za-z0-9_.-]"
    return ""


def _outcome(outcome: ledger_pb2.Outcome) -> OutcomeRow:
    check_decision_id(outcome.decision_id)
    _check_labels(outcome.tenant, "outcome", "", "outcome")
    if not -LARGEST <= outcome.value <= LARGEST:
        raise _Damaged(f"value is not a number of at most {LARGEST:g}")
    cost = outcome.cost if outcome.HasField("cost") else None
    if cost is not None and not -LARGEST <= cost <= LARGEST:
        raise _Damaged(f"cost is not a number of at most {LARGEST:g}")
    _check_instant("occurred_at_unix_us", outcome.occurred_at_unix_us)
    _check_instant("recorded_at_unix_us", outcome.recorded_at_unix_us)
    return OutcomeRow(
        outcome.tenant,
        outcome.decision_id,
        outcome.recorded_at_unix_us,
        outcome.occurred_at_unix_us,
        outcome.value + 0.0,  # −0 and 0 are the same outcome
        None if cost is None else cost + 0.0,
    )


def read_shadow_answer(answer: ledger_pb2.ShadowAnswer) -> ShadowRow:
    """Checks a shadow's answer and gives its row; see `read_batch` for what becomes of a damaged one."""
    check_decision_id(answer.decision_id)
    _check_labels(answer.tenant, answer.family, answer.variant, answer.served_variant)
    for name in ("experiment", "variant"):
        if not _LABEL.fullmatch(getattr(answer, name)):
            raise _Damaged(f"{name} must be 1 to 63 characters of [A-Za-z0-9_.-]")
    if len(answer.model_version) > MAX_TEXT:
        raise _Damaged(f"model_version must be at most {MAX_TEXT} characters")
    for name in ("value", "told_value"):
        if not -LARGEST <= getattr(answer, name) <= LARGEST:
            raise _Damaged(f"{name} is not a number of at most {LARGEST:g}")
    for name in ("confidence", "told_confidence"):
        if not 0.0 <= getattr(answer, name) <= 1.0:
            raise _Damaged(f"{name} is not in [0, 1]")
    _check_instant("assigned_at_unix_us", answer.assigned_at_unix_us)
    if answer.failure < 0:
        raise _Damaged("failure must be at least 0")
    return ShadowRow(
        answer.tenant,
        answer.decision_id,
        answer.variant,
        answer.family,
        answer.assigned_at_unix_us,
        answer.failure,
        answer.value,
        answer.told_value,
        answer.SerializeToString(),
    )


def _snapshot(snapshot: ledger_pb2.ExperimentSnapshot) -> SnapshotRow:
    _check_labels("snapshot", snapshot.family, "", "snapshot")
    text = snapshot.canonical_json.encode()
    if len(text) > MAX_CANONICAL_BYTES or b"\0" in text:
        raise _Damaged(f"canonical_json must be text of at most {MAX_CANONICAL_BYTES} bytes")
    if int.from_bytes(hashlib.sha256(text).digest()[:8], "big") != snapshot.digest:
        raise _Damaged("digest is not the one of canonical_json")
    _check_instant("applied_at_unix_us", snapshot.applied_at_unix_us)
    if len(snapshot.router) > MAX_TEXT or "\0" in snapshot.router:
        raise _Damaged(f"router must be text of at most {MAX_TEXT} bytes")
    return SnapshotRow(
        snapshot.family,
        to_signed(snapshot.digest),
        snapshot.revision,
        snapshot.canonical_json,
        snapshot.applied_at_unix_us,
        snapshot.router,
    )
