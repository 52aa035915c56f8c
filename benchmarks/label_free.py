"""Estimates without labels, held against what the labels then said: real records and simulated calls, played back.

Run as `python -m benchmarks.label_free`. A model is trained on the older decisions. The newer ones go through a real
ledger with its monitors and check cycle, half of the units to the model and half to the rules, 1 000 a day; outcomes
arrive a day late. Each midnight Validation is asked about the last 24 hours, of which no outcome is known yet; its
answer is held against the outcomes themselves. Then the same with a planted change.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmarks.monitoring import a_cycle
from bentos.family import Family, Record, load
from monitoring.cycle.calls import CycleCalls
from monitoring.cycle.routers import RouterBook
from monitoring.ledger.levels import DAY_US
from services.dispatch.history import history
from services.dispatch.synthetic import synthetic_city
from services.training.dataset import Dataset, encode
from services.training.inference import Graph
from services.training.pipeline import rules_answers, train
from turnout.v1 import ledger_pb2, monitoring_pb2, prediction_pb2

RECORDS: Final = Path(__file__).resolve().parents[2] / "shared" / "data" / "sf_fire_calls" / "sf_fire_calls.csv.gz"
VARIANT: Final = "xgboost"
ARMS: Final = (VARIANT, "rules")
A_DAY: Final = 1000
DAYS: Final = 20
CHANGE: Final = 12
"""The planted change begins with this day."""
MEASURES: Final = ("accuracy", "auc", "brier")
START_US: Final = 1_700_000_000_000_000 // DAY_US * DAY_US


@dataclass(frozen=True)
class Stream:
    """Decisions in order: rows [n, f], what model and rules say [n] each, and outcomes [n]."""

    rows: NDArray[np.float32]
    said: dict[str, NDArray[np.float64]]
    outcomes: NDArray[np.float64]

    def of(self, places: NDArray[np.int64]) -> Stream:
        """Gives some of the decisions."""
        said = {arm: values[places] for arm, values in self.said.items()}
        return Stream(self.rows[places], said, self.outcomes[places])


class Day(NamedTuple):
    """What was said of one arm at the end of a day, and what its labels then said."""

    day: int
    arm: str
    quality: monitoring_pb2.VariantQuality
    realised: dict[str, float]


def learnt(family: Family, records: Iterator[Record], *, newest: int) -> Stream:
    """Trains on all but the newest decisions, and gives what is said to these."""
    taken = list(records)
    past, rest = taken[:-newest], taken[-newest:]
    (trained,) = train(family, past, variants=[VARIANT], seed=7)
    data: Dataset = encode(family, rest)
    said = {VARIANT: Graph(trained.onnx).run(data.features), "rules": rules_answers(family, data.features)}
    return Stream(data.features, {arm: np.clip(v, 0.0, 1.0) for arm, v in said.items()}, data.outcomes)


def unchanged(stream: Stream) -> Stream:
    """Plants nothing."""
    return stream


def another_concept(stream: Stream) -> Stream:
    """From the day of the change on three of ten outcomes are turned: P(y|x) changes and P(x) does not."""
    turned = np.random.default_rng(5).random(len(stream.outcomes)) < 0.3
    turned[: CHANGE * A_DAY] = False
    return replace(stream, outcomes=np.where(turned, 1 - stream.outcomes, stream.outcomes))


def other_calls(stream: Stream) -> Stream:
    """Until the change only calls that the model finds easy, afterwards only others: scores that have no labels."""
    score = stream.said[VARIANT]
    hard = score < np.quantile(score, 1 - CHANGE / DAYS)
    return stream.of(np.concatenate((np.flatnonzero(~hard), np.flatnonzero(hard))))


class _Operator:
    """A call of somebody who waits as long as it takes."""

    tenant = "operators"
    peer = "here"

    def metadata(self) -> Mapping[str, str]:
        return {}

    def time_left(self) -> float | None:
        return None


async def play(family: Family, stream: Stream) -> list[Day]:
    """Plays decisions through a ledger, and asks about each day before its outcomes are known."""
    clock = [START_US]
    days: list[Day] = []
    with tempfile.TemporaryDirectory() as name:
        async with a_cycle(Path(name), family, now_us=lambda: clock[0]) as running:
            calls = CycleCalls(running.cycle, RouterBook(), now_us=lambda: clock[0])
            late: list[bytes] = []
            for day in range(min(DAYS, len(stream.outcomes) // A_DAY)):
                places = np.arange(day * A_DAY, (day + 1) * A_DAY)
                decisions, outcomes = _records(family, stream, places)
                clock[0] = START_US + (day + 1) * DAY_US
                await running.store.append(late, "router-1")
                await running.store.append(decisions, "router-1")
                late = outcomes
                await running.cycle.once()
                request = monitoring_pb2.ValidationRequest(family=family.name, window_seconds=86_400)
                reply = await calls.validation(request, _Operator())
                for one in reply.variants:
                    mine = places[places % 2 == ARMS.index(one.arm)]
                    days.append(Day(day, one.arm, one, realised(stream.said[one.arm][mine], stream.outcomes[mine])))
    return days


def realised(said: NDArray[np.float64], outcomes: NDArray[np.float64]) -> dict[str, float]:
    """Gives what the labels say, computed from the decisions themselves; no AUC of one class."""
    found = {
        "accuracy": float(((said >= 0.5) == (outcomes == 1.0)).mean()),
        "brier": float(((said - outcomes) ** 2).mean()),
    }
    if 0.0 < outcomes.mean() < 1.0:
        found["auc"] = float(roc_auc_score(outcomes, said))
    return found


def _records(family: Family, stream: Stream, places: NDArray[np.int64]) -> tuple[list[bytes], list[bytes]]:
    decisions, outcomes = [], []
    for place in places.tolist():
        arm = ARMS[place % 2]
        value = float(stream.said[arm][place])
        name = f"d-{place:08d}"
        at_us = START_US + place * DAY_US // A_DAY
        decision = ledger_pb2.Decision(
            decision_id=name,
            tenant="north",
            family=family.name,
            unit_id=f"incident-{place}",
            assigned_at_unix_us=at_us,
            features=stream.rows[place].astype("<f4").tobytes(),
            schema_digest=family.schema.digest,
            latency_us=1500,
            prediction=prediction_pb2.PredictResponse(
                decision_id=name,
                value=value,
                confidence=family.confidence(value),
                served_variant=arm,
                model_version="1",
                assignment=prediction_pb2.Assignment(arm=arm, propensity=0.5, revision=1),
            ),
        )
        outcome = ledger_pb2.Outcome(
            decision_id=name,
            tenant="north",
            value=float(stream.outcomes[place]),
            occurred_at_unix_us=at_us + DAY_US,
            recorded_at_unix_us=at_us + DAY_US,
        )
        decisions.append(ledger_pb2.JournalRecord(decision=decision).SerializeToString())
        outcomes.append(ledger_pb2.JournalRecord(outcome=outcome).SerializeToString())
    return decisions, outcomes


def table(days: Sequence[Day]) -> Iterator[str]:
    """Gives one row an arm and measure: what was estimated, what came true, and how often the interval held it."""
    yield "| arm | measure | days with an estimate | estimated, mean | realised, mean | mean distance | held |"
    yield "|---|---|---|---|---|---|---|"
    for arm in ARMS:
        mine = [one for one in days if one.arm == arm]
        valid = [one for one in mine if one.quality.estimate.valid]
        for name in MEASURES:
            pairs = [(_named(one, name), one.realised[name]) for one in valid if name in one.realised]
            if not pairs:
                yield f"| {arm} | {name} | 0 of {len(mine)} | – | – | – | – |"
                continue
            estimated = statistics.fmean(e.value for e, _ in pairs)
            came = statistics.fmean(r for _, r in pairs)
            distance = statistics.fmean(abs(e.value - r) for e, r in pairs)
            held = sum(e.low <= r <= e.high for e, r in pairs)
            count = f"{len(pairs)} of {len(mine)}"
            numbers = f"{estimated:.3f} | {came:.3f} | {distance:.3f}"
            yield f"| {arm} | {name} | {count} | {numbers} | {held} of {len(pairs)} |"


def story(days: Sequence[Day], arm: str, first: int) -> Iterator[str]:
    """Gives what was said of an arm's accuracy day by day."""
    yield "| day | estimated accuracy | realised | why there is no estimate |"
    yield "|---|---|---|---|"
    for one in days:
        if one.arm != arm or one.day < first:
            continue
        estimate = one.quality.estimate
        said = "–"
        if estimate.valid:
            found = _named(one, "accuracy")
            said = f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
        yield f"| {one.day} | {said} | {one.realised['accuracy']:.3f} | {estimate.reason} |"


