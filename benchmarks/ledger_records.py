"""Journal records as routers write them: decisions of the dispatch family, with all of its features."""

from __future__ import annotations

import random
from collections.abc import Iterator

from bentos.family import load
from turnout.v1 import ledger_pb2, prediction_pb2

FAMILY = "dispatch"
TENANTS = ("north", "south", "east", "west")
ARMS = ("xgboost", "lightgbm", "rules")


def decision_id(number: int) -> str:
    """Gives an id of the length of a UUID; ids rise with time, as those of UUIDv7 do."""
    return f"{number:012x}-7000-8000-000000000000"


def tenant(number: int) -> str:
    """Gives the tenant of a decision."""
    return TENANTS[number % len(TENANTS)]


def decisions(seed: int, first: int, count: int, *, start_us: int, every_us: float) -> Iterator[bytes]:
    """Gives serialized records of decisions, one each `every_us` microseconds from `start_us` on."""
    chance = random.Random(seed)
    schema = load(FAMILY).schema
    width = len(schema)
    severity = schema.names.index("severity")
    types = schema.names.index("call_type") if "call_type" in schema.names else None
    for number in range(first, first + count):
        row = [chance.gauss(10.0, 3.0) for _ in range(width)]
        row[severity] = float(chance.randint(1, 5))
        if types is not None:
            row[types] = float(chance.randrange(10))
        if chance.random() < 0.02:
            row[chance.randrange(1, width)] = float("nan")
        arm = chance.choice(ARMS)
        lost = arm != "rules" and chance.random() < 0.02
        value = chance.random()
        yield _record(number, row, arm, value, chance, at=round(start_us + (number - first) * every_us), lost=lost)


def _record(
    number: int, row: list[float], arm: str, value: float, chance: random.Random, *, at: int, lost: bool
) -> bytes:
    schema = load(FAMILY).schema
    timeout, answered = prediction_pb2.FALLBACK_REASON_TIMEOUT, prediction_pb2.FALLBACK_REASON_UNSPECIFIED
    decision = ledger_pb2.Decision(
        decision_id=decision_id(number),
        tenant=tenant(number),
        family=FAMILY,
        unit_id=f"incident-{number}",
        region="centre",
        assigned_at_unix_us=at,
        features=schema._struct.pack(*row),  # noqa: SLF001 - rows need no check here
        schema_digest=schema.digest,
        latency_us=round(chance.lognormvariate(8.0, 0.5)),
        request_digest=chance.randbytes(16),
        router="router-1",
        prediction=prediction_pb2.PredictResponse(
            decision_id=decision_id(number),
            value=value,
            confidence=max(value, 1 - value),
            level="medium",
            served_variant="rules" if lost else arm,
            model_version=f"{FAMILY}-{arm}:k3jd92hf73hd",
            fallback=timeout if lost else answered,
            durability=prediction_pb2.DURABILITY_PENDING,
            assignment=prediction_pb2.Assignment(
                arm=arm,
                propensity=1 / 3,
                reason=prediction_pb2.ASSIGNMENT_REASON_HASH,
                revision=7,
                snapshot_digest=0x1234567890ABCDEF,
                experiment=FAMILY,
            ),
        ),
    )
    return ledger_pb2.JournalRecord(decision=decision).SerializeToString()


def outcomes(seed: int, first: int, count: int, *, at_us: int) -> Iterator[bytes]:
    """Gives serialized records of the outcomes of these decisions, in another order."""
    chance = random.Random(seed)
    numbers = list(range(first, first + count))
    chance.shuffle(numbers)
    for number in numbers:
        outcome = ledger_pb2.Outcome(
            decision_id=decision_id(number),
            tenant=tenant(number),
            value=float(chance.random() < 0.7),
            occurred_at_unix_us=at_us,
            recorded_at_unix_us=at_us + number,
            cost=round(chance.expovariate(0.1), 2),
        )
        yield ledger_pb2.JournalRecord(outcome=outcome).SerializeToString()