def _named(one: Day, name: str) -> monitoring_pb2.Measure:
    return next(measure for measure in one.quality.estimate.measures if measure.name == name)


def sources(family: Family) -> Iterator[tuple[str, Stream]]:
    """Gives the streams: San Francisco's calls where the file is there, and simulated calls."""
    newest = DAYS * A_DAY
    if RECORDS.exists() and family.read_records is not None:
        records = family.read_records(RECORDS, lambda _done, _all: None)
        yield "San Francisco", learnt(family, records, newest=newest)
    calls = history(synthetic_city(seed=1), seed=1, calls=3 * newest)
    yield "simulated calls", learnt(family, calls, newest=newest)


PLANTED: Final[tuple[tuple[str, Callable[[Stream], Stream]], ...]] = (
    ("as it was", unchanged),
    ("another concept", another_concept),
    ("other calls", other_calls),
)


def main() -> None:
    """Prints the tables of docs/validation.md."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    family = load("dispatch")
    for name, stream in sources(family):
        for what, plant in PLANTED:
            days = asyncio.run(play(family, plant(stream)))
            parts = [f"{name}, {what}", "", *table(days)]
            if plant is not unchanged:
                parts += ["", *story(days, VARIANT, CHANGE - 2)]
            sys.stdout.write("\n".join(parts) + "\n\n")


if __name__ == "__main__":
    main()
